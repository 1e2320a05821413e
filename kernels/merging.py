"""Closed runs of a pair, replaced by their union where they became many."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import allocating_helper, helper, kernel
from kernels.lists import release
from kernels.pairs import more_row
from kernels.rows import BUCKET_MS, NONE
from kernels.tables import Table, Tables, allocate

Int64s = NDArray[np.int64]


@allocating_helper
def union(start: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """The same ground in disjoint intervals that do not touch, in order."""
    starts, ends = np.empty(len(start), np.int64), np.empty(len(start), np.int64)
    count = 0
    for i in np.argsort(start):
        if count and start[i] <= ends[count - 1]:
            ends[count - 1] = max(ends[count - 1], end[i])
        else:
            starts[count], ends[count] = start[i], end[i]
            count += 1
    return starts[:count], ends[:count]


@kernel
def merge_all(tables: Tables, pairs: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Replaces the closed runs of each of the pairs; they have some.

    Returns by how much plays by bucket then change to become what they were: the index in
    `pairs`, the bucket from which on it is so, and the change.
    """
    edges = 0
    for row in pairs:
        more = tables.more.rows[more_row(tables.pairs.rows[row])]
        edges += 4 * tables.runs.rows[more.runs].rank
    owners, buckets, changes = np.empty((3, edges), np.int64)
    found = 0
    for i in range(len(pairs)):
        more = tables.more.rows[more_row(tables.pairs.rows[pairs[i]])]
        start, end = _closed(tables.runs, more.runs)
        starts, ends = union(start, end)
        release(tables.runs, more.runs)
        more.runs = _enter(tables.runs, starts, ends)
        at, change = _edges(start, end, starts, ends)
        first = found
        for j in np.argsort(at):
            if found == first or buckets[found - 1] != at[j]:
                found += found == first or changes[found - 1] != 0
                owners[found - 1], buckets[found - 1], changes[found - 1] = i, at[j], 0
            changes[found - 1] += change[j]
        found -= changes[found - 1] == 0
    return owners[:found], buckets[:found], changes[:found]


@allocating_helper
def _closed(runs: Table, first: int) -> tuple[Int64s, Int64s]:
    """Start and end of each run of a list."""
    count = runs.rows[first].rank
    start, end = np.empty(count, np.int64), np.empty(count, np.int64)
    row = first
    for i in range(count):
        start[i], end[i] = runs.rows[row].start, runs.rows[row].end
        row = runs.rows[row].next
    return start, end


@allocating_helper
def _enter(runs: Table, start: Int64s, end: Int64s) -> int:
    """Makes a list of runs, of which so many have just been given back; its first row."""
    first = np.int64(NONE)
    for i in range(len(start)):
        row = allocate(runs)
        run = runs.rows[row]
        run.start, run.end, run.rank, run.next = start[i], end[i], i + 1, first
        first = row
    return first


@allocating_helper
def _edges(start: Int64s, end: Int64s, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """Where plays by bucket change, by how much, if intervals take the place of their union."""
    at, change = np.empty((2, 2 * (len(start) + len(starts))), np.int64)
    _put_edges(at, change, 0, start, end, 1)
    _put_edges(at, change, 2 * len(start), starts, ends, -1)
    return at, change


@helper
def _put_edges(
    at: Int64s, change: Int64s, first: int, start: Int64s, end: Int64s, plays: int
) -> None:
    """Where intervals begin, plays are more; after their last bucket they are less again."""
    for k in range(len(start)):
        begins, ends = first + 2 * k, first + 2 * k + 1
        at[begins], change[begins] = start[k] // BUCKET_MS, plays
        at[ends], change[ends] = (end[k] - 1) // BUCKET_MS + 1, -plays
