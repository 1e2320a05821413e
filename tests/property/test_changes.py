"""Commands and erasing between events: the state equals the scalar reference throughout."""

import random
from collections.abc import Sequence
from typing import Any

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
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from tests.comparison import facts_of_reference, facts_of_state

START_MS = 1_700_000_000_000
KEPT_DAYS = 2

USERS, SLUGS = st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"])
EVENTS = st.builds(
    Event,
    USERS,
    SLUGS,
    st.one_of(
        st.integers(0, 30).map(lambda n: n * 10.0), st.sampled_from([1.0, 9.999, 95.0, 4.0, 380.0])
    ),
    session=st.sampled_from([None, None, "tv", "phone"]),
    duration=st.sampled_from([None, None, None, 100.0, 400.0]),
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(SetPosition, USERS, SLUGS, st.sampled_from([0, 5_000, 50_000, 95_000])),
    st.builds(MarkCompleted, USERS, SLUGS),
    st.builds(UnmarkCompleted, USERS, SLUGS),
    st.builds(Hide, USERS, SLUGS),
    st.builds(Erase, USERS, SLUGS),
    st.builds(Erase, USERS),
    st.builds(
        Describe,
        SLUGS,
        st.sampled_from([None, 100_000, 400_000]),
        st.sampled_from([None, "Title"]),
    ),
)
STEPS = st.one_of(
    st.lists(st.tuples(EVENTS, st.sampled_from([None, 0, 5_000, 90_000_000])), max_size=12),
    COMMANDS,
    st.just("snapshot"),
    st.sampled_from([1, 59_999, 60_001, 90_000]),  # asked, by a clock that is ahead for once
)
PAUSES_MS = st.sampled_from([0, 1, 10_000, 60_000, 1_800_001, 80_000_000, 200_000_000])
RULES = st.sampled_from([Rules(), Rules(max_gap_ms=15_000), Rules(credit="duration")])


def command_reference(reference: Reference, command: Command, now: int) -> None:
    match command:
        case SetPosition(user, slug, at_ms):
            reference.set_position(user, slug, at_ms, now)
        case MarkCompleted(user, slug):
            reference.mark_completed(user, slug, now)
        case UnmarkCompleted(user, slug):
            if (user, slug) in reference.pairs:
                reference.unmark_completed(user, slug)
        case Hide(user, slug):
            if (user, slug) in reference.pairs:
                reference.hide(user, slug)
        case Erase(user, slug):
            reference.erase(user, slug)
        case Describe(slug, duration_ms, title):
            reference.describe(slug, duration_ms or 0, title)


def count_events(
    reference: Reference, state: State, arrivals: Sequence[tuple[Event, int | None]], now: int
) -> None:
    events = []
    for event, late_ms in arrivals:
        ts = None if late_ms is None else float(now - late_ms)
        events.append(
            Event(event.user, event.slug, event.at, event.session, None, ts, event.duration)
        )
        reference.apply(
            event.user,
            event.slug,
            round(event.at * 1000),
            now,
            event.session or "",
            ts_ms=None if ts is None else round(ts),
            duration_ms=round((event.duration or 0) * 1000),
        )
    if events:
        state.apply(to_batch([Part(events)]), now)


@settings(max_examples=400)
@given(RULES, st.lists(st.tuples(PAUSES_MS, STEPS), max_size=30))
def test_state_equals_reference(rules: Rules, steps: list[tuple[int, Any]]) -> None:
    now = START_MS
    reference, state = Reference(rules), State(rules, KEPT_DAYS)
    for pause_ms, step in steps:
        now += pause_ms
        if step == "snapshot":
            loaded = State(rules, KEPT_DAYS)
            loaded.load_arrow(state.to_arrow(), state.extra())
            state = loaded
        elif isinstance(step, list):
            count_events(reference, state, step, now)
        elif isinstance(step, int):
            assert watching_now(state, now + step) == watching_then(reference, now + step)
        else:
            command_reference(reference, step, now)
            apply(state, step, now)
        assert watching_now(state, now) == watching_then(reference, now)
    assert facts_of_state(state) == facts_of_reference(reference, KEPT_DAYS)


def watching_now(state: State, now: int) -> dict[str, int]:
    slugs = state.movie_names.to_list()
    streams = dict(zip(slugs, state.watching_now(now).tolist(), strict=True))
    return {slug: number for slug, number in streams.items() if number}


def watching_then(reference: Reference, now: int) -> dict[str, int]:
    streams = {slug: reference.watching_now(slug, now) for _, slug in reference.pairs}
    return {slug: number for slug, number in streams.items() if number}


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=100, max_size=400), st.integers(0, 3), st.integers(1, 90)
)
def test_many_runs_of_a_pair_are_merged_and_still_exact(
    positions: list[int], reloads: int, batch: int
) -> None:
    reference, state = Reference(), State(Rules())
    for start in range(0, len(positions), batch):
        now = START_MS + start
        arrivals = [(Event("u", "m", p * 7.0), None) for p in positions[start : start + batch]]
        count_events(reference, state, [*arrivals, (Event("v", "m", start * 3.0), None)], now)
        if reloads and start % 3 == 0:
            loaded = State(Rules())
            loaded.load_arrow(state.to_arrow(), state.extra())
            state = loaded
    assert facts_of_state(state) == facts_of_reference(reference)
    for each in (Erase("u"), Erase("v")):
        command_reference(reference, each, START_MS)
        apply(state, each, START_MS)
        assert facts_of_state(state) == facts_of_reference(reference)


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.integers(1, 40), st.sampled_from([0.1, 0.5, 0.9]))
def test_many_runs_and_sessions_of_a_pair_are_still_exact(
    seed: int, sessions: int, seeking: float
) -> None:
    """Erased and loaded in between, when bits say where a pair has been, and when they do not."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible one is what is wanted
    reference, state = Reference(), State(Rules())
    last: dict[tuple[str, int], float] = {}
    arrivals: list[tuple[Event, int | None]]
    for start in range(0, 900, 45):
        now, arrivals = START_MS + start, [(Event("u", "kept", 1.0), None)]
        for _ in range(45):
            viewer = chance.choice("uuuv"), chance.randrange(sessions)
            goes_on = viewer in last and chance.random() > seeking
            step = chance.choice([0.5, 9.0, 29.0])
            last[viewer] = last[viewer] + step if goes_on else chance.randrange(160) * 10.0
            event = Event(viewer[0], "m", last[viewer], str(viewer[1]) if viewer[1] else None)
            arrivals.append((event, None))
        count_events(reference, state, arrivals, now)
        if chance.random() < 0.1:
            erase = Erase("u", "m")
            command_reference(reference, erase, now)
            apply(state, erase, now)
        if chance.random() < 0.2:
            loaded = State(Rules())
            loaded.load_arrow(state.to_arrow(), state.extra())
            state = loaded
        assert facts_of_state(state) == facts_of_reference(reference)
