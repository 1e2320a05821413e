"""The structures under the state, against Python's own."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.intmap import IntMap
from aggregator.recent import RecentHashes
from aggregator.rules import BUCKET_MS
from aggregator.runs import Intervals

INT64 = st.integers(-(2**63), 2**63 - 1)
INTERVALS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 15)).map(
        lambda p: (p[0], p[1], p[1] + p[2])
    )
).map(lambda rows: Intervals(*np.array(rows, np.int64).reshape(-1, 3).T))


@given(st.lists(st.lists(INT64, unique=True, max_size=50)), st.lists(INT64))
def test_intmap_is_a_dict(groups: list[list[int]], strangers: list[int]) -> None:
    table = IntMap()
    model: dict[int, int] = {}
    for group in groups:
        fresh = [key for key in group if key not in model]
        rows = np.arange(len(model), len(model) + len(fresh))
        model.update(zip(fresh, rows.tolist(), strict=True))
        table.insert(np.array(fresh, np.int64), rows)
    asked = [*model, *strangers]
    assert table.find(np.array(asked, np.int64)).tolist() == [model.get(k, -1) for k in asked]
    assert len(table) == len(model)
    assert sorted(table.keys().tolist()) == sorted(model)


def test_intmap_grows_and_keeps_everything() -> None:
    table = IntMap()
    keys = np.random.default_rng(1).permutation(200_000) << 32
    for start in range(0, len(keys), 7_777):
        part = keys[start : start + 7_777]
        table.insert(part, np.arange(start, start + len(part)))
    assert (table.find(keys) == np.arange(len(keys))).all()
    assert (table.find(keys + 1) == -1).all()


def numbers_of(intervals: Intervals) -> list[tuple[int, int]]:
    spans = zip(
        *(c.tolist() for c in (intervals.group, intervals.start, intervals.end)), strict=True
    )
    return [(group, number) for group, start, end in spans for number in range(start, end)]


@given(INTERVALS)
def test_a_union_is_a_set_of_integers_a_group(intervals: Intervals) -> None:
    union = intervals.union()
    numbers = numbers_of(union)
    assert numbers == sorted(set(numbers_of(intervals)))
    touching = (union.group[1:] == union.group[:-1]) & (union.start[1:] <= union.end[:-1])
    assert not touching.any()
    by_group = Counter(group for group, _ in numbers)
    assert union.lengths(4).tolist() == [by_group[group] for group in range(4)]


@given(INTERVALS)
def test_runs_touch_the_buckets_that_they_cover_a_part_of(intervals: Intervals) -> None:
    scaled = Intervals(intervals.group, intervals.start * 1_700, intervals.end * 1_700)
    buckets = scaled.covering().buckets()
    assert set(numbers_of(buckets)) == {
        (group, k)
        for group, start, end in zip(scaled.group, scaled.start, scaled.end, strict=True)
        for k in range(start // BUCKET_MS, -(-end // BUCKET_MS))
        if end > start
    }


@given(st.lists(st.lists(st.integers(1, 40), unique=True, max_size=8), max_size=30))
def test_recent_hashes_remember_at_least_a_half(groups: list[list[int]]) -> None:
    half_max = 10
    recent, order = RecentHashes(half_max=half_max), list[int]()
    for received_ms, group in enumerate(groups):
        known = recent.contains(np.array(group, np.int64))
        fresh = [h for h, k in zip(group, known.tolist(), strict=True) if not k]
        assert not set(fresh) & set(order[-half_max:])
        recent.add(np.array(fresh, np.int64), received_ms)
        order += fresh
        assert len(recent) <= 2 * (half_max + 8)


def test_recent_hashes_forget_after_two_windows() -> None:
    recent = RecentHashes(window_ms=100)
    recent.add(np.array([1]), 1_000)
    recent.add(np.array([2]), 1_101)
    assert recent.contains(np.array([1, 2])).tolist() == [True, True]
    recent.add(np.array([3]), 1_202)
    assert recent.contains(np.array([1, 2, 3])).tolist() == [False, True, True]
