"""Sums by movie and hour."""

import numpy as np
from numpy.typing import NDArray

from kernels import intmap
from kernels.compiler import kernel
from kernels.rows import NONE
from kernels.tables import Indexed

Int64s = NDArray[np.int64]


@kernel
def add(
    table: Indexed, movies: Int64s, hours: Int64s, watch_ms: Int64s, first: int, end: int, per: int
) -> None:
    """Adds what is of the hours from `first` to before `end`, there being room.

    An hour counts as the first of the `per` hours that it is in, from hour 0 on.
    """
    for i in range(len(movies)):
        hour = hours[i]
        if not first <= hour < end:
            continue
        hour = hour // per * per
        row = intmap.find_or_reserve(table.slots, movies[i] << 32 | hour, table.size)
        if row == NONE:
            row = table.size[0]
            table.size[0] = row + 1
            added = table.rows[row]
            added.movie, added.hour, added.watch_ms = movies[i], hour, 0
        table.rows[row].watch_ms += watch_ms[i]
