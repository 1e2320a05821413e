"""Runs: what they cover for a pair (unique time), and for a movie (retention).

Retention counts open runs too, so that asking is a lookup: each time a run gets
longer, the buckets that it comes to are counted.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.groups import last_of, lengths_of, order_of, starts_of
from aggregator.lists import Lists
from aggregator.rules import BUCKET_MS
from aggregator.table import IndexedTable, Table

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: From so many closed runs on, those of a pair are merged where they overlap.
MERGED_FROM = 64

_RETENTION_COLUMNS = {
    "movie": np.int32,
    "bucket": np.int32,
    "viewers": np.int32,
    "plays": np.int32,
}


@dataclass(slots=True)
class Intervals:
    """Half-open intervals [start, end), each of a group."""

    group: Int64s
    start: Int64s
    end: Int64s

    def __len__(self) -> int:
        return len(self.group)

    @classmethod
    def joined(cls, *parts: Self) -> Self:
        return cls(
            *(np.concatenate([getattr(p, c) for p in parts]) for c in ("group", "start", "end"))
        )

    def covering(self) -> "Intervals":
        """Those of positive length."""
        some = self.end > self.start
        return self if some.all() else self.take(some.nonzero()[0])

    def take(self, which: Int64s) -> "Intervals":
        """Those at these indexes."""
        return Intervals(self.group.take(which), self.start.take(which), self.end.take(which))

    def union(self) -> "Intervals":
        """The same ground of each group in disjoint intervals that do not touch, in order."""
        if not len(self):
            return self
        # One running maximum over all groups: each is lifted above the one before it.
        height = int(self.end.max()) + 1
        lift = self.group * height
        order = order_of(self.start + lift, (int(self.group.max()) + 1) * height)
        group, lift = self.group.take(order), lift.take(order)
        start = self.start.take(order) + lift
        end = np.maximum.accumulate(self.end.take(order) + lift)
        first = starts_of((start[1:] > end[:-1]) | (group[1:] != group[:-1]))
        lift = lift[first]
        return Intervals(group[first], start[first] - lift, end[last_of(first, len(end))] - lift)

    def buckets(self) -> "Intervals":
        """The retention buckets that each touches; all are of positive length."""
        return Intervals(self.group, self.start // BUCKET_MS, (self.end - 1) // BUCKET_MS + 1)

    def lengths(self, groups: int) -> Int64s:
        """The sum of the lengths in each of `groups` groups."""
        sums = np.zeros(groups, np.int64)
        np.add.at(sums, self.group, self.end - self.start)
        return sums


@dataclass(slots=True)
class Counted:
    """Changes of retention. Keys are a movie's code and a bucket; they may repeat."""

    keys: Int64s
    viewers: Int32s
    plays: Int32s

    @classmethod
    def of(cls, movies: NDArray[np.int32], runs: Intervals) -> "Counted":
        """What `runs`, in buckets, count: each pair one viewer, each run one play."""
        union = runs.union()
        keys = [
            movies[spans.group].astype(np.int64) << 32 | edges
            for spans in (union, runs)
            for edges in (spans.start, spans.end)
        ]
        sizes = [len(union), len(union), len(runs), len(runs)]
        return cls(
            np.concatenate(keys),
            np.repeat(np.array([1, -1, 0, 0], np.int32), sizes),
            np.repeat(np.array([0, 0, 1, -1], np.int32), sizes),
        )

    def __neg__(self) -> "Counted":
        return Counted(self.keys, -self.viewers, -self.plays)


class Runs:
    """The closed runs of pairs, and the retention of movies.

    A group of `Intervals` is the index of a pair among the `pairs` asked about.
    Retention is kept as its changes from each bucket to the next.
    """

    def __init__(self, pairs: Table, movies: Table) -> None:
        self._pairs = pairs
        self._movies = movies
        self._closed = Lists({"start": np.int64, "end": np.int64})
        #: Plays by bucket beyond those of the closed runs, as changes, where runs were merged.
        self._more_plays: dict[int, Counter[int]] = {}
        self._retention = IndexedTable(_RETENTION_COLUMNS, {})

    def closed(self, pairs: Int64s) -> Intervals:
        which, at = self._closed.positions(pairs)
        return Intervals(which, self._closed["start"][at], self._closed["end"][at])

    def unique_ms(self, pairs: Int64s, open_runs: Intervals) -> Int64s:
        """The length of the union of each pair's closed and open runs."""
        return Intervals.joined(self.closed(pairs), open_runs).union().lengths(len(pairs))

    def counts(self, pairs: Int64s) -> Int64s:
        """How many closed runs each pair has."""
        return self._closed.counts(pairs)

    def close(self, runs: Intervals) -> None:
        """Adds closed runs of positive length; their groups are pairs, equal ones neighbours."""
        before = self._closed.counts(runs.group)
        self._closed.append(runs.group, start=runs.start, end=runs.end)
        after = self._closed.counts(runs.group)
        doubled = (after >= MERGED_FROM) & (after ^ before > before)
        for pair in np.unique(runs.group[doubled]).tolist():
            self._merge(pair)

    def play(self, pairs: Int64s, played: Intervals, open_runs: Intervals) -> None:
        """Counts buckets that runs of distinct `pairs` come to; `open_runs` are those before."""
        known = Intervals.joined(self.closed(pairs), open_runs).buckets()
        # Most pairs play on where they have not been: all that they come to is new.
        first = starts_of(played.group[1:] != played.group[:-1])
        low, high = played.start.take(first), played.end.take(first)
        has_been = lengths_of(first, len(played)) > 1
        touches = (known.start < high.take(known.group)) & (known.end > low.take(known.group))
        has_been[known.group[touches]] = True
        movies = self._pairs["movie"].take(pairs).astype(np.int64) << 32
        viewers = (~has_been).take(played.group).astype(np.int32)
        movie = movies.take(played.group)
        counted = Counted(
            np.concatenate([movie | played.start, movie | played.end]),
            np.concatenate([viewers, -viewers]),
            np.ones(2 * len(played), np.int32),
        )
        counted.plays[len(played) :] = -1
        self.count(counted)
        if has_been.any():
            before = known.take(has_been.take(known.group).nonzero()[0])
            more = played.take(has_been.take(played.group).nonzero()[0])
            self._count_viewers(movies, Intervals.joined(before, more).union(), 1)
            self._count_viewers(movies, before.union(), -1)

    def _count_viewers(self, movies: Int64s, union: Intervals, sign: int) -> None:
        """Counts each group a viewer of the buckets in its `union`."""
        movie = movies.take(union.group)
        viewers = np.full(2 * len(union), sign, np.int32)
        viewers[len(union) :] = -sign
        keys = np.concatenate([movie | union.start, movie | union.end])
        self.count(Counted(keys, viewers, np.zeros_like(viewers)))

    def counted(self, pairs: Int64s, open_runs: Intervals) -> Counted:
        """What the runs of distinct `pairs` count to retention."""
        runs = Intervals.joined(self.closed(pairs), open_runs).buckets()
        return Counted.of(self._pairs["movie"][pairs], runs)

    def count(self, counted: Counted) -> None:
        if not len(counted.keys):
            return
        movies = counted.keys >> 32
        buckets = counted.keys & 0xFFFFFFFF
        np.maximum.at(self._movies["buckets"], movies, buckets.astype(np.int32))
        rows = self._retention.rows(counted.keys, movie=movies, bucket=buckets)
        np.add.at(self._retention["viewers"], rows, counted.viewers)
        np.add.at(self._retention["plays"], rows, counted.plays)

    def forget(self, pairs: Int64s) -> None:
        """Drops the closed runs of distinct `pairs`, which retention does not count any more."""
        self._closed.clear(pairs)
        for pair in pairs.tolist():
            if self._more_plays:
                self._change_more_plays(pair, self._more_plays.pop(pair, Counter()), -1)

    def retention(self, movie: int) -> tuple[Int64s, Int64s]:
        """Viewers and plays of each bucket, up to the last one that has a viewer."""
        buckets = np.arange(self._movies["buckets"][movie] + 1)
        rows = self._retention.find(movie << 32 | buckets)
        known = rows >= 0
        levels = []
        for column in ("viewers", "plays"):
            changes = np.zeros(len(buckets), np.int64)
            changes[known] = self._retention[column][rows[known]]
            levels.append(np.cumsum(changes))
        viewers, plays = levels
        width = int(np.flatnonzero(viewers)[-1]) + 1 if viewers.any() else 0
        return viewers[:width], plays[:width]

    def _merge(self, pair: int) -> None:
        """Replaces a pair's closed runs by their union, and notes the plays that it lacks."""
        runs = self.closed(np.array([pair]))
        union = runs.union()
        changes: Counter[int] = Counter()
        for spans, add, take in (
            (runs.buckets(), changes.update, changes.subtract),
            (union.buckets(), changes.subtract, changes.update),
        ):
            add(spans.start.tolist())
            take(spans.end.tolist())
        more = self._more_plays.setdefault(pair, Counter())
        more.update(changes)
        self._closed.clear(np.array([pair]))
        self._closed.append(np.full(len(union), pair), start=union.start, end=union.end)

    def _change_more_plays(self, pair: int, changes: Counter[int], sign: int) -> None:
        movie = int(self._pairs["movie"][pair])
        keys = np.array([movie << 32 | bucket for bucket in changes], np.int64)
        plays = np.array(list(changes.values()), np.int32) * np.int32(sign)
        self.count(Counted(keys, np.zeros_like(plays), plays))

    # Snapshots

    def to_arrow(self, pair_rows: Int64s, movie_codes: Int64s) -> dict[str, pa.Table]:
        """`pair_rows` and `movie_codes` map rows and codes to those in the snapshot, or -1."""
        pairs = np.flatnonzero(pair_rows >= 0)
        runs = self.closed(pairs)
        more = [
            (int(pair_rows[pair]), bucket, change)
            for pair, changes in self._more_plays.items()
            for bucket, change in changes.items()
        ]
        counted = (self._retention["viewers"] != 0) | (self._retention["plays"] != 0)
        retention = self._retention.to_arrow(counted)
        return {
            "runs": pa.table(
                {"pair": pair_rows[pairs][runs.group], "start": runs.start, "end": runs.end}
            ),
            "more_plays": pa.table(
                {
                    name: np.array([row[index] for row in more], np.int64)
                    for index, name in enumerate(("pair", "bucket", "change"))
                }
            ),
            "retention": retention.set_column(
                0, "movie", pa.array(movie_codes[retention["movie"].to_numpy()], pa.int32())
            ),
        }

    def load_arrow(self, tables: dict[str, pa.Table]) -> None:
        runs = {name: column.to_numpy() for name, column in _columns(tables["runs"])}
        self._closed.append(runs["pair"], start=runs["start"], end=runs["end"])
        more = tables["more_plays"].to_pydict()
        for pair, bucket, change in zip(*more.values(), strict=True):
            self._more_plays.setdefault(pair, Counter())[bucket] = change
        self._retention.load_arrow(tables["retention"])
        keys = self._retention["movie"].astype(np.int64) << 32 | self._retention["bucket"]
        self._retention.index(keys, np.arange(len(keys)))


def _columns(table: pa.Table) -> list[tuple[str, pa.ChunkedArray]]:
    return list(zip(table.column_names, table.columns, strict=True))
