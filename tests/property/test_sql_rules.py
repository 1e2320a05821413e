"""SQL over facts comes to what the scalar reference and the state come to, for any facts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
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
from aggregator.rules import HOUR_MS, Rules
from aggregator.sql_rules import first_difference, totals
from aggregator.state import State
from aggregator.tables import tables_of
from tests import facts
from tests.facts import START_MS, Fact

SHARDS = {"a": 0, "b": 0, 'the "c", 日本': 1}
USERS = st.sampled_from(["a", "a", *SHARDS])
SLUGS = st.sampled_from(["m", "m", "n'; --"])
SESSIONS = st.sampled_from([None, None, None, "tv"])
POSITIONS_MS = st.one_of(
    st.integers(0, 30).map(lambda n: n * 10_000),
    st.sampled_from([1, 9_999, 10_001, 60_000, 60_001, 119_999, 5_000, 20_000, 95_000]),
    st.sampled_from([89_999, 90_000, 98_999, 99_000, 359_999, 360_000]),
    st.integers(0, 400_000),
)
#: On from the last position.
STEPS_MS = st.sampled_from([0, 1, 5_000, 9_999, 10_000, 60_000, 60_001, -1])
DURATIONS_MS = st.sampled_from([None, None, None, 100_000, 400_000, 500, 1])
PAUSES_MS = st.sampled_from(
    [0] * 6 + [1, 5_000, 59_999, 60_000, 1_799_999, 1_800_000, 1_800_001, 100_000_000]
)
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


@st.composite
def happenings(draw: st.DrawFn) -> list[Fact | Erasing]:
    """Facts and erasures in order of arrival, with no sequences yet."""
    now, at_ms, happened = START_MS, 0, list[Fact | Erasing]()
    pairs: set[tuple[str, str]] = set()
    for _ in range(draw(st.integers(1, 60))):
        now += draw(PAUSES_MS)
        kind, user, slug = draw(KINDS), draw(USERS), draw(SLUGS)
        fact = Fact(now, kind, slug, user, shard=SHARDS[user])
        if kind == "erase":
            erasing = Erasing(user, draw(st.sampled_from([slug, None])))
            happened.append(erasing)
            pairs = {(u, s) for u, s in pairs if erasing.spares(Fact(0, "", s, u))}
        elif kind == "movie":
            title = draw(st.sampled_from([None, "A title"]))
            entry = replace(fact, user=None, duration_ms=draw(DURATIONS_MS), title=title)
            happened += [replace(entry, shard=shard) for shard in sorted(set(SHARDS.values()))]
        elif kind in ("event", "position", "completed") or (user, slug) in pairs:
            step_ms = draw(st.one_of(STEPS_MS, st.none()))
            at_ms = draw(POSITIONS_MS) if step_ms is None else max(at_ms + step_ms, 0)
            happened.append(draw(details(fact, at_ms)))
            pairs.add((user, slug))
    return happened


@st.composite
def details(draw: st.DrawFn, fact: Fact, at_ms: int) -> Fact:
    if fact.kind == "position":
        return replace(fact, at_ms=at_ms)
    if fact.kind != "event":
        return fact
    late_ms = draw(LATENESS_MS)
    return replace(
        fact,
        session=draw(SESSIONS),
        at_ms=at_ms,
        ts_ms=None if late_ms is None else fact.received_ms - late_ms,
        duration_ms=draw(DURATIONS_MS),
    )


@st.composite
def numbered(draw: st.DrawFn) -> list[Fact | Erasing]:
    """Sequences and indexes, with gaps: what was a duplicate is no fact."""
    happened: list[Fact | Erasing] = []
    last: dict[int, Fact] = {}
    first = draw(st.sampled_from([0, 2**40]))
    for fact in draw(happenings()):
        if isinstance(fact, Erasing):
            happened.append(fact)
            last = {shard: replace(before, kind="none") for shard, before in last.items()}
            continue
        gap = draw(st.sampled_from([1, 1, 3]))
        before = last.get(fact.shard, Fact(0, "none", "", sequence=first))
        is_of_one_batch = (
            fact.kind == before.kind == "event"
            and fact.received_ms == before.received_ms
            and draw(st.sampled_from([True, True, False]))
        )
        if is_of_one_batch:
            sequence, index = before.sequence, before.index + gap
        else:
            sequence, index = before.sequence + gap, 0
        last[fact.shard] = replace(fact, sequence=sequence, index=index)
        happened.append(last[fact.shard])
    return happened


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
def connection() -> Iterator[Any]:  # named, Hypothesis would keep the type alive past the exit
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


@settings(max_examples=80, deadline=None)
@given(
    rules=RULES,
    happened=numbered(),
    kept_hours=st.sampled_from([-30, 0, 1, 24, 1_000]),
    random=st.randoms(use_true_random=False),
)
def test_sql_equals_reference(
    connection: Any,
    rules: Rules,
    happened: list[Fact | Erasing],
    kept_hours: int,
    random: Random,
) -> None:
    fold_before = START_MS // HOUR_MS + 24 - kept_hours
    shuffled = stored(happened)
    random.shuffle(shuffled)
    connection.register("facts", facts.table(shuffled))
    found = totals(connection, "facts", rules, fold_before)
    expected = facts.totals_of(reference_of(rules, happened), fold_before)
    assert first_difference(expected, found, ("the reference", "SQL")) is None


@settings(max_examples=80, deadline=None)
@given(rules=RULES, happened=numbered())
def test_sql_equals_the_states_of_all_shards(
    connection: Any, rules: Rules, happened: list[Fact | Erasing]
) -> None:
    shards = sorted(set(SHARDS.values()))
    states = [state_of(rules, [f for f in happened if f.shard == shard]) for shard in shards]
    fold_before = max(state.hours.fold_before for state in states)
    in_memory = joined([tables_of(state) for state in states], fold_before)
    connection.register("facts", facts.table(stored(happened)))
    found = totals(connection, "facts", rules, fold_before)
    assert first_difference(in_memory, found, ("memory", "SQL")) is None
