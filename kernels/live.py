"""Who watches now, kept as it changes: streams by bits, in words of 64."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import streams
from kernels.compiler import helper, lean_kernel
from kernels.pairs import more_row, nameless_last
from kernels.rows import LATE, NONE
from kernels.tables import Tables

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

_ZERO, _ONE = np.uint64(0), np.uint64(1)


class Counted(NamedTuple):
    """Of the streams without a session, which stand in pairs, or of the others."""

    #: A bit for each that something has happened to since it was looked at.
    marked: UInt64s
    #: A bit for each that is counted as one that is watched.
    counted: UInt64s
    #: Of the streams of each word that are counted, none has an older last event.
    oldest_t: Int64s


@helper
def mark(tables: Tables, row: int, stream: int) -> None:
    """Something has happened to a stream of a pair; NONE is the one without a session."""
    if stream == NONE:
        _mark(tables.live_pairs, row)
    else:
        _mark(tables.live_streams, stream)


@lean_kernel
def mark_all(tables: Tables, since_t: int) -> None:
    """Marks all streams that were watched since then; there is room."""
    for row in range(tables.pairs.size[0]):
        if _last_t(tables, row, False) >= since_t:
            _mark(tables.live_pairs, row)
    for row in range(tables.streams.size[0]):
        if _last_t(tables, row, True) >= since_t:
            _mark(tables.live_streams, row)


@lean_kernel
def count(
    tables: Tables, nameless: Counted, named: Counted, since_t: int, watching: Int64s
) -> None:
    """Has `watching` say, by movie, how many streams were watched since then.

    It said so of when it was called before, of a time that is no later unless all streams
    watched since then are marked.
    """
    _count(tables, nameless, False, since_t, watching)
    _count(tables, named, True, since_t, watching)


@helper
def _count(
    tables: Tables, known: Counted, has_session: bool, since_t: int, watching: Int64s
) -> None:
    rows = tables.streams.size[0] if has_session else tables.pairs.size[0]
    for word in range((rows + 63) >> 6):  # of arrays that may be far longer
        marked, oldest_t = known.marked[word], known.oldest_t[word]
        if marked == _ZERO and oldest_t >= since_t:
            continue
        counted, looked_at = known.counted[word], marked
        if oldest_t < since_t:
            looked_at |= counted
            oldest_t = np.int64(LATE)
        for i in range(64):
            bit = _ONE << np.uint64(i)
            if looked_at & bit == _ZERO:
                continue
            row = (word << 6) + i
            t = _last_t(tables, row, has_session)
            if t >= since_t:
                watching[_movie(tables, row, has_session)] += counted & bit == _ZERO
                counted |= bit
                oldest_t = min(oldest_t, t)
            else:
                watching[_movie(tables, row, has_session)] -= counted & bit != _ZERO
                counted &= ~bit
        known.marked[word], known.counted[word] = _ZERO, counted
        known.oldest_t[word] = oldest_t


@helper
def _last_t(tables: Tables, row: int, has_session: bool) -> int:
    if has_session:
        return streams.last_t(tables.streams.rows[row])
    pair = tables.pairs.rows[row]
    return nameless_last(pair, tables.more.rows[more_row(pair)])[0]


@helper
def _movie(tables: Tables, row: int, has_session: bool) -> int:
    pair = tables.streams.rows[row].pair if has_session else row
    return np.int64(tables.pairs.rows[pair].movie)


@helper
def _mark(bits: UInt64s, row: int) -> None:
    bits[row >> 6] |= _ONE << np.uint64(row & 63)
