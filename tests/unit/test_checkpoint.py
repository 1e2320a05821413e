"""Checkpoints: nothing is left of the erased, and what failed is tried again."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aggregator import checkpoint, schedule
from aggregator.checkpoints import Checkpoints
from aggregator.commands import (
    Command,
    Erase,
    Hide,
    SetPosition,
)
from aggregator.event import Event
from aggregator.messages import Done, ProgressQuery, UserQuery
from aggregator.shard import Shard
from persistence import log, snapshot
from persistence.errors import DamagedError, NotWritableError
from tests.comparison import facts_of_state
from tests.disk import files_with
from tests.shards import (
    NOW_MS,
    Clock,
    ask,
    crash,
    export_pages,
    facts_kept,
    order,
    poll,
    send,
    settings_of,
    state_of,
    stats_of,
    watch,
)

#: Found in no file by chance.
GONE = "gone-7f3a"


def open_shard(folder: Path, clock: Clock | None = None, **changes: Any) -> Shard:
    return Shard(settings_of(folder, segment_bytes=2_000, **changes), clock or Clock())


def is_final(shard: Shard) -> bool:
    return not shard._checkpoints.erasing and not files_with(shard._folders.log.parent.parent, GONE)


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


def test_facts_of_much_log_are_stored_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all in memory at once, and after a burst there may be a lot of log."""
    monkeypatch.setattr(checkpoint, "ARCHIVED_BYTES", 1)

    async def run() -> None:
        shard = open_shard(tmp_path)
        for number in range(1, 151):
            await send(shard, number, watch(f"user {number % 7}", "m", number, 20))
        expected = [fact for fact in facts_kept(shard).to_pylist() if fact["user"] != "user 3"]
        await order(shard, 1, Erase("user 3"))
        await shard.checkpoint()
        files = shard._folders.store.files()
        assert len(files) > 3
        assert [file.first for file in files[1:]] == [file.last + 1 for file in files[:-1]]
        assert facts_kept(shard).to_pylist() == expected
        await shard.close()

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
        before = facts_of_state(state_of(shard))
        for each in (shard, None):
            shard = each or open_shard(tmp_path)
            kept = facts_kept(shard).to_pylist()
            assert [(f["user"], f["slug"], f["at_ms"] // 1000) for f in kept] == expected
            assert facts_of_state(state_of(shard)) == before
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
        before = facts_of_state(state_of(shard))
        for _ in range(2):
            kept = [(f["user"], f["slug"], f["at_ms"]) for f in facts_kept(shard).to_pylist()]
            assert kept == [("u", "y", 1_000), ("u", "y", 2), ("u", "x", 3), ("v", "y", 5)]
            for user in ("u", "v"):
                exported = [fact for page in await export_pages(shard, user, 1) for fact in page]
                assert [(user, f.slug, f.at_ms) for f in exported] == [
                    fact for fact in kept if fact[0] == user
                ]
            await shard.checkpoint()
        assert facts_of_state(state_of(shard)) == before
        await shard.close()

    asyncio.run(run())


def test_the_name_of_someone_unknown_goes_too(tmp_path: Path) -> None:
    async def run() -> None:
        shard = open_shard(tmp_path)
        await send(shard, 1, [Event("u", "m", 1.0)])
        before = facts_of_state(state_of(shard))
        reply = await order(shard, 1, Hide(GONE, "m"), Erase(GONE), Erase("u", GONE))
        assert isinstance(reply, Done)
        assert [outcome.status for outcome in reply.outcomes] == ["unknown"] * 3
        assert files_with(tmp_path, GONE)
        assert (await stats_of(shard)).erasing == 2
        await shard.checkpoint()
        assert files_with(tmp_path, GONE) == []
        assert facts_of_state(state_of(shard)) == before
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
        before = facts_of_state(state_of(shard))
        crash(shard)
        shard = open_shard(tmp_path)
        assert facts_of_state(state_of(shard)) == before
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
    real = Checkpoints._write_beside

    async def write(checkpoints: Checkpoints, sequence: int) -> None:
        tried.append(time.monotonic())
        if len(tried) == 1:
            raise error
        await real(checkpoints, sequence)

    monkeypatch.setattr(Checkpoints, "_write_beside", write)
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
    monkeypatch.setattr(schedule, "RETRY_S", 0.2)

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
        before = facts_of_state(state_of(shard))
        with monkeypatch.context() as patch:
            full = OSError(errno.ENOSPC, "No space left on device")
            patch.setattr(log.Log, "_create_segment", lambda _: (_ for _ in ()).throw(full))
            await shard.close()
        shard = open_shard(tmp_path)
        assert facts_of_state(state_of(shard)) == before
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
        await poll(shard, lambda: shard._checkpoints.sequence == 1)
        crash(shard)
        shard = open_shard(tmp_path)
        assert shard.recovered.startswith("1 events from the snapshot, 0 from the log")
        await shard.close()

    asyncio.run(run())


def test_a_tail_cut_short_after_an_erase_was_final_is_kept(tmp_path: Path) -> None:
    """The start that set it aside removed it, as if it were from before."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, [*watch("u", "m", 0, 50), *watch(GONE, "m", 0, 50)])
        await order(shard, 1, Erase(GONE))
        await shard.checkpoint()
        await send(shard, 2, watch("u", "m", 60, 70))
        crash(shard)
        newest = max((tmp_path / "shard-0000" / "log").glob("*.log"))
        os.truncate(newest, newest.stat().st_size - 5)
        for _ in range(2):
            shard = Shard(settings_of(tmp_path), Clock())
            assert len(log.broken_tails(shard._folders.log)) == 1
            crash(shard)

    asyncio.run(run())
