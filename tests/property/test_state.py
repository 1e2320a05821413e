"""The vector code equals the scalar reference on any traffic, at any batch boundaries."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.answers import View
from aggregator.event import Event, Part, to_batch
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from persistence.batch import Batch
from tests.comparison import facts_of_reference, facts_of_state

START_MS = 1_700_000_000_000

#: Few names and round numbers, so that edges and ties come up all the time.
NAMES = st.sampled_from(["a", "b", "c"])
POSITIONS = st.one_of(
    st.integers(0, 30).map(lambda n: n * 10.0),
    st.sampled_from([60.0, 60.001, 120.0, 119.999, 99.5, 94.999, 95.0, 1.0, 3.0, 9.999]),
    st.floats(0, 400, allow_nan=False).map(lambda at: round(at, 4)),
)
PAUSES_MS = st.sampled_from([0, 0, 1, 5_000, 59_999, 60_000, 1_799_999, 1_800_000, 1_800_001])
LATENESS_MS = st.sampled_from([None, None, 0, 1, 5_000, 1_800_000, 4_000_000, -7_000])


@dataclass(frozen=True)
class Arrival:
    event: Event
    received_ms: int


@st.composite
def traffic(draw: st.DrawFn) -> list[Arrival]:
    arrivals, now = [], START_MS
    for _ in range(draw(st.integers(1, 60))):
        now += draw(PAUSES_MS)
        late_ms = draw(LATENESS_MS)
        event = Event(
            draw(NAMES),
            draw(NAMES),
            draw(POSITIONS),
            session=draw(st.sampled_from([None, None, "tv", "phone"])),
            id=draw(st.sampled_from([None, None, None, "1", "2", "3", "4", "5"])),
            ts=None if late_ms is None else float(now - late_ms),
            duration=draw(st.sampled_from([None, None, None, 100.0, 400.0, 0.5])),
        )
        arrivals.append(Arrival(event, now))
    return arrivals


def boundaries(arrivals: list[Arrival]) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, len(arrivals)), unique=True).map(sorted)


RULES = st.sampled_from(
    [Rules(), Rules(max_gap_ms=0, idle_ms=5_000, complete_ratio=0.5), Rules(credit="duration")]
)


def apply_one_by_one(rules: Rules, arrivals: list[Arrival]) -> tuple[Reference, list[bool]]:
    reference = Reference(rules)
    duplicates = [
        not reference.apply(
            arrival.event.user,
            arrival.event.slug,
            round(arrival.event.at * 1000),
            arrival.received_ms,
            arrival.event.session or "",
            arrival.event.id,
            None if arrival.event.ts is None else round(arrival.event.ts),
            round((arrival.event.duration or 0) * 1000),
        )
        for arrival in arrivals
    ]
    return reference, duplicates


def apply_in_batches(
    rules: Rules, arrivals: list[Arrival], ends: list[int]
) -> tuple[State, list[bool]]:
    state = State(rules)
    duplicates: list[bool] = []
    for start, end in zip([0, *ends], [*ends, len(arrivals)], strict=True):
        chunk = arrivals[start:end]
        if chunk:
            batch = to_batch([Part([arrival.event for arrival in chunk])])
            received_ms = np.array([arrival.received_ms for arrival in chunk])
            duplicates += state.apply(Batch.decode(batch.encode()), received_ms).tolist()
    return state, duplicates


@settings(max_examples=400)
@given(RULES, traffic(), st.data())
def test_state_equals_reference(rules: Rules, arrivals: list[Arrival], data: Any) -> None:
    reference, expected_duplicates = apply_one_by_one(rules, arrivals)
    state, duplicates = apply_in_batches(rules, arrivals, data.draw(boundaries(arrivals)))
    assert duplicates == expected_duplicates
    assert facts_of_state(state) == facts_of_reference(reference)
    assert state.events == duplicates.count(False)
    now_ms = arrivals[-1].received_ms
    assert View(state, now_ms).watching_now.tolist() == [
        reference.watching_now(slug, now_ms) for slug in state.movie_names.to_list()
    ]


@settings(max_examples=100)
@given(traffic(), st.data())
def test_a_loaded_snapshot_goes_on_as_if_nothing_had_happened(
    arrivals: list[Arrival], data: Any
) -> None:
    cut = data.draw(st.integers(0, len(arrivals)))
    before, _ = apply_in_batches(Rules(), arrivals[:cut], [])
    loaded = State(Rules())
    loaded.load_arrow(before.to_arrow(), before.extra())
    assert facts_of_state(loaded) == facts_of_state(before)
    for arrival in arrivals[cut:]:
        loaded.apply(to_batch([Part([arrival.event])]), arrival.received_ms)
    reference, _ = apply_one_by_one(Rules(), arrivals)
    assert facts_of_state(loaded) == facts_of_reference(reference)
