"""Closed runs of a pair: merged where they overlap, and retention and unique time stay exact."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.changes import apply
from aggregator.commands import Erase
from aggregator.event import Event, Part, to_batch
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from kernels import lists
from kernels.watching import MERGED_FROM
from tests.comparison import facts_of_reference, facts_of_state, rows_of_state
from tests.shards import NOW_MS


def watch_runs(
    state: State, reference: Reference, starts: list[int], batch: int, user: str = "u"
) -> None:
    """A run of 15 s from each start, with seeks in between."""
    events = [Event(user, "m", float(at)) for start in starts for at in (start, start + 15)]
    for first in range(0, len(events), batch):
        some = events[first : first + batch]
        state.apply(to_batch([Part(some)]), NOW_MS)
        for event in some:
            reference.apply(user, "m", round(event.at * 1000), NOW_MS)


def closed_runs(state: State, user: str = "u") -> int:
    row = state.pair_row(user, "m")
    assert row is not None
    first = state.pairs["runs"][[row]].astype(np.int64)
    return len(lists.lists_of(state.runs.closed.rows, first)[1])


def retention(state: State) -> NDArray[np.int64]:
    """The plays of the only movie."""
    return state.retention.of(0, int(state.movies["buckets"][0]))[1]


def reloaded(state: State) -> State:
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    return loaded


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_rewatching_takes_no_more_memory(batch: int) -> None:
    state, reference = State(Rules()), Reference()
    watch_runs(state, reference, [n * 20 % 100 for n in range(1_000)], batch)
    assert closed_runs(state) < 2 * MERGED_FROM
    assert facts_of_state(state) == facts_of_reference(reference)
    assert retention(state).sum() == 1_000 * 2  # two buckets each


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_runs_that_do_not_overlap_are_all_kept(batch: int) -> None:
    state, reference = State(Rules()), Reference()
    watch_runs(state, reference, [n * 100 for n in range(300)], batch)
    assert closed_runs(state) == 299  # the last one is open
    assert facts_of_state(state) == facts_of_reference(reference)
    watch_runs(state, reference, [n * 100 + 40 for n in range(300)], batch)
    assert closed_runs(state) == 599
    assert facts_of_state(state) == facts_of_reference(reference)


@pytest.mark.parametrize("more", [-2, -1, 0, 1, 2])
def test_on_either_side_of_the_first_merge(more: int) -> None:
    state, reference = State(Rules()), Reference()
    count = MERGED_FROM + more
    watch_runs(state, reference, [n % 3 * 7 for n in range(count)], 5)
    assert (closed_runs(state) < MERGED_FROM - 3) == (count > MERGED_FROM)
    assert facts_of_state(state) == facts_of_reference(reference)


def test_merged_runs_are_loaded_grown_and_erased() -> None:
    state, reference = State(Rules()), Reference()
    starts = [n * 13 % 97 for n in range(200)]
    for user in ("u", "v"):
        watch_runs(state, reference, starts, 50, user)
    for _ in range(3):
        state = reloaded(state)
        assert facts_of_state(state) == facts_of_reference(reference)
        watch_runs(state, reference, starts, 50)
        assert facts_of_state(state) == facts_of_reference(reference)
    assert closed_runs(state) < 2 * MERGED_FROM
    for erase in (Erase("u", "m"), Erase("v")):
        apply(state, erase, NOW_MS)
        reference.erase(erase.user, erase.slug)
        assert facts_of_state(state) == facts_of_reference(reference)
    assert retention(state).tolist() == []
    assert not state.runs._more_plays
    watch_runs(state, reference, starts, 50)
    assert facts_of_state(reloaded(state)) == facts_of_reference(reference)


def test_a_movie_erased_whole_is_as_if_it_had_never_been() -> None:
    erased, new = State(Rules()), State(Rules())
    watch_runs(erased, Reference(), [0, 500], 10)
    apply(erased, Erase("u"), NOW_MS)
    for state in (erased, new):
        state.order = 0
        watch_runs(state, Reference(), [0], 10)
    assert rows_of_state(erased) == rows_of_state(new) == rows_of_state(reloaded(erased))
    assert retention(erased).tolist() == [1, 1]
