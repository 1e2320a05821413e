"""What a state says to queries that are answered together."""

import numpy as np

from aggregator.answers import View
from aggregator.event import Event, Part, to_batch
from aggregator.messages import (
    ContinueQuery,
    HistoryPage,
    HistoryQuery,
    Place,
    ProgressQuery,
    Query,
    UserQuery,
)
from aggregator.rules import WATCHING_NOW_MS, Rules
from aggregator.state import State
from tests.shards import NOW_MS


def state_of(*events: Event) -> State:
    state = State(Rules())
    for later, event in enumerate(events):
        state.apply(to_batch([Part([event])]), NOW_MS + later)
    return state


def test_queries_of_all_kinds_get_the_answers_that_each_gets_alone() -> None:
    state = state_of(
        Event("u", "a", 50.0), Event("v", "b", 60.0), Event("u", "c", 70.0), Event("u", "d", 0.0)
    )
    queries: list[Query] = [
        HistoryQuery("u", 2),
        ProgressQuery("u", "a"),
        UserQuery("v"),
        HistoryQuery("?", 2),
        ContinueQuery("u", 5),
        ProgressQuery("u", "b"),
        HistoryQuery("u", 2, Place(NOW_MS + 2, 2)),
        ContinueQuery("?", 5),
        ProgressQuery("v", "b"),
        ContinueQuery("v", 5),
    ]
    view = View(state, NOW_MS)
    together = view.answer_all(queries)
    assert together == [view.answer_all([query])[0] for query in queries]
    first, a, _, nobody, to_continue, nothing, rest, no_list, b, _ = together
    assert isinstance(first, HistoryPage)
    assert [movie.slug for movie in first.movies] == ["d", "c"]
    assert first.next is not None
    assert rest == HistoryPage([movie for movie in rest.movies if movie.progress == a], None)
    assert [movie.slug for movie in to_continue] == ["c", "a"]
    assert (a.latest_ms, b.latest_ms) == (50_000, 60_000)
    assert nobody is nothing is no_list is None


def test_what_is_no_longer_watched_is_forgotten_until_it_is_watched_again() -> None:
    state = state_of(Event("u", "a", 50.0), Event("v", "a", 60.0), Event("v", "b", 60.0, "tv"))
    later_ms = NOW_MS + 2 * WATCHING_NOW_MS
    assert state.watching_now(NOW_MS + 2).tolist() == [2, 1]
    assert state.watching_now(later_ms).tolist() == [0, 0]
    state.apply(to_batch([Part([Event("v", "b", 70.0, "tv"), Event("v", "a", 70.0)])]), later_ms)
    for _ in range(2):
        assert state.watching_now(later_ms).tolist() == [1, 1]


def test_many_come_and_go_while_someone_asks() -> None:
    """In many words of bits, asked at any time between, and not at all for a while."""
    state, random, now_ms = State(Rules()), np.random.default_rng(1), NOW_MS
    for _ in range(300):
        now_ms += int(random.choice([1, 500, 7_000, 61_000], p=[0.3, 0.4, 0.25, 0.05]))
        some = random.integers(0, 600, random.integers(1, 40)).tolist()
        beats = [
            Event(f"{n}", f"{n % 3}", 0.0, "tv" if random.random() < 0.5 else None) for n in some
        ]
        state.apply(to_batch([Part(beats)]), now_ms)
        if random.random() < 0.5:
            since_t, expected = now_ms - WATCHING_NOW_MS, np.zeros(len(state.movies), np.int64)
            nameless, named = state.pairs["last_t"], state.streams["last_t"]
            np.add.at(expected, state.pairs["movie"][nameless >= since_t], 1)
            of = state.streams["pair"][named >= since_t]
            np.add.at(expected, state.pairs["movie"][of], 1)
            assert np.array_equal(state.watching_now(now_ms), expected)


def test_who_watches_is_known_whichever_way_the_clock_steps() -> None:
    state = state_of(Event("u", "m", 0.0), Event("v", "m", 0.0, "tv"))
    for late_ms in (0, 70_000, 30_000, 71_000, 61_000, 59_000, 10_000_000, 0):
        expected = 2 * (late_ms < WATCHING_NOW_MS)
        assert state.watching_now(NOW_MS + late_ms).tolist() == [expected]


def test_who_watches_is_known_after_a_clock_that_was_ahead_while_someone_asked() -> None:
    """No stream was marked until the time had come at which they had asked."""
    state = State(Rules())
    day_ms = 24 * 3_600_000
    state.apply(to_batch([Part([Event("u", "m", 0.0), Event("v", "m", 0.0)])]), NOW_MS)
    assert state.watching_now(NOW_MS + day_ms).tolist() == [0]
    state.apply(to_batch([Part([Event("u", "m", 10.0)])]), NOW_MS + 10_000)
    assert state.watching_now(NOW_MS + 10_000).tolist() == [2]
    assert state.watching_now(NOW_MS + 65_000).tolist() == [1]
