"""Recovery: cut short anywhere, or repeated, it comes to the same state and to the same bytes."""

import asyncio
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from aggregator import checkpoint as checkpoints
from aggregator import recent, state
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
from aggregator.messages import Applied
from aggregator.shard import Shard
from persistence import log, snapshot
from persistence.store import Store
from tests.comparison import Rows, rows_of_state
from tests.disk import KilledError, digests_of, failing_at, never_syncing
from tests.faults.conftest import rounds
from tests.faults.data import Data, Model
from tests.faults.test_steps import Before, at_each_step, erase, leave_a_torn_tail, lived
from tests.shards import Clock, crash, send, settings_of, state_of, watch

pytestmark = pytest.mark.timeout(rounds(300))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """Two shards with two snapshots each, and erases that are still on disk."""
    with never_syncing():
        yield lived(tmp_path_factory.mktemp("recovery") / "data", Model(2), erase)


# What is found


def a_torn_tail(found: Before) -> None:
    leave_a_torn_tail(found.folder / "shard-0000" / "log")


def a_segment_half_made(found: Before) -> None:
    data = Data(found.folder, found.model)
    data.open()
    following = data.shards[0]._applied_sequence + 1
    data.end()
    folder = found.folder / "shard-0000" / "log"
    header = log.segments(folder)[-1].read_bytes()
    (folder / f"{following:020}.log").write_bytes(header[:9])


def a_damaged_snapshot(found: Before) -> None:
    newest = snapshot.complete(found.folder / "shard-0000" / "snapshots")[0]
    (newest / "pairs.parquet").write_bytes(b"")


def both(found: Before) -> None:
    a_damaged_snapshot(found)
    a_torn_tail(found)


def a_checkpoint_cut_short(owner: object, name: str) -> Callable[[Before], None]:
    """As a shard leaves it that ends after that part of a checkpoint."""

    def leave(found: Before) -> None:
        a_torn_tail(found)
        real = getattr(owner, name)

        def end(*arguments: object, **named: object) -> None:
            real(*arguments, **named)
            raise KilledError

        data = Data(found.folder, found.model)
        data.open()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, end)
            with pytest.raises(KilledError):
                data.run(data.shards[0].checkpoint())
        data.end()

    leave.__name__ = f"a_checkpoint_that_ended_after_{name}"
    return leave


FOUND = [
    a_torn_tail,
    a_segment_half_made,
    a_damaged_snapshot,
    both,
    a_checkpoint_cut_short(log.Log, "rotate"),
    a_checkpoint_cut_short(checkpoints, "archive"),
    a_checkpoint_cut_short(Store, "purge"),
    a_checkpoint_cut_short(snapshot, "write"),
    a_checkpoint_cut_short(snapshot, "prune"),
    a_checkpoint_cut_short(log, "drop_before"),
    a_checkpoint_cut_short(log, "drop_broken_tails"),
]


@pytest.mark.parametrize("leave", FOUND, ids=lambda leave: leave.__name__)
def test_killed_in_a_recovery(before: Before, leave: Callable[[Before], None]) -> None:
    """At each step, and then again at each step of the next recovery, until one completes."""
    found = before.copy()
    leave(found)
    undisturbed = recovered(found.copy())

    def same(data: Data) -> None:
        data.check()
        data.check_facts()
        assert digests_of(data.folder, "EPOCH") == undisturbed

    at_each_step(found, Data.open, same, begin=lambda _: None)
    recover_killed_again_and_again(found)
    assert recovered(found) == undisturbed


def recovered(found: Before) -> dict[str, str]:
    """What is on disk after a recovery."""
    data = Data(found.folder, found.model)
    data.open()
    data.end()
    return digests_of(found.folder, "EPOCH")


def recover_killed_again_and_again(found: Before) -> None:
    """Each recovery goes a step further than the one before."""
    data = Data(found.folder, found.model)
    for step in count(1):
        with failing_at(step, KilledError(), found.folder):
            try:
                data.open()
                break
            except KilledError:
                data.crash()
    assert step > 5
    data.check()
    data.check_facts()
    data.end()


# Ways to the same state


def some_traffic(rng: random.Random, data: Data) -> None:
    """A frame of events or a command, of users that are on both shards."""
    users, slugs = [f"user{number}" for number in range(6)], ["x", "y", "z"]
    data.model.clock.now_ms += rng.choice([0, 5_000, 60_000, 2_000_000, 40_000_000, -3_000_000])
    user, slug = rng.choice(users), rng.choice(slugs)
    if rng.random() < 0.7:
        events = [
            Event(
                rng.choice(users),
                rng.choice(slugs),
                rng.randrange(40) * 10.0,
                session=rng.choice([None, "tv"]),
                id=rng.choice([None, None, str(rng.randrange(50))]),
                ts=rng.choice([None, float(data.model.clock.now_ms - rng.randrange(10**8))]),
                duration=rng.choice([None, None, 400.0]),
            )
            for _ in range(rng.randrange(1, 30))
        ]
        data.submit(events, rng.choice([None, None, "k", "l"]))
    else:
        commands: list[Command] = [
            SetPosition(user, slug, rng.randrange(400_000)),
            MarkCompleted(user, slug),
            UnmarkCompleted(user, slug),
            Hide(user, slug),
            Erase(user, slug),
            Erase(user),
            Describe(slug, rng.choice([None, 300_000]), rng.choice([None, "Title"])),
        ]
        data.order(rng.choice(commands))


def test_replayed_or_loaded_the_state_is_the_same(tmp_path: Path, seed: int) -> None:
    """The log alone, snapshots with the log after them, and the model; in every column."""
    found = []
    with never_syncing():
        for name in ("replayed", "loaded"):
            data = Data(tmp_path / name, Model(2))
            data.open()
            rng = random.Random(seed)  # noqa: S311 - traffic, no secrets
            disturbances = random.Random(seed + 1)  # noqa: S311 - the same
            for _ in range(rounds(60)):
                some_traffic(rng, data)
                if name == "loaded" and disturbances.random() < 0.2:
                    disturbances.choice([data.checkpoint, data.crash_and_open, data.resend])()
            found.append([rows_of_state(state_of(shard)) for shard in data.shards])
            found += recovered_twice(data)
            data.end()
    assert len(found[0][0]["pairs"]) > 3
    for other in found[1:]:
        assert other == found[0]


def recovered_twice(data: Data) -> list[list[Rows]]:
    """What each recovery comes to. The second has the same tables in the same bytes."""
    found, tables, digests = [], [], []
    for _ in range(2):
        data.crash_and_open()
        data.check()
        data.check_facts()
        found.append([rows_of_state(state_of(shard)) for shard in data.shards])
        tables.append([state_of(shard).to_arrow() for shard in data.shards])
        digests.append(digests_of(data.folder, "EPOCH"))
    assert tables[1] == tables[0]
    assert digests[1] == digests[0]
    return found


# Sent again


BATCH = [*watch("ana", "film", 0, 30), *watch("ben", "film", 0, 30), Event("ana", "tv", 5.0)]


@pytest.mark.parametrize("named_by", ["id", "key", "frame"])
def test_sent_a_hundred_times_it_counts_once(tmp_path: Path, named_by: str, seed: int) -> None:
    """After crashes, stops, snapshots and in another number of shards."""
    rng = random.Random(seed)  # noqa: S311 - moments, no secrets
    key = "k" if named_by == "key" else None
    batch = [
        Event(event.user, event.slug, event.at, id=f"{index}" if named_by == "id" else None)
        for index, event in enumerate(BATCH)
    ]
    with never_syncing():
        data = Data(tmp_path / "data", Model(2))
        data.open()
        data.submit(batch, key)
        expected = [data.model.answers(shard) for shard in range(2)]
        disturbances: list[Callable[[], None]] = [data.crash_and_open, data.checkpoint]
        if named_by != "frame":  # another number of shards begins with a start
            disturbances += [lambda: data.split(1), lambda: data.split(2)]
        for _ in range(99):
            data.model.clock.now_ms += 30_000
            if rng.random() < 0.2:
                rng.choice(disturbances)()
            if named_by == "frame":
                data.resend()
            else:
                data.submit(batch, key)
            assert sum(len(shard.facts) for shard in data.model.shards) == len(batch)
        data.split(2)
        data.check()
        data.check_facts()
        assert [data.model.answers(shard) for shard in range(2)] == expected
        data.end()


def counted_again(data: Data, name: str) -> bool:
    """Whether an event counts that has the id of an earlier one."""
    frames = data.model.frames
    before = sum(len(shard.facts) for shard in data.model.shards)
    data.submit([Event("ana", "film", 1.0, id=name)])
    assert data.model.frames == frames + 1
    return sum(len(shard.facts) for shard in data.model.shards) > before


def test_an_id_is_known_for_a_day_and_forgotten_after_two(tmp_path: Path) -> None:
    """So a resend after that counts again, also where the shard has started anew meanwhile."""
    with never_syncing():
        data = Data(tmp_path / "data", Model(1))
        data.open()
        assert counted_again(data, "x")
        data.model.clock.now_ms += recent.WINDOW_MS
        data.crash_and_open()
        assert not counted_again(data, "x")
        data.model.clock.now_ms += 1
        assert counted_again(data, "y")  # a second day begins
        data.checkpoint()
        data.crash_and_open()
        data.model.clock.now_ms += recent.WINDOW_MS
        assert not counted_again(data, "x")
        data.model.clock.now_ms += 1
        assert counted_again(data, "z")  # a third: what came on the first is forgotten
        data.crash_and_open()
        assert counted_again(data, "x")
        assert not counted_again(data, "y")
        data.crash_and_open()
        data.check()
        data.check_facts()
        data.end()


@pytest.mark.parametrize("snapshots", [False, True])
def test_an_id_is_known_until_so_many_others_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: bool
) -> None:
    monkeypatch.setattr(state, "RecentHashes", partial(recent.RecentHashes, half_max=10))

    async def run() -> None:
        async def duplicates(name: str) -> list[int]:
            reply = await send(shard, next(sequences), [Event("ana", "film", 1.0, id=name)])
            assert isinstance(reply, Applied)
            return reply.duplicates

        sequences = count(1)
        shard = Shard(settings_of(tmp_path), Clock())
        assert await duplicates("x") == []
        for number in range(9):
            assert await duplicates(f"{number}") == []
            assert await duplicates("x") == [0]
        for number in range(9, 19):
            assert await duplicates("x") == [0]
            if snapshots:
                await shard.checkpoint()
            crash(shard)
            shard = Shard(settings_of(tmp_path), Clock())
            assert await duplicates(f"{number}") == []
        assert await duplicates("19") == []
        assert await duplicates("x") == []
        crash(shard)

    with never_syncing():
        asyncio.run(run())
