"""Who watches now: a bit for each stream that may be watched, in words of 64."""

import numpy as np
from numpy.typing import NDArray

from kernels import streams
from kernels.compiler import helper, kernel
from kernels.pairs import more_row, nameless_last
from kernels.rows import NONE
from kernels.tables import Tables

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

_ZERO, _ONE = np.uint64(0), np.uint64(1)


@helper
def mark(tables: Tables, row: int, stream: int) -> None:
    """A stream of a pair may be watched now; NONE is the one without a session."""
    if stream == NONE:
        _set(tables.live_pairs, row)
    else:
        _set(tables.live_streams, stream)


@kernel
def mark_all(tables: Tables, since_t: int) -> None:
    """Marks all streams that were watched since then; there is room."""
    for row in range(tables.pairs.size[0]):
        if _nameless_t(tables, row) >= since_t:
            _set(tables.live_pairs, row)
    for row in range(tables.streams.size[0]):
        if streams.last_t(tables.streams.rows[row]) >= since_t:
            _set(tables.live_streams, row)


@kernel
def count(tables: Tables, since_t: int, forgotten_t: int, watching: Int64s) -> None:
    """Adds the streams that were watched since then to `watching`, by movie.

    Takes the marks from those that were not even since `forgotten_t`.
    """
    pairs, marked, end = tables.pairs.rows, tables.live_pairs, tables.pairs.size[0]
    row = _next(marked, 0, end)
    while row != NONE:
        t = _nameless_t(tables, row)
        watching[pairs[row].movie] += t >= since_t
        if t < forgotten_t:
            _unset(marked, row)
        row = _next(marked, row + 1, end)
    marked, end = tables.live_streams, tables.streams.size[0]
    row = _next(marked, 0, end)
    while row != NONE:
        stream = tables.streams.rows[row]
        t = streams.last_t(stream)
        watching[pairs[stream.pair].movie] += t >= since_t
        if t < forgotten_t:
            _unset(marked, row)
        row = _next(marked, row + 1, end)


@helper
def _nameless_t(tables: Tables, row: int) -> int:
    pair = tables.pairs.rows[row]
    return nameless_last(pair, tables.more.rows[more_row(pair)])[0]


@helper
def _set(bits: UInt64s, row: int) -> None:
    bits[row >> 6] |= _ONE << np.uint64(row & 63)


@helper
def _unset(bits: UInt64s, row: int) -> None:
    bits[row >> 6] &= ~(_ONE << np.uint64(row & 63))


@helper
def _next(bits: UInt64s, row: int, end: int) -> int:
    """The first row from `row` on whose bit is set, or NONE; those beyond the bits have none."""
    while row < min(end, len(bits) << 6):
        word = bits[row >> 6] >> np.uint64(row & 63)
        if word & _ONE != _ZERO:
            return np.int64(row)
        row = row + 1 if word != _ZERO else ((row >> 6) + 1) << 6
    return np.int64(NONE)
