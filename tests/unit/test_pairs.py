"""What a pair takes in memory, and that the rest is there when it is needed."""

import numpy as np
import pytest

from aggregator import erasure
from aggregator.changes import apply
from aggregator.commands import Hide, SetPosition
from aggregator.event import Event, Part, to_batch
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from kernels.rows import PAIR
from tests.comparison import facts_of_reference, facts_of_state, rows_of_state
from tests.shards import NOW_MS

GOES_ON = [Event("u", "m", float(at)) for at in (5, 15, 15, 75)]


def counted(*events: Event) -> State:
    state = State(Rules())
    for number, event in enumerate(events):
        state.apply(to_batch([Part([event])]), NOW_MS + number)
    return state


def own_rows(state: State) -> int:
    """How many pairs have a row in `more`."""
    return len(state.pairs.more) - 1


def reloaded(state: State) -> State:
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    return loaded


def test_a_pair_that_only_goes_on_takes_one_row() -> None:
    state = counted(*GOES_ON)
    for each in (state, reloaded(state)):
        assert own_rows(each) == len(each.hours_of_pairs) == 0
    assert PAIR.itemsize == 76


@pytest.mark.parametrize(
    "event",
    [
        Event("u", "m", 74.0),
        Event("u", "m", 500.0),
        Event("u", "m", 80.0, session="tv"),
        Event("u", "m", 80.0, duration=1_000.0),
        Event("u", "m", 80.0, ts=1.0),
        Event("u", "m", 10.0, ts=float(NOW_MS)),
    ],
)
def test_what_is_evident_no_more_is_kept(event: Event) -> None:
    state, reference = counted(*GOES_ON, event, *GOES_ON), Reference()
    for number, each in enumerate((*GOES_ON, event, *GOES_ON)):
        ts_ms = None if each.ts is None else round(each.ts)
        duration_ms = round((each.duration or 0) * 1000)
        at_ms, session = round(each.at * 1000), each.session or ""
        reference.apply("u", "m", at_ms, NOW_MS + number, session, None, ts_ms, duration_ms)
    assert own_rows(state) == 1
    for again in (state, reloaded(state)):
        assert facts_of_state(again) == facts_of_reference(reference)
    assert rows_of_state(reloaded(state)) == rows_of_state(state)


def test_changes_by_hand_leave_the_stream_where_it_is() -> None:
    state, reference = counted(*GOES_ON), Reference()
    for number, event in enumerate(GOES_ON):
        reference.apply("u", "m", round(event.at * 1000), NOW_MS + number)
    apply(state, SetPosition("u", "m", 7_000), NOW_MS + 9)
    reference.set_position("u", "m", 7_000, NOW_MS + 9)
    apply(state, Hide("u", "m"), NOW_MS + 10)
    reference.hide("u", "m")
    apply(state, SetPosition("u", "n", 7_000), NOW_MS + 11)
    reference.set_position("u", "n", 7_000, NOW_MS + 11)
    for slug in ("m", "n"):
        state.apply(to_batch([Part([Event("u", slug, 80.0)])]), NOW_MS + 12)
        reference.apply("u", slug, 80_000, NOW_MS + 12)
    for each in (state, reloaded(state)):
        assert facts_of_state(each) == facts_of_reference(reference)


def test_who_comes_back_after_an_erase_is_watching_once() -> None:
    state = counted(*GOES_ON, Event("u", "m", 75.0, session="tv"))
    assert state.watching_now(NOW_MS).tolist() == [2]
    erasure.erase(state, "u", "m")
    assert state.watching_now(NOW_MS).tolist() == [0]
    state.apply(to_batch([Part([GOES_ON[0]])]), NOW_MS)
    assert state.watching_now(NOW_MS).tolist() == [1]
    assert erasure.erase(state, "u", "m")
    assert np.array_equal(state.totals[:3], [0, 0, 0])
