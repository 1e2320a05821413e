"""Closed runs: what they cover for a pair (unique time) and for a movie (retention).

A run closes at a seek or after a break, so this is the rare path: plain Python,
a run at a time. Open runs are not here; whoever asks adds them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.rules import BUCKET_MS

Interval = tuple[int, int]


class Cover:
    """A set of integers as sorted, disjoint, half-open intervals.

    `edges` holds their ends in order: start, end, start, end …
    """

    __slots__ = ("edges",)

    def __init__(self, edges: list[int] | None = None) -> None:
        self.edges: list[int] = edges or []

    def add(self, start: int, end: int) -> list[Interval]:
        """Covers [start, end) and returns the parts of it that were not covered before."""
        low, high = bisect_left(self.edges, start), bisect_right(self.edges, end)
        inner = self.edges[low:high]
        before = [] if low % 2 else [start]
        after = [] if high % 2 else [end]
        self.edges[low:high] = before + after
        seams = before + inner + after
        return [(a, b) for a, b in zip(seams[::2], seams[1::2], strict=True) if b > a]

    def intervals(self) -> Iterator[Interval]:
        return zip(self.edges[::2], self.edges[1::2], strict=True)

    def overlapping(self, start: int, end: int) -> Iterator[Interval]:
        """The intervals that share ground with [start, end)."""
        low = bisect_right(self.edges, start) // 2 * 2
        high = bisect_left(self.edges, end)
        return zip(self.edges[low:high:2], self.edges[low + 1 : high + 1 : 2], strict=True)

    def length(self) -> int:
        return sum(end - start for start, end in self.intervals())

    def copy(self) -> "Cover":
        return Cover(self.edges.copy())


def bucket_span(start: int, end: int) -> Interval:
    """The retention buckets that a run of positive length touches, as a half-open interval."""
    return start // BUCKET_MS, (end - 1) // BUCKET_MS + 1


class Steps:
    """A function of the bucket number that is 0 far out, kept as its changes."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: dict[int, int] = {}

    def raise_over(self, span: Interval) -> None:
        """Adds 1 on every bucket of `span`."""
        for bucket, change in zip(span, (1, -1), strict=True):
            self.changes[bucket] = self.changes.get(bucket, 0) + change

    def copy(self) -> "Steps":
        twin = Steps()
        twin.changes = self.changes.copy()
        return twin

    def values(self) -> NDArray[np.int64]:
        """The value of each bucket, up to the last one that is not 0."""
        changes = [(bucket, change) for bucket, change in sorted(self.changes.items()) if change]
        levels = np.cumsum([0, *(change for _, change in changes)], dtype=np.int64)
        widths = [after[0] - before[0] for before, after in pairwise([(0, 0), *changes])]
        return np.repeat(levels[: len(widths)], np.array(widths, np.int64))


class Runs:
    """The closed runs of a shard, by pair row and by movie code."""

    def __init__(self) -> None:
        self._covers: dict[int, Cover] = {}
        self._viewers: dict[int, Steps] = {}
        self._plays: dict[int, Steps] = {}

    def close(self, pair: int, movie: int, start_ms: int, end_ms: int) -> None:
        """Adds a closed run; one of length 0 covers nothing."""
        if end_ms <= start_ms:
            return
        cover = self._covers.setdefault(pair, Cover())
        viewers = self._viewers.setdefault(movie, Steps())
        plays = self._plays.setdefault(movie, Steps())
        _add_run(cover, viewers, plays, start_ms, end_ms)

    def unique_ms(self, pair: int, open_runs: Iterable[Interval]) -> int:
        """The length of the union of the pair's closed runs and its `open_runs`."""
        cover = self._covers.get(pair, _NOTHING).copy()
        for start, end in open_runs:
            cover.add(start, end)
        return cover.length()

    def retention(
        self, movie: int, open_runs: Iterable[tuple[int, int, int]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Viewers and plays of each bucket; `open_runs` are (pair, start, end), end > start."""
        viewers = self._viewers.get(movie, Steps()).copy()
        plays = self._plays.get(movie, Steps()).copy()
        covers: dict[int, Cover] = {}
        for pair, start, end in open_runs:
            if pair not in covers:
                covers[pair] = self._covers.get(pair, _NOTHING).copy()
            _add_run(covers[pair], viewers, plays, start, end)
        return viewers.values(), plays.values()

    def to_arrow(self) -> dict[str, pa.Table]:
        covered = [
            (pair, start, end)
            for pair, cover in self._covers.items()
            for start, end in cover.intervals()
        ]
        changes = [
            (movie, is_play, bucket, change)
            for is_play, of_movies in enumerate((self._viewers, self._plays))
            for movie, steps in of_movies.items()
            for bucket, change in steps.changes.items()
        ]
        return {
            "covers": _columns(covered, ("pair", "start_ms", "end_ms")),
            "retention": _columns(changes, ("movie", "is_play", "bucket", "change")),
        }

    def load_arrow(self, tables: dict[str, pa.Table]) -> None:
        covers = tables["covers"].to_pydict()
        for pair, *interval in zip(*covers.values(), strict=True):
            self._covers.setdefault(pair, Cover()).edges += interval
        retention = tables["retention"].to_pydict()
        for movie, is_play, bucket, change in zip(*retention.values(), strict=True):
            of_movies = self._plays if is_play else self._viewers
            of_movies.setdefault(movie, Steps()).changes[bucket] = change


_NOTHING = Cover()


def _add_run(cover: Cover, viewers: Steps, plays: Steps, start_ms: int, end_ms: int) -> None:
    first, stop = bucket_span(start_ms, end_ms)
    plays.raise_over((first, stop))
    touched = Cover()
    for interval in cover.overlapping(first * BUCKET_MS, stop * BUCKET_MS):
        touched.add(*bucket_span(*interval))
    for fresh in touched.add(first, stop):
        viewers.raise_over(fresh)
    cover.add(start_ms, end_ms)


def _columns(rows: Sequence[tuple[int, ...]], names: tuple[str, ...]) -> pa.Table:
    array = np.array(rows, np.int64).reshape(-1, len(names))
    return pa.table({name: array[:, index] for index, name in enumerate(names)})
