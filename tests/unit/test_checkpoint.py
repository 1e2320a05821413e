"""Checkpoints: whatever ends or fails in between, nothing is lost, twice, or left of the erased."""

import asyncio
import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aggregator import checkpoint, recovery
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
from aggregator.messages import Applied, Done, Fact, ProgressQuery, Reply, UserQuery
from aggregator.shard import Shard
from persistence import log, snapshot
from persistence.errors import DamagedError
from persistence.log import Record
from persistence.store import Store
from tests.comparison import Facts, facts_of_state
from tests.disk import KilledError, failing_at, files_with
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
    """What leaves traces of a user everywhere; then the user is erased. Returns the last replies."""
    await send(shard, 1, watch(GONE, "m", 0, 100) + watch("stays", "m", 0, 50))
    await send(shard, 2, [Event(GONE, "n", 1.0, session="tv", id="x"), Event("stays", "n", 2.0)])
    await order(shard, 1, SetPosition(GONE, "m", 5_000), Hide("stays", "m"))
    await shard.checkpoint()
    clock.now_ms += DAY_MS
    await send(shard, 3, watch("stays", "o", 0, 200, 5) + [Event(GONE, f"only-{GONE}", 1.0)])
    await order(shard, 2, MarkCompleted("stays", "m"), Describe("m", 100_000, "Title"))
    await shard.checkpoint()
    clock.now_ms += DAY_MS
    for sequence in range(4, 9):
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
        assert files_with(self.folder_of(shard), "stays")
        await shard.checkpoint()
        folder = self.folder_of(shard)
        assert (await stats_of(shard)).snapshot_sequence == self.last_sequence
        assert files_with(folder, GONE) == []
        assert not [*folder.rglob("*.tmp"), *folder.rglob("*.broken")]
        await self.check(shard)
        crash(shard)
        again = open_shard(folder, self.clock)
        assert again.recovered.split(", ")[1] == "0 from the log"
        await self.check(again)
        await again.close()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    yield Life(tmp_path_factory.mktemp("life"))


def test_what_a_life_leaves(life: Life) -> None:
    """Else the tests below would have nothing to find."""
    folder = life.copy("traces")
    shard = open_shard(folder, life.clock)
    found = {path.relative_to(folder).parts[:2] for path in files_with(folder, GONE)}
    assert {parts[0] for parts in found} == {"shard-0000", "events"}
    assert {parts[1] for parts in found} >= {"log", "snapshots"}
    assert len(log.broken_tails(folder / "shard-0000" / "log")) == 1
    assert len({fact["received_ms"] for fact in life.kept}) == 3
    crash(shard)


def test_killed_at_any_step(life: Life) -> None:
    async def run(step: int) -> bool:
        folder = life.copy(f"killed-{step}")
        shard = open_shard(folder, life.clock)
        with failing_at(step, KilledError()) as failing:
            with contextlib.suppress(KilledError):
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
        with failing_at(step, KilledError()) as failing:
            with contextlib.suppress(KilledError):
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

    steps = next(step for step in count(1) if not asyncio.run(run(step)))
    assert steps > 50
