"""Checkpoints: whatever ends or fails in between, nothing is lost, twice, or left of the erased."""

import asyncio
import contextlib
import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aggregator import shard as shard_module
from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.event import Event
from aggregator.messages import Done, ProgressQuery, Reply, UserQuery
from aggregator.reference import Reference
from aggregator.shard import Shard
from persistence import log, snapshot
from persistence.errors import DamagedError, NotWritableError
from persistence.log import Record
from persistence.store import Store
from tests import facts
from tests.comparison import facts_of_reference, facts_of_state
from tests.disk import KilledError, failing_at, files_with, never_syncing
from tests.shards import (
    NOW_MS,
    Clock,
    ask,
    crash,
    export_pages,
    facts_kept,
    order,
    send,
    settings_of,
    stats_of,
    watch,
)

#: Found in no file by chance.
GONE = "gone-7f3a"
DAY_MS = 86_400_000


def open_shard(folder: Path, clock: Clock | None = None, **changes: Any) -> Shard:
    return Shard(settings_of(folder, segment_bytes=2_000, **changes), clock or Clock())


async def live(shard: Shard, clock: Clock) -> tuple[Reply, Reply]:
    """Leaves traces of a user everywhere; then the user is erased. Returns the last replies."""
    await send(shard, 1, watch(GONE, "m", 0, 100) + watch("stays", "m", 0, 50))
    await send(shard, 2, [Event(GONE, "n", 1.0, session="tv", id="x"), Event("stays", "n", 2.0)])
    await order(shard, 1, SetPosition(GONE, "m", 5_000), Hide("stays", "m"))
    await shard.checkpoint()
    clock.now_ms += DAY_MS
    await send(shard, 3, [*watch("stays", "o", 0, 200, 5), Event(GONE, f"only-{GONE}", 1.0)])
    await order(shard, 2, MarkCompleted("stays", "m"), Describe("m", 100_000, "Title"))
    await shard.checkpoint()
    clock.now_ms += DAY_MS
    for sequence in range(4, 9):
        clock.now_ms += DAY_MS // 4 * (sequence % 2)
        await send(shard, sequence, [Event(GONE, "m", 7.0), *watch("stays", "m", 0, 30)])
    again = [Event(GONE, "n", 1.0, id="x"), Event("stays", "n", 9.0, id="y")]
    applied = await send(shard, 9, [*again, Event("stays", "n", 9.0, id="y")])
    done = await order(
        shard,
        3,
        SetPosition("stays", "m", 1_000, if_versions=[1]),
        Hide("nobody", "m"),
        UnmarkCompleted("stays", "m"),
        Erase(GONE),
        Erase("stays", "o"),
    )
    return applied, done


def leave_a_torn_tail(shard: Shard) -> None:
    """As a crash does in the middle of an append."""
    segment = log.segments(shard._folders.log)[-1]
    record = Record(999, NOW_MS, 1, 99, f'["{GONE}"]'.encode() * 20)
    with segment.open("ab") as file:
        file.write(record.encode(9)[:-1])


class Life:
    """A folder in which much has happened, and what must be found there whatever comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()

        async def run() -> None:
            shard = open_shard(folder / "0", self.clock)
            self.applied, self.done = await live(shard, self.clock)
            self.state = facts_of_state(shard._state)
            self.kept = facts_kept(shard).to_pylist()
            leave_a_torn_tail(shard)
            crash(shard)

        asyncio.run(run())
        self.last_sequence = 12

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "0", self.folder / name))

    async def check(self, shard: Shard) -> None:
        """All is there, each fact once, and what was answered is answered again."""
        assert facts_of_state(shard._state) == self.state
        assert facts_kept(shard).to_pylist() == self.kept
        events = [Event("any", "thing", 1.0)]
        assert await send(shard, 9, events) == self.applied
        assert await order(shard, 3, Hide("any", "thing")) == self.done
        if not shard._erasing:
            assert files_with(self.folder_of(shard), GONE) == []

    def folder_of(self, shard: Shard) -> Path:
        return shard._folders.log.parent.parent

    async def finish(self, shard: Shard) -> None:
        """A checkpoint completes, and what is found at the next start is the same."""
        await self.check(shard)
        await shard.checkpoint()
        folder = self.folder_of(shard)
        assert (await stats_of(shard)).snapshot_sequence == self.last_sequence
        assert not [*folder.rglob("*.tmp"), *folder.rglob("*.broken")]
        crash(shard)
        again = open_shard(folder, self.clock)
        assert again.recovered.split(", ")[1] == "0 from the log"
        assert not again._erasing
        await self.check(again)
        crash(again)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with never_syncing():
        yield Life(tmp_path_factory.mktemp("life"))


def test_what_a_life_leaves(life: Life) -> None:
    """Else the tests below would have nothing to find."""
    folder = life.copy("traces")
    shard = open_shard(folder, life.clock)
    found = {path.relative_to(folder).parts[:2] for path in files_with(folder, GONE)}
    assert {parts[0] for parts in found} == {"shard-0000", "events"}
    assert {parts[1] for parts in found} >= {"log", "snapshots"}
    assert len(log.broken_tails(folder / "shard-0000" / "log")) == 1
    assert len({fact["received_ms"] // DAY_MS for fact in life.kept}) == 4
    rebuilt = Reference()
    for fact in life.kept:
        row = {name: fact[name] for name in fact if name not in ("sequence", "index")}
        facts.apply(rebuilt, facts.Fact(**row))
    assert facts_of_reference(rebuilt) == life.state
    crash(shard)


def test_killed_at_any_step(life: Life) -> None:
    async def run(step: int) -> bool:
        folder = life.copy(f"killed-{step}")
        shard = open_shard(folder, life.clock)
        with failing_at(step, KilledError()) as failing, contextlib.suppress(KilledError):
            await shard.checkpoint()
        if failing.happened:
            crash(shard)
            shard = open_shard(folder, life.clock)
        await life.finish(shard)
        shutil.rmtree(folder)
        return failing.happened

    steps = next(step for step in count(1) if not asyncio.run(run(step)))
    assert steps > 50


#: The parts of a checkpoint, in order.
PARTS: list[tuple[Any, str]] = [
    (log.Log, "rotate"),
    (Store, "archive"),
    (Store, "purge"),
    (snapshot, "write"),
    (snapshot, "prune"),
    (log, "drop_before"),
    (log, "drop_broken_tails"),
]


def killed_after(part: int, folder: Path, clock: Clock) -> None:
    """A shard makes a checkpoint, and ends after that part of it."""

    async def run() -> None:
        shard = open_shard(folder, clock)
        owner, name = PARTS[part]
        real = getattr(owner, name)

        def end(*arguments: Any, **named: Any) -> None:
            real(*arguments, **named)
            raise KilledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, end)
            with pytest.raises(KilledError):
                await shard.checkpoint()
        crash(shard)

    asyncio.run(run())


@pytest.mark.parametrize("part", range(len(PARTS)), ids=lambda part: PARTS[part][1])
def test_killed_at_any_step_of_the_recovery_after_it(life: Life, part: int) -> None:
    async def run(folder: Path, step: int) -> bool:
        with failing_at(step, KilledError()) as failing, contextlib.suppress(KilledError):
            shard = open_shard(folder, life.clock)
        if not failing.happened:
            await life.finish(shard)
        return failing.happened

    folder = life.copy(f"recovered-{part}")
    killed_after(part, folder, life.clock)
    steps = next(step for step in count(1) if not asyncio.run(run(folder, step)))
    assert steps > 1


def test_a_disk_that_fails_at_any_step(life: Life) -> None:
    """The checkpoint is given up, whatever failed; the next one does all of it."""

    async def run(step: int) -> bool:
        folder = life.copy(f"failed-{step}")
        shard = open_shard(folder, life.clock)
        with failing_at(step, OSError(errno.ENOSPC, "No space left on device")) as failing:
            await shard.checkpoint()
        assert (await stats_of(shard)).erasing == (2 if failing.happened else 0)
        assert not [*folder.rglob("*.tmp")]
        await life.finish(shard)
        shutil.rmtree(folder)
        return failing.happened

    # Between two files of a snapshot nothing is new: every third step sees all there is.
    steps = next(step for step in count(1, 3) if not asyncio.run(run(step)))
    assert steps > 50


# Erasing


async def poll(shard: Shard, done: Callable[[], bool]) -> None:
    """Waits for what the shard does by itself."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (await stats_of(shard)).writable


def is_final(shard: Shard) -> bool:
    return not shard._erasing and not files_with(shard._folders.log.parent.parent, GONE)


def test_an_erase_makes_itself_final(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path, erase_delay_s=0.05)
        await send(shard, 1, [Event(GONE, "m", 1.0), Event("u", "m", 1.0)])
        await shard.checkpoint()
        await order(shard, 1, Erase(GONE))
        assert files_with(tmp_path, GONE)
        await poll(shard, lambda: is_final(shard))
        assert (await stats_of(shard)).snapshot_sequence == 2
        await shard.close()

    asyncio.run(run())


def test_an_erase_makes_itself_final_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event(GONE, "m", 1.0)])
        await order(shard, 1, Erase(GONE))
        crash(shard)
        shard = open_shard(tmp_path, erase_delay_s=0.05)
        assert (await stats_of(shard)).erasing == 1
        shard.start()
        await poll(shard, lambda: is_final(shard))
        await shard.close()

    asyncio.run(run())


def test_closing_makes_an_erase_final(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event(GONE, "m", 1.0), Event("u", "m", 1.0)])
        await order(shard, 1, Erase(GONE))
        await shard.close()
        assert files_with(tmp_path, GONE) == []
        assert files_with(tmp_path, "u")

    asyncio.run(run())


def test_stats_tell_what_is_being_erased(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Clock()
        shard = open_shard(tmp_path, clock)
        await send(shard, 1, watch("a", "m", 0, 20) + watch("b", "m", 0, 20))
        await send(shard, 2, [Event("b", "m", 5.0, session="tv"), Event("c", "n", 1.0)])
        before = await stats_of(shard)
        assert (before.erasing, before.erasing_since_ms) == (0, None)
        assert (before.users, before.pairs, before.streams, before.movies) == (3, 3, 4, 2)
        clock.now_ms += 1_000
        await order(shard, 1, Erase("b"), Erase("nobody"))
        clock.now_ms += 1_000
        await order(shard, 2, Erase("c", "n"))
        erased = await stats_of(shard)
        assert (erased.erasing, erased.erasing_since_ms) == (3, NOW_MS + 1_000)
        assert (erased.users, erased.pairs, erased.streams, erased.movies) == (1, 1, 1, 1)
        assert (erased.events, erased.watch_ms) == (3, 20_000)
        crash(shard)
        again = open_shard(tmp_path, clock)
        after = await stats_of(again)
        assert (after.erasing, after.erasing_since_ms) == (3, NOW_MS + 1_000)
        assert (after.users, after.pairs, after.streams, after.movies) == (1, 1, 1, 1)
        await again.checkpoint()
        after = await stats_of(again)
        assert (after.erasing, after.erasing_since_ms) == (0, None)
        assert (after.stored_sequence, after.stored_events) == (4, 3)
        await again.close()

    asyncio.run(run())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_of_what_is_erased_and_watched_again_the_later_stays(
    tmp_path: Path, checkpointed: bool
) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, watch("u", "x", 0, 50) + watch("u", "y", 0, 30))
        await send(shard, 2, watch("v", "x", 0, 20))
        if checkpointed:
            await shard.checkpoint()
        await order(shard, 1, Erase("u"), Erase("v", "x"))
        await send(shard, 3, watch("u", "x", 70, 90) + watch("v", "x", 40, 50))
        await order(shard, 2, Erase("u", "x"))
        await send(shard, 4, watch("u", "x", 10, 20))
        expected = [("v", "x", 40), ("v", "x", 50), ("u", "x", 10), ("u", "x", 20)]
        before = facts_of_state(shard._state)
        for each in (shard, None):
            shard = each or open_shard(tmp_path)
            kept = facts_kept(shard).to_pylist()
            assert [(f["user"], f["slug"], f["at_ms"] // 1000) for f in kept] == expected
            assert facts_of_state(shard._state) == before
            await shard.checkpoint()
            assert facts_kept(shard).to_pylist() == kept
            crash(shard)
        progress, user = await ask(shard, ProgressQuery("u", "x"), UserQuery("v"))
        assert (progress["watch_ms"], progress["views"], progress["version"]) == (10_000, 1, 2)
        assert (user["watch_ms"], user["movies"], user["events"]) == (10_000, 1, 2)

    asyncio.run(run())


def test_commands_behind_an_erase_in_one_record_stay(tmp_path: Path) -> None:
    """They counted in memory, and were taken for erased in the store."""

    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event("u", "x", 1.0), Event("u", "y", 1.0), Event("v", "x", 1.0)])
        commands: list[Command] = [
            SetPosition("u", "x", 1),
            SetPosition("u", "y", 2),
            Erase("u", "x"),
            SetPosition("u", "x", 3),
            SetPosition("v", "x", 4),
            Erase("v"),
            SetPosition("v", "y", 5),
        ]
        await order(shard, 1, *commands)
        before = facts_of_state(shard._state)
        for _ in range(2):
            kept = [(f["user"], f["slug"], f["at_ms"]) for f in facts_kept(shard).to_pylist()]
            assert kept == [("u", "y", 1_000), ("u", "y", 2), ("u", "x", 3), ("v", "y", 5)]
            for user in ("u", "v"):
                exported = [fact for page in await export_pages(shard, user, 1) for fact in page]
                assert [(user, f.slug, f.at_ms) for f in exported] == [
                    fact for fact in kept if fact[0] == user
                ]
            await shard.checkpoint()
        assert facts_of_state(shard._state) == before
        await shard.close()

    asyncio.run(run())


def test_the_name_of_someone_unknown_goes_too(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event("u", "m", 1.0)])
        before = facts_of_state(shard._state)
        reply = await order(shard, 1, Hide(GONE, "m"), Erase(GONE), Erase("u", GONE))
        assert isinstance(reply, Done)
        assert [outcome.status for outcome in reply.outcomes] == ["unknown"] * 3
        assert files_with(tmp_path, GONE)
        assert (await stats_of(shard)).erasing == 2
        await shard.checkpoint()
        assert files_with(tmp_path, GONE) == []
        assert facts_of_state(shard._state) == before
        await shard.close()

    asyncio.run(run())


def test_an_erase_during_a_checkpoint_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    real = snapshot.write

    def stall(*arguments: Any) -> None:
        began.set()
        assert go_on.wait(20)
        real(*arguments)

    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event(GONE, "m", 1.0)])
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "write", stall)
            checkpointing = asyncio.create_task(shard.checkpoint())
            await asyncio.to_thread(began.wait, 20)
            await order(shard, 1, Erase(GONE))
            await send(shard, 2, [Event("u", "m", 1.0)])
            go_on.set()
            await checkpointing
        assert (await stats_of(shard)).erasing == 1
        assert [*(tmp_path / "shard-0000" / "snapshots").iterdir()]
        assert files_with(tmp_path, GONE)
        before = facts_of_state(shard._state)
        crash(shard)
        shard = open_shard(tmp_path)
        assert facts_of_state(shard._state) == before
        await shard.checkpoint()
        assert is_final(shard)
        await shard.close()

    asyncio.run(run())


def test_a_damaged_snapshot_goes_with_what_was_erased(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        for sequence in (1, 2):
            await send(shard, sequence, [Event(GONE, "m", 1.0), Event("u", "m", 1.0)])
            await shard.checkpoint()
        crash(shard)
        newest = max((tmp_path / "shard-0000" / "snapshots").iterdir())
        (newest / "MANIFEST.json").write_bytes(b"")
        shard = open_shard(tmp_path)
        assert files_with(newest.with_name(f"{newest.name}.broken"), GONE)
        await order(shard, 1, Erase(GONE))
        await shard.checkpoint()
        assert is_final(shard)
        await shard.close()

    asyncio.run(run())


# Trying again


def failing_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[float]:
    """Has the next checkpoint fail; returns when each was tried, as it goes on."""
    tried: list[float] = []
    real = Shard._write_beside

    async def write(shard: Shard, sequence: int) -> None:
        tried.append(time.monotonic())
        if len(tried) == 1:
            raise error
        await real(shard, sequence)

    monkeypatch.setattr(Shard, "_write_beside", write)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        DamagedError(Path("file"), 0, "flipped"),
        ValueError("a fault"),
    ],
)
def test_a_checkpoint_that_failed_is_tried_again_with_nothing_sent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """It waited for the next frame, and then for the whole interval."""
    tried = failing_once(monkeypatch, error)
    monkeypatch.setattr(shard_module, "CHECKPOINT_RETRY_S", 0.2)

    async def run() -> None:
        shard = open_shard(tmp_path, snapshot_log_bytes=100)
        await send(shard, 1, [Event(GONE, "m", 1.0)])
        await order(shard, 1, Erase(GONE))
        await poll(shard, lambda: is_final(shard))
        assert len(tried) == 2
        assert tried[1] - tried[0] >= 0.2
        assert [record.message for record in caplog.records] == [
            f"no checkpoint of shard 0: {error}"
        ]
        await shard.close()
        assert len(tried) == 2

    asyncio.run(run())


def test_a_full_disk_does_not_keep_the_shard_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no room for a new segment it tried again at once, for ever."""
    tried: list[None] = []

    def fail(_: log.Log) -> None:
        tried.append(None)
        raise NotWritableError("no space left")

    async def run() -> None:
        shard = open_shard(tmp_path, snapshot_log_bytes=1)
        with monkeypatch.context() as patch:
            patch.setattr(log.Log, "rotate", fail)
            for sequence in range(1, 4):
                await send(shard, sequence, [Event("u", "m", 1.0)])
            await asyncio.sleep(0.1)
            assert len(tried) == 1
        crash(shard)
        shard = open_shard(tmp_path)
        assert (await ask(shard, UserQuery("u")))[0]["events"] == 3
        await shard.close()

    asyncio.run(run())


def test_closing_on_a_full_disk_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event(GONE, "m", 1.0), Event("u", "m", 1.0)])
        await order(shard, 1, Erase(GONE))
        before = facts_of_state(shard._state)
        with monkeypatch.context() as patch:
            full = OSError(errno.ENOSPC, "No space left on device")
            patch.setattr(log.Log, "_create_segment", lambda _: (_ for _ in ()).throw(full))
            await shard.close()
        shard = open_shard(tmp_path)
        assert facts_of_state(shard._state) == before
        await shard.close()
        assert files_with(tmp_path, GONE) == []

    asyncio.run(run())


def test_a_checkpoint_comes_after_the_interval(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path, snapshot_interval_s=0.05)
        shard.start()
        await asyncio.sleep(0.1)
        assert (await stats_of(shard)).snapshot_sequence == 0  # there is nothing to save
        await send(shard, 1, [Event("u", "m", 1.0)])
        await poll(shard, lambda: shard._snapshot_sequence == 1)
        crash(shard)
        shard = open_shard(tmp_path)
        assert shard.recovered.startswith("1 events from the snapshot, 0 from the log")
        await shard.close()

    asyncio.run(run())
