"""A growing list of rows for each of many owners, in shared columns.

Each list lies in one block whose capacity is a power of two; a full one moves to
a block twice as large and leaves its own to the next that needs one of that size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aggregator.groups import lengths_of, starts_of
from aggregator.table import grown

Column = NDArray[Any]
Int64s = NDArray[np.int64]


class Lists:
    """Owners are numbers from 0 on; an owner that was never given a row has none."""

    def __init__(self, columns: Mapping[str, DTypeLike]) -> None:
        self._columns: dict[str, Column] = {
            name: np.empty(0, dtype) for name, dtype in columns.items()
        }
        self._used = 0
        self._starts = np.zeros(0, np.int32)
        self._counts = np.zeros(0, np.int32)
        self._free: dict[int, list[int]] = {}

    def __getitem__(self, column: str) -> Column:
        """The column over all blocks; `positions` says which rows are whose."""
        return self._columns[column]

    def counts(self, owners: Int64s) -> Int64s:
        if not len(self._counts):
            return np.zeros(len(owners), np.int64)
        counts = self._counts.take(owners, mode="clip").astype(np.int64)
        counts[owners >= len(self._counts)] = 0
        return counts

    def positions(self, owners: Int64s) -> tuple[Int64s, Int64s]:
        """The rows of all `owners`, in order: the index of the owner, and where in the columns."""
        counts = self.counts(owners)
        some = counts.nonzero()[0]
        if not len(some):
            return some, some
        counts = counts.take(some)
        # Each row's number, less that of its list's first one, on top of where the list starts.
        starts = self._starts.take(owners.take(some)).astype(np.int64)
        lift = starts - (np.cumsum(counts) - counts)
        at = lift.repeat(counts)
        at += np.arange(len(at))
        return some.repeat(counts), at

    def of(self, owner: int) -> dict[str, Column]:
        """Views of one owner's rows."""
        if owner >= len(self._counts):
            return {name: column[:0] for name, column in self._columns.items()}
        start, count = int(self._starts[owner]), int(self._counts[owner])
        return {name: column[start : start + count] for name, column in self._columns.items()}

    def last(self, owners: Int64s) -> Int64s:
        """Where in the columns the last row of each owner lies; -1 without rows."""
        counts = self.counts(owners)
        last = np.full(len(owners), -1, np.int64)
        some = counts > 0
        last[some] = self._starts[owners[some]] + counts[some] - 1
        return last

    def append(self, owners: Int64s, **columns: Column) -> None:
        """Adds a row an element; equal `owners` are neighbours, and their rows go in order."""
        if not len(owners):
            return
        starts = starts_of(owners[1:] != owners[:-1])
        distinct, added = owners[starts], lengths_of(starts, len(owners))
        self._know(int(distinct.max()))
        before = self._counts[distinct].astype(np.int64)
        self._make_room(distinct, before, before + added)
        within = np.arange(len(owners)) - np.repeat(starts, added)
        positions = np.repeat(self._starts[distinct] + before, added) + within
        for name, column in self._columns.items():
            column[positions] = columns[name]
        self._counts[distinct] = before + added

    def clear(self, owners: Int64s) -> None:
        """Takes all rows from distinct `owners`."""
        owners = owners[self.counts(owners) > 0]
        self._release(owners, _capacities(self._counts[owners].astype(np.int64)))
        self._counts[owners] = 0

    def _make_room(self, owners: Int64s, before: Int64s, after: Int64s) -> None:
        old, new = _capacities(before), _capacities(after)
        moving = new > old
        if not moving.any():
            return
        movers, counts, old, new = owners[moving], before[moving], old[moving], new[moving]
        _, sources = self.positions(movers)
        starts = self._allocate(new)
        ends = np.cumsum(counts)
        within = np.arange(len(sources)) - np.repeat(ends - counts, counts)
        targets = np.repeat(starts, counts) + within
        for column in self._columns.values():
            column[targets] = column[sources]
        had_block = old > 0
        self._release(movers[had_block], old[had_block])
        self._starts[movers] = starts

    def _allocate(self, capacities: Int64s) -> Int64s:
        starts = np.empty(len(capacities), np.int64)
        for capacity in _distinct(capacities):
            wanted = np.flatnonzero(capacities == capacity)
            free = self._free.get(capacity, [])
            reused = free[len(free) - min(len(free), len(wanted)) :]
            del free[len(free) - len(reused) :]
            fresh = len(wanted) - len(reused)
            starts[wanted[: len(reused)]] = reused
            starts[wanted[len(reused) :]] = self._used + np.arange(fresh) * capacity
            self._used += fresh * capacity
        for name, column in self._columns.items():
            self._columns[name] = grown(column, self._used)
        return starts

    def _release(self, owners: Int64s, capacities: Int64s) -> None:
        for capacity in _distinct(capacities):
            starts = self._starts[owners[capacities == capacity]]
            self._free.setdefault(capacity, []).extend(starts.tolist())

    def _know(self, owner: int) -> None:
        if owner >= len(self._counts):
            used = len(self._counts)
            self._starts = grown(self._starts, owner + 1)
            self._counts = grown(self._counts, owner + 1)
            self._counts[used:] = 0


def _capacities(counts: Int64s) -> Int64s:
    """The least power of two that holds each count; 0 for 0."""
    # A float's exponent is the number of bits: counts stay far below 2**53.
    exponents = np.frexp((counts - 1).astype(np.float64))[1]
    return np.left_shift(1, exponents.astype(np.int64)) * (counts > 0)


def _distinct(capacities: Int64s) -> list[int]:
    seen = int(np.bitwise_or.reduce(capacities)) if len(capacities) else 0
    return [1 << bit for bit in range(seen.bit_length()) if seen >> bit & 1]
