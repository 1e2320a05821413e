"""A data directory made anew: other shards, other rules."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from aggregator import inspection
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
from aggregator.regeneration import regenerate
from aggregator.router import Router
from aggregator.rules import HOURS_KEPT_DAYS, Rules
from aggregator.shard import Shard
from aggregator.sql_rules import first_difference
from persistence import log
from persistence.directory import DataDirectory, read_manifest
from persistence.errors import DamagedError
from persistence.files import replace_file
from tests.disk import digests_of
from tests.shards import Clock, crash, router_of, settings_of

USERS = [f"user{number}" for number in range(12)]
SLUGS = ["x", "y", "z"]


def some_events(rng: random.Random, now_ms: int) -> list[Event]:
    return [
        Event(
            rng.choice(USERS),
            rng.choice(SLUGS),
            rng.randrange(40) * 10.0,
            session=rng.choice([None, "tv"]),
            id=rng.choice([None, None, str(rng.randrange(50))]),
            ts=rng.choice([None, float(now_ms - rng.randrange(100_000_000))]),
            duration=rng.choice([None, None, 400.0]),
        )
        for _ in range(rng.randrange(1, 60))
    ]


def some_command(rng: random.Random) -> Command:
    user, slug = rng.choice(USERS), rng.choice(SLUGS)
    commands: list[Command] = [
        SetPosition(user, slug, rng.randrange(400_000)),
        MarkCompleted(user, slug),
        UnmarkCompleted(user, slug),
        Hide(user, slug),
        Erase(user, slug),
        Erase(user),
        Describe(slug, rng.choice([None, 300_000]), rng.choice([None, "Title"])),
    ]
    return rng.choice(commands)


async def drive(router: Router, clock: Clock, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - traffic, no secrets
    for _ in range(60):
        clock.now_ms += rng.choice([0, 5_000, 60_000, 2_000_000, 90_000_000])
        if rng.random() < 0.3:
            command = some_command(rng)
            if isinstance(command, Describe):
                await router.describe(command)
            else:
                await router.command(command)
        else:
            await router.submit(some_events(rng, clock.now_ms), None, 100)


def make(folder: Path, rules: Rules, shards: int, seed: int) -> None:
    """Traffic through shards that end as killed ones do, some after a checkpoint."""
    DataDirectory.open(folder, rules.as_dict(), shards).close()

    async def run() -> None:
        clock = Clock()
        made = [
            Shard(settings_of(folder, number, rules=rules, segment_bytes=3_000), clock)
            for number in range(shards)
        ]
        async with router_of(made) as router:
            await drive(router, clock, seed)
            await made[0].checkpoint()
            await drive(router, clock, seed + 1)
        for shard in made:
            crash(shard)

    asyncio.run(run())


def _tell_no_one(done: int, total: int) -> None:
    assert done <= total


def remade(folder: Path, shards: int, rules: Rules) -> None:
    directory = DataDirectory.open(folder, rules=None)
    try:
        regenerate(directory, shards, rules, HOURS_KEPT_DAYS, _tell_no_one)
    finally:
        directory.close()


def tables(folder: Path) -> dict[str, Any]:
    return inspection.inspect(folder).tables()


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_shards_changes_no_answer(tmp_path: Path, seed: int) -> None:
    make(tmp_path, Rules(), 2, seed)
    before = tables(tmp_path)
    assert before["progress"].num_rows > 5
    for shards in (5, 1, 2):
        remade(tmp_path, shards, Rules())
        assert inspection.inspect(tmp_path).manifest.shards == shards
        assert first_difference(before, tables(tmp_path)) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["generation-0004"]


def test_other_rules_give_what_they_would_have_given(tmp_path: Path) -> None:
    other = Rules(max_gap_ms=20_000, idle_ms=1_000_000, complete_ratio=0.5)
    make(tmp_path / "one", Rules(), 2, 7)
    make(tmp_path / "other", other, 2, 7)
    assert first_difference(tables(tmp_path / "one"), tables(tmp_path / "other")) is not None
    remade(tmp_path / "one", 3, other)
    assert first_difference(tables(tmp_path / "one"), tables(tmp_path / "other")) is None


def test_ids_are_still_known(tmp_path: Path) -> None:
    make(tmp_path, Rules(), 2, 3)
    event = Event("someone", "x", 1.0, id="an id")

    async def duplicates(shards: int) -> int:
        directory = DataDirectory.open(tmp_path, rules=None)
        root = directory.manifest.root(tmp_path)
        made = [Shard(settings_of(root, number), Clock(1 << 41)) for number in range(shards)]
        async with router_of(made) as router:
            receipt = await router.submit([event], "a key", 10)
        for shard in made:
            crash(shard)
        directory.close()
        return receipt.duplicates

    assert asyncio.run(duplicates(2)) == 0
    remade(tmp_path, 3, Rules())
    assert asyncio.run(duplicates(3)) == 1


def test_damage_is_found_before_anything_changes(tmp_path: Path) -> None:
    make(tmp_path, Rules(), 2, 9)
    stored = next((tmp_path / "events").rglob("*.parquet"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    replace_file(stored, bytes(content))
    with pytest.raises(Exception, match=stored.name):
        remade(tmp_path, 3, Rules())
    assert read_manifest(tmp_path).shards == 2


def test_a_log_without_its_last_record_is_refused(tmp_path: Path) -> None:
    """A shard would start without it, say so, and keep what is left of it; here that would go."""
    make(tmp_path, Rules(), 2, 9)
    segment = log.segments(tmp_path / "shard-0001" / "log")[-1]
    content = segment.read_bytes()
    segment.write_bytes(content[:-1])
    before = digests_of(tmp_path, "LOCK")
    with pytest.raises(DamagedError, match="was acknowledged and is cut") as refusal:
        remade(tmp_path, 3, Rules())
    assert refusal.value.path == segment
    (tmp_path / "generation-0002").rmdir()
    assert digests_of(tmp_path, "LOCK") == before
