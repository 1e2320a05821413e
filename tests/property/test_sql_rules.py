"""SQL over facts comes to what the scalar reference and the state come to, for any facts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.changes import apply
from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.event import Event, Part, to_batch
from aggregator.inspection import joined
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.sql_rules import first_difference, totals
from aggregator.state import State
from aggregator.tables import tables_of
from kernels.rows import HOUR_MS
from tests import facts
from tests.facts import START_MS, Fact

SHARDS = {"a": 0, "b": 0, 'the "c", 日本': 1, "d": 1, "e": 0}
SLUGS = ["m", "m", "n'; --"]
SESSIONS = [None, None, None, "tv"]
POSITIONS_MS = [0, 0, 1, 5_000, 9_999, 10_000, 10_001, 20_000, 60_000, 60_001, 119_999, 300_000]
#: Around what completes, and what resuming starts over at.
POSITIONS_MS += [4_999, 19_999, 89_999, 90_000, 98_999, 99_000, 100_000, 359_999, 360_000, 400_000]
#: On from the last position.
STEPS_MS = [0, 0, 1, 1, 1_000, 5_000, 5_000, 9_999, 10_000, 60_000, 60_001, -1]
DURATIONS_MS = [None, None, None, 100_000, 400_000, 6_000, 1]
PAUSES_MS = [0, 0, 0, 0, 1, 5_000, 5_000, 59_999, 60_000]
BREAKS_MS = [1_799_999, 1_800_000, 1_800_001, 3_600_000, 100_000_000]
LATENESS_MS = [None, None, None, None, 0, 1, 5_000, 1_800_000, 4_000_000, -7_000]
CHANGES = ["position", "completed", "completed", "uncompleted", "hidden", "movie", "erase"]
RULES = [
    Rules(),
    Rules(max_gap_ms=0, idle_ms=5_000, complete_ratio=0.5),
    Rules(complete_ratio=1),
    Rules(credit="duration"),
]
KEPT_DAYS = 2


@dataclass(frozen=True)
class Erasing:
    user: str
    slug: str | None

    @property
    def shard(self) -> int:
        return SHARDS[self.user]

    def spares(self, fact: Fact) -> bool:
        return fact.user != self.user or self.slug not in (None, fact.slug)


@dataclass(frozen=True)
class Traffic:
    """Facts and erasures in order of arrival. Less of it begins with the same."""

    seed: int
    length: int
    #: Nearly all of one user and movie, and hardly anything by hand.
    is_narrow: bool

    def happened(self) -> list[Fact | Erasing]:
        rng = Random(self.seed)  # noqa: S311 - traffic, no secrets
        found = _numbered(rng, _happenings(rng, self.is_narrow))
        return [one for ones in islice(found, self.length) for one in ones]


#: A movie is described in every shard at once.
Arrival = list[Fact | Erasing]


def _happenings(rng: Random, is_narrow: bool) -> Iterator[Arrival]:
    """Without end, and with no sequences yet."""
    now, at_ms = START_MS, 0
    pairs: set[tuple[str, str]] = set()
    users = ["a"] * 9 + list(SHARDS) if is_narrow else list(SHARDS)
    share_of_changes = 0.04 if is_narrow else 0.3
    while True:
        now += rng.choice(BREAKS_MS if rng.random() < 0.1 else PAUSES_MS)
        kind = rng.choice(CHANGES) if rng.random() < share_of_changes else "event"
        user, slug = rng.choice(users), rng.choice(SLUGS)
        fact = Fact(now, kind, slug, user, shard=SHARDS[user])
        if kind == "erase":
            erasing = Erasing(user, rng.choice([slug, None]))
            pairs = {(u, s) for u, s in pairs if erasing.spares(Fact(0, "", s, u))}
            yield [erasing]
        elif kind == "movie":
            title = rng.choice([None, "A title"])
            entry = replace(fact, user=None, duration_ms=rng.choice(DURATIONS_MS), title=title)
            if rng.random() < 0.3:
                entry = replace(entry, slug="unseen")
            yield [replace(entry, shard=shard) for shard in sorted(set(SHARDS.values()))]
        elif kind in ("event", "position", "completed") or (user, slug) in pairs:
            is_seek = rng.random() < 0.3
            at_ms = rng.choice(POSITIONS_MS) if is_seek else max(at_ms + rng.choice(STEPS_MS), 0)
            pairs.add((user, slug))
            yield [_with_details(rng, fact, at_ms)]


def _with_details(rng: Random, fact: Fact, at_ms: int) -> Fact:
    if fact.kind == "position":
        return replace(fact, at_ms=at_ms)
    if fact.kind != "event":
        return fact
    late_ms = rng.choice(LATENESS_MS)
    return replace(
        fact,
        session=rng.choice(SESSIONS),
        at_ms=at_ms,
        ts_ms=None if late_ms is None else fact.received_ms - late_ms,
        duration_ms=rng.choice(DURATIONS_MS),
    )


def _numbered(rng: Random, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
    """With sequences and indexes, and gaps in both: what was a duplicate is no fact."""
    last: dict[int, Fact] = {}
    first = Fact(0, "none", "", sequence=rng.choice([0, 2**40]))
    for arrival in arrivals:
        numbered: Arrival = []
        for one in arrival:
            if isinstance(one, Erasing):
                last = {shard: replace(before, kind="none") for shard, before in last.items()}
                numbered.append(one)
                continue
            before = last.get(one.shard, first)
            last[one.shard] = _after(before, one, rng.choice([1, 1, 3]), rng.random() < 0.7)
            numbered.append(last[one.shard])
        yield numbered


def _after(before: Fact, fact: Fact, gap: int, join: bool) -> Fact:
    """In the batch before, if it can be, or in a record of its own."""
    if join and fact.kind == before.kind == "event" and fact.received_ms == before.received_ms:
        return replace(fact, sequence=before.sequence, index=before.index + gap)
    return replace(fact, sequence=before.sequence + gap, index=0)


TRAFFIC = st.builds(Traffic, st.integers(0, 2**32), st.integers(1, 150), st.booleans())


def stored(happened: list[Fact | Erasing]) -> list[Fact]:
    """The facts that are stored after all of it."""
    found: list[Fact] = []
    for fact in happened:
        if isinstance(fact, Erasing):
            found = [kept for kept in found if fact.spares(kept)]
        else:
            found.append(fact)
    return found


def reference_of(rules: Rules, happened: list[Fact | Erasing]) -> Reference:
    reference = Reference(rules)
    for fact in happened:
        if isinstance(fact, Erasing):
            reference.erase(fact.user, fact.slug)
        else:
            facts.apply(reference, fact)
    return reference


def state_of(rules: Rules, happened: list[Fact | Erasing]) -> State:
    """The state of one shard, after batches and commands as they were recorded."""
    state = State(rules, KEPT_DAYS)
    for _, group in groupby(happened, lambda f: f.sequence if isinstance(f, Fact) else None):
        record = list(group)
        events = [fact for fact in record if isinstance(fact, Fact) and fact.kind == "event"]
        if events:
            batch = to_batch([Part([event_of(fact) for fact in events])])
            state.apply(batch, events[0].received_ms)
            continue
        for fact in record:
            if isinstance(fact, Erasing):
                apply(state, Erase(fact.user, fact.slug), 0)
            else:
                apply(state, command_of(fact), fact.received_ms)
    return state


def event_of(fact: Fact) -> Event:
    return Event(
        fact.user or "",
        fact.slug,
        (fact.at_ms or 0) / 1000,
        fact.session,
        ts=fact.ts_ms,
        duration=None if fact.duration_ms is None else fact.duration_ms / 1000,
    )


def command_of(fact: Fact) -> Command:
    user, slug = fact.user or "", fact.slug
    commands: dict[str, Command] = {
        "position": SetPosition(user, slug, fact.at_ms or 0),
        "completed": MarkCompleted(user, slug),
        "uncompleted": UnmarkCompleted(user, slug),
        "hidden": Hide(user, slug),
        "movie": Describe(slug, fact.duration_ms, fact.title),
    }
    return commands[fact.kind]


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    # DuckDB's types are not named here: Hypothesis would keep them past the exit, which it reports.
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


@settings(max_examples=60)
@given(rules=st.sampled_from(RULES), traffic=TRAFFIC, kept_hours=st.integers(-30, 30))
def test_sql_equals_reference(
    connection: Any, rules: Rules, traffic: Traffic, kept_hours: int
) -> None:
    happened = traffic.happened()
    fold_before = START_MS // HOUR_MS - kept_hours
    rows = stored(happened)
    Random(traffic.seed).shuffle(rows)  # noqa: S311
    connection.register("facts", facts.table(rows))
    found = totals(connection, "facts", rules, fold_before)
    expected = facts.totals_of(reference_of(rules, happened), fold_before)
    assert first_difference(expected, found, ("the reference", "SQL")) is None


@settings(max_examples=60)
@given(rules=st.sampled_from(RULES), traffic=TRAFFIC)
def test_sql_equals_the_states_of_all_shards(
    connection: Any, rules: Rules, traffic: Traffic
) -> None:
    happened = traffic.happened()
    shards = sorted(set(SHARDS.values()))
    states = [state_of(rules, [f for f in happened if f.shard == shard]) for shard in shards]
    fold_before = max(state.hours.fold_before for state in states)
    in_memory = joined([tables_of(state) for state in states], fold_before)
    connection.register("facts", facts.table(stored(happened)))
    found = totals(connection, "facts", rules, fold_before)
    assert first_difference(in_memory, found, ("memory", "SQL")) is None
