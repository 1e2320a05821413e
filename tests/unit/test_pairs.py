"""What a pair takes in memory, and that the rest is there when it is needed."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator import erasure
from aggregator.changes import apply
from aggregator.commands import Hide, SetPosition
from aggregator.event import Event, Part, to_batch
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from kernels import narrow
from kernels.compiler import kernel
from kernels.pairs import EVENTS_MAX
from kernels.rows import INT40, INT48, PAIR
from tests.comparison import facts_of_reference, facts_of_state, rows_of_state
from tests.shards import NOW_MS

#: The highest position that an event can have.
AT_MAX_MS = 10_000_000_000
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
    assert PAIR.itemsize == 52


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


@pytest.mark.parametrize("credit", ["position", "duration"])
def test_the_largest_positions(credit: Literal["position", "duration"]) -> None:
    rules = Rules(credit=credit)
    state, reference = State(rules), Reference(rules)
    for number, at_ms in enumerate((AT_MAX_MS - 20, AT_MAX_MS - 10, AT_MAX_MS, 0, AT_MAX_MS)):
        state.apply(to_batch([Part([Event("u", "m", at_ms / 1000)])]), NOW_MS + number)
        reference.apply("u", "m", at_ms, NOW_MS + number)
    loaded = State(rules)
    loaded.load_arrow(state.to_arrow(), state.extra())
    for each in (state, loaded):
        assert facts_of_state(each) == facts_of_reference(reference)


def test_more_events_than_a_row_counts() -> None:
    state = counted(GOES_ON[0])
    state.pairs.put("events_or_more", 0, EVENTS_MAX - 1)
    for number in range(1, 4):
        assert own_rows(state) == (number > 2)
        state.apply(to_batch([Part([GOES_ON[1]])]), NOW_MS + number)
        assert state.pairs["events"].tolist() == [EVENTS_MAX - 1 + number]
        assert reloaded(state).pairs["events"].tolist() == [EVENTS_MAX - 1 + number]
    assert state.pairs["watch_ms"].tolist() == [10_000]


@given(st.lists(st.integers(-(1 << 39), (1 << 39) - 1), min_size=1))
@pytest.mark.parametrize("dtype", [INT40, INT48])
def test_narrow_numbers_are_what_was_put(dtype: np.dtype[Any], numbers: list[int]) -> None:
    column = np.zeros(len(numbers), dtype)
    narrow.put_all(column, slice(None), numbers)
    assert narrow.values(column).tolist() == numbers
    assert _put_each(np.zeros(len(numbers), dtype), np.array(numbers)).tolist() == numbers


@kernel
def _put_each(column: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    for i in range(len(column)):
        narrow.put(column[i], numbers[i])
    for i in range(len(column)):
        numbers[i] = narrow.value(column[i])
    return numbers


def test_a_pair_without_events_whose_first_was_written_as_the_end_of_time() -> None:
    state = State(Rules())
    apply(state, SetPosition("u", "m", 7_000), NOW_MS)
    tables = state.to_arrow()
    first_t = pa.array([np.iinfo(np.int64).max])
    index = tables["pairs"].column_names.index("first_t")
    tables["pairs"] = tables["pairs"].set_column(index, "first_t", first_t)
    loaded = State(Rules())
    loaded.load_arrow(tables, state.extra())
    loaded.apply(to_batch([Part([Event("u", "m", 8.0)])]), NOW_MS + 1)
    assert loaded.pairs["first_t"].tolist() == [NOW_MS + 1]


def test_who_watches_is_known_where_the_clock_begins_at_nothing() -> None:
    state = State(Rules())
    apply(state, SetPosition("u", "m", 7_000), 5)
    assert state.watching_now(10).tolist() == [0]
    state.apply(to_batch([Part([Event("u", "m", 8.0)])]), 20)
    assert state.watching_now(30).tolist() == [1]


def test_who_comes_back_after_an_erase_is_watching_once() -> None:
    state = counted(*GOES_ON, Event("u", "m", 75.0, session="tv"))
    assert state.watching_now(NOW_MS).tolist() == [2]
    erasure.erase(state, "u", "m")
    assert state.watching_now(NOW_MS).tolist() == [0]
    state.apply(to_batch([Part([GOES_ON[0]])]), NOW_MS)
    assert state.watching_now(NOW_MS).tolist() == [1]
    assert erasure.erase(state, "u", "m")
    assert np.array_equal(state.totals[:3], [0, 0, 0])
