"""The tables of a shard's state, as kernels take them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper
from kernels.rows import NONE

Rows = NDArray[Any]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

#: Where `Tables.totals` has how many exist.
USERS, PAIRS, STREAMS = 0, 1, 2


class Table(NamedTuple):
    """The rows of a table, with room for what is to come, and its size."""

    rows: Rows
    size: Int64s


class Indexed(NamedTuple):
    """A table whose rows are found by a key."""

    rows: Rows
    size: Int64s
    slots: Rows


class Tables(NamedTuple):
    """All that a state is made of."""

    pairs: Indexed
    more: Table
    streams: Indexed
    runs: Table
    pair_hours: Table
    users: Rows
    movies: Rows
    #: Pages of retention, and their buckets.
    pages: Indexed
    buckets: Rows
    #: Where pairs with many runs have been.
    visits: Indexed
    #: Marks of `kernels.live`, with room for all rows that have events.
    live_pairs: UInt64s
    live_streams: UInt64s
    #: How many users, pairs and streams exist.
    totals: Int64s


@helper
def allocate(table: Table) -> int:
    """A row to use: one that was given back, or the next."""
    row = table.size[1]
    if row != NONE:
        table.size[1] = table.rows[row].next
        return row
    row = table.size[0]
    table.size[0] = row + 1
    return row
