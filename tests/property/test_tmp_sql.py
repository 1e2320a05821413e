"""SQL over facts comes to what the scalar reference comes to, for any facts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.reference import Reference
from aggregator.rules import HOUR_MS, Rules
from aggregator.sql_rules import first_difference, totals
from tests import facts as f
from tests.facts import START_MS, Fact

SHARDS = {"a": 0, "b": 0, 'the "c", 日本': 1}
USERS = st.sampled_from(list(SHARDS))
SLUGS = st.sampled_from(["a", "m", "n'; --"])
SESSIONS = st.sampled_from([None, None, "tv", "phone"])
POSITIONS_MS = st.one_of(
    st.integers(0, 30).map(lambda n: n * 10_000),
    st.sampled_from([1, 9_999, 10_001, 60_000, 60_001, 119_999, 5_000, 20_000, 95_000]),
    st.sampled_from([89_999, 90_000, 98_999, 99_000, 359_999, 360_000]),
    st.integers(0, 400_000),
)
DURATIONS_MS = st.sampled_from([None, None, None, 100_000, 400_000, 500, 1])
PAUSES_MS = st.sampled_from([0, 0, 1, 5_000, 59_999, 60_000, 1_799_999, 1_800_000, 1_800_001])
LATENESS_MS = st.sampled_from([None, None, 0, 1, 5_000, 1_800_000, 4_000_000, -7_000])
KINDS = st.sampled_from(
    ["event"] * 12 + ["position", "completed", "uncompleted", "hidden", "movie", "movie", "erase"]
)
RULES = st.sampled_from(
    [
        Rules(),
        Rules(max_gap_ms=0, idle_ms=5_000, complete_ratio=0.5),
        Rules(complete_ratio=1),
        Rules(credit="duration"),
    ]
)


@dataclass(frozen=True)
class Erase:
    user: str
    slug: str | None


@st.composite
def happenings(draw: st.DrawFn) -> list[Fact | Erase]:
    """Facts and erasures in order of arrival, with no sequences yet."""
    now, happened = START_MS, list[Fact | Erase]()
    for _ in range(draw(st.integers(1, 60))):
        now += draw(PAUSES_MS)
        kind, user, slug = draw(KINDS), draw(USERS), draw(SLUGS)
        fact = Fact(now, kind, slug, user, shard=SHARDS[user])
        if kind == "erase":
            happened.append(Erase(user, draw(st.sampled_from([slug, None]))))
        elif kind == "event":
            late_ms = draw(LATENESS_MS)
            fact = replace(
                fact,
                session=draw(SESSIONS),
                at_ms=draw(POSITIONS_MS),
                ts_ms=None if late_ms is None else now - late_ms,
                duration_ms=draw(DURATIONS_MS),
            )
            happened.append(fact)
        elif kind == "position":
            happened.append(replace(fact, at_ms=draw(POSITIONS_MS)))
        elif kind == "movie":
            title = draw(st.sampled_from([None, "A title"]))
            entry = replace(fact, user=None, duration_ms=draw(DURATIONS_MS), title=title)
            happened += [replace(entry, shard=shard) for shard in sorted(set(SHARDS.values()))]
        else:
            happened.append(fact)
    return happened


@st.composite
def numbered(draw: st.DrawFn) -> list[Fact | Erase]:
    """Sequences and indexes, with gaps: what was a duplicate is no fact."""
    happened: list[Fact | Erase] = []
    last: dict[int, Fact] = {}
    first = draw(st.sampled_from([0, 2**40]))
    for fact in draw(happenings()):
        if isinstance(fact, Erase):
            happened.append(fact)
            continue
        gap = draw(st.sampled_from([1, 1, 3]))
        before = last.get(fact.shard, Fact(0, "none", "", sequence=first))
        is_of_one_batch = (
            fact.kind == before.kind == "event"
            and fact.received_ms == before.received_ms
            and draw(st.booleans())
        )
        if is_of_one_batch:
            sequence, index = before.sequence, before.index + gap
        else:
            sequence, index = before.sequence + gap, 0
        last[fact.shard] = replace(fact, sequence=sequence, index=index)
        happened.append(last[fact.shard])
    return happened


def remember(rules: Rules, happened: list[Fact | Erase]) -> tuple[Reference, list[Fact]]:
    """The reference after all of it, and the facts that are stored then."""
    reference, stored = Reference(rules), list[Fact]()
    for fact in happened:
        if isinstance(fact, Erase):
            reference.erase(fact.user, fact.slug)
            stored = [
                kept
                for kept in stored
                if kept.user != fact.user or fact.slug not in (None, kept.slug)
            ]
        else:
            f.apply(reference, fact)
            stored.append(fact)
    return reference, stored


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:  # named, Hypothesis would keep the type alive past the exit
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


@settings(max_examples=1500, deadline=None)
@given(
    rules=RULES,
    happened=numbered(),
    kept_hours=st.sampled_from([-30, 0, 1, 24, 1_000]),
    seed=st.randoms(use_true_random=False),
)
def test_sql_equals_reference(
    connection: Any,
    rules: Rules,
    happened: list[Fact | Erase],
    kept_hours: int,
    seed: Random,
) -> None:
    reference, stored = remember(rules, happened)
    fold_before = START_MS // HOUR_MS + 24 - kept_hours
    shuffled = list(stored)
    seed.shuffle(shuffled)
    connection.register("facts", f.table(shuffled))
    found = totals(connection, "facts", rules, fold_before)
    expected = f.totals_of(reference, stored, fold_before)
    assert first_difference(expected, found, ("the reference", "SQL")) is None
