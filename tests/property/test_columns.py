"""The structures under the state, against Python's own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.intmap import IntMap
from aggregator.recent import RecentHashes
from aggregator.rules import BUCKET_MS
from aggregator.runs import Cover, Interval, Runs, Steps

INT64 = st.integers(-(2**63), 2**63 - 1)
INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda p: (p[0], sum(p)))
)


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


@given(INTERVALS)
def test_cover_is_a_set_of_integers(intervals: list[Interval]) -> None:
    cover, model = Cover(), set[int]()
    for start, end in intervals:
        ground = set(range(start, end))
        fresh = [n for a, b in cover.add(start, end) for n in range(a, b)]
        assert len(fresh) == len(set(fresh))
        assert set(fresh) == ground - model
        model |= ground
        assert {n for a, b in cover.intervals() for n in range(a, b)} == model
    assert cover.length() == len(model)
    assert cover.edges == sorted(set(cover.edges))


@given(INTERVALS, st.integers(0, 60), st.integers(1, 20))
def test_cover_finds_what_overlaps(intervals: list[Interval], start: int, width: int) -> None:
    cover = Cover()
    for interval in intervals:
        cover.add(*interval)
    wanted = [(a, b) for a, b in cover.intervals() if a < start + width and b > start]
    assert list(cover.overlapping(start, start + width)) == wanted


@given(INTERVALS)
def test_steps_count_what_covers_a_bucket(spans: list[Interval]) -> None:
    steps = Steps()
    for span in spans:
        steps.raise_over(span)
    width = max((end for _, end in spans), default=0)
    assert steps.values().tolist() == [
        sum(start <= bucket < end for start, end in spans) for bucket in range(width)
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90_000), st.integers(0, 40_000))))
def test_runs_are_the_same_open_and_closed(runs: list[tuple[int, int, int]]) -> None:
    """A movie's retention does not depend on which runs have closed yet."""
    intervals = [(pair, start, start + length) for pair, start, length in runs if length]
    closed = Runs()
    for pair, start, end in intervals:
        closed.close(pair, 0, start, end)
    half = Runs()
    for pair, start, end in intervals[::2]:
        half.close(pair, 0, start, end)
    viewers, plays = closed.retention(0, [])
    same_viewers, same_plays = half.retention(0, intervals[1::2])
    assert (viewers.tolist(), plays.tolist()) == (same_viewers.tolist(), same_plays.tolist())
    covered = [
        {(pair, k) for k in range(start // BUCKET_MS, (end - 1) // BUCKET_MS + 1)}
        for pair, start, end in intervals
    ]
    assert sum(viewers.tolist()) == len(set().union(*covered))
    assert sum(plays.tolist()) == sum(map(len, covered))


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
