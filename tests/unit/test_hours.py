"""Watch time by hour, against a plain sum over what each pair added."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.event import Event, Part, to_batch
from aggregator.hours import Hours
from aggregator.rules import Rules, fold_before, hour_kept
from aggregator.state import State
from kernels.rows import HOUR_MS
from tests.shards import NOW_MS

KEPT_DAYS = 2
PAIRS, MOVIES = 5, 2
HOUR = NOW_MS // HOUR_MS
DAY = HOUR // 24 * 24


def movie_of(pair: int) -> int:
    return pair % MOVIES


class Model:
    """What every pair added, hour by hour."""

    def __init__(self) -> None:
        self.added: Counter[tuple[int, int]] = Counter()
        self.received_ms = 0

    def of_movies(self, now_ms: int) -> Counter[tuple[int, int]]:
        hours: Counter[tuple[int, int]] = Counter()
        for (pair, hour), credit in self.added.items():
            hours[movie_of(pair), hour_kept(hour, now_ms, KEPT_DAYS)] += credit
        return hours


def add(hours: Hours, model: Model, credits: Iterable[tuple[int, int, int]]) -> None:
    """Adds (pair, t, credit) triples."""
    pairs, t, credit = (np.array(column, np.int64) for column in zip(*credits, strict=True))
    hours.add(pairs % MOVIES, t // HOUR_MS, credit)
    for pair, at, amount in zip(pairs.tolist(), t.tolist(), credit.tolist(), strict=True):
        model.added[pair, at // HOUR_MS] += amount


def forget(hours: Hours, model: Model, pairs: set[int]) -> None:
    """Takes away all that pairs added, hour by hour."""
    gone = {key: model.added.pop(key) for key in list(model.added) if key[0] in pairs}
    rows = [(movie_of(pair), hour, -credit) for (pair, hour), credit in gone.items()]
    hours.add(*np.array(rows, np.int64).reshape(-1, 3).T)


def check(hours: Hours, model: Model, now_ms: int) -> None:
    expected = model.of_movies(model.received_ms)
    totals = hours.totals().to_pydict()
    found = zip(totals["movie"], totals["hour"], totals["watch_ms"], strict=True)
    assert sorted(found) == sorted((*key, credit) for key, credit in expected.items() if credit)
    later = model.of_movies(now_ms)
    for movie in range(MOVIES + 1):
        for first, end in ((HOUR - 150, HOUR + 3), (HOUR - 61, HOUR - 31), (HOUR, HOUR)):
            wanted = [later[movie, hour] for hour in range(first, end)]
            assert hours.of_movie(movie, first, end, now_ms).tolist() == wanted
    kept = hours.fold_before
    for hour in (kept, kept + 7, kept + 48, now_ms // HOUR_MS):
        since: Counter[int] = Counter()
        for (movie, at), credit in expected.items():
            since[movie] += credit if at >= hour else 0
        assert hours.since(hour, MOVIES).tolist() == [since[m] for m in range(MOVIES)]


def reloaded(hours: Hours) -> Hours:
    """As after a snapshot."""
    loaded = Hours(KEPT_DAYS)
    loaded.load_arrow(hours.to_arrow(np.arange(MOVIES)), hours.fold_before)
    return loaded


CREDITS = st.lists(
    st.tuples(
        st.integers(0, PAIRS - 1),
        st.sampled_from([0, 1, HOUR_MS // 2, HOUR_MS, 5 * HOUR_MS, 30 * HOUR_MS, 100 * HOUR_MS]),
        st.integers(1, 60_000),
    ),
    min_size=1,
    max_size=8,
).map(lambda credits: sorted(credits, key=lambda credit: credit[0]))
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1_000, HOUR_MS, 20 * HOUR_MS]),
        st.one_of(CREDITS, CREDITS, st.sets(st.integers(0, PAIRS - 1)), st.just("reload")),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(STEPS)
def test_equals_what_the_pairs_added(steps: list[tuple[int, Any]]) -> None:
    hours, model, now_ms = Hours(KEPT_DAYS), Model(), NOW_MS
    for pause_ms, step in steps:
        now_ms += pause_ms
        if step == "reload":
            hours = reloaded(hours)
        elif isinstance(step, set):
            forget(hours, model, step)
        else:
            add(hours, model, [(pair, now_ms - late, credit) for pair, late, credit in step])
            hours.fold(now_ms)
            model.received_ms = now_ms
        assert hours.fold_before == max(0, fold_before(model.received_ms, KEPT_DAYS))
    for days in (0, 1, 2, 3, 50):
        check(hours, model, now_ms + days * 24 * HOUR_MS)


def test_days_fold_when_they_are_old_and_their_memory_is_free() -> None:
    hours, model = Hours(KEPT_DAYS), Model()
    for hour in range(10 * 24):
        now_ms = (DAY + hour) * HOUR_MS
        add(hours, model, [(0, now_ms, 10)])
        hours.fold(now_ms)
    assert sorted(hours._days) == [DAY // 24 + day for day in (7, 8, 9)]
    sums = hours.of_movie(0, DAY, DAY + 240, now_ms)
    assert sums[: 7 * 24].tolist() == ([240] + [0] * 23) * 7
    assert sums[7 * 24 :].tolist() == [10] * 72


@pytest.mark.parametrize("late_days", [0, 1, 2, 3, 40])
def test_a_late_credit_counts_when_it_happened(late_days: int) -> None:
    hours, model = Hours(KEPT_DAYS), Model()
    hours.fold(NOW_MS)
    model.received_ms = NOW_MS
    at = HOUR - late_days * 24
    add(hours, model, [(0, at * HOUR_MS + 5, 10), (0, at * HOUR_MS + 6, 1), (1, at * HOUR_MS, 7)])
    assert hours.of_movie(0, at // 24 * 24, at // 24 * 24 + 24, NOW_MS).sum() == 11
    folded_into = at if late_days <= KEPT_DAYS else at // 24 * 24
    assert hours.of_movie(0, folded_into, folded_into + 1, NOW_MS).tolist() == [11]
    forget(hours, model, {0, 1})
    assert len(hours.totals()) == 0
    assert not hours.of_movie(0, DAY - 1_000, DAY + 24, NOW_MS).any()


def test_hours_are_in_days_once_they_are_old_also_where_nothing_happens() -> None:
    """Shards that had nothing to count told hours where others told days."""
    hours, model = Hours(KEPT_DAYS), Model()
    add(hours, model, [(0, (DAY + 5) * HOUR_MS, 10), (0, (DAY + 9) * HOUR_MS, 5)])
    hours.fold(NOW_MS)
    told = [
        hours.of_movie(0, DAY + first, DAY + end, (DAY + 24 * days) * HOUR_MS).tolist()
        for days in (2, 3)
        for first, end in ((0, 10), (5, 10), (0, 1))
    ]
    by_hour = [0, 0, 0, 0, 0, 10, 0, 0, 0, 5]
    assert told == [by_hour, by_hour[5:], [0], [15] + [0] * 9, [0] * 5, [15]]


def test_events_without_effect_fold_nothing() -> None:
    """Stored events do not know of them, so what is counted from those folded later."""
    state = State(Rules(), KEPT_DAYS)
    later_ms = NOW_MS + (KEPT_DAYS + 2) * 24 * HOUR_MS
    watched = to_batch([Part([Event("u", "m", 0.0, id="a"), Event("u", "m", 10.0, id="b")])])
    again = to_batch([Part([Event("u", "m", 10.0, id="b")])])
    state.apply(watched, NOW_MS)
    folded_before = state.hours.fold_before
    state.apply(again, later_ms)
    assert state.hours.fold_before == folded_before
    state.apply(to_batch([Part([Event("u", "m", 20.0)])]), later_ms)
    assert state.hours.fold_before == fold_before(later_ms, KEPT_DAYS) > folded_before
