"""Groups of equal neighbours in sorted arrays."""

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


def starts_of(changes: NDArray[np.bool_]) -> Int64s:
    """Where groups begin, from whether each element but the first differs from the one before."""
    return np.append(0, np.flatnonzero(changes) + 1)


def lengths_of(starts: Int64s, total: int) -> Int64s:
    return np.diff(starts, append=total)


def last_of(starts: Int64s, total: int) -> Int64s:
    """The index of each group's last element."""
    return np.append(starts[1:], total) - 1


def before_each(column: Int64s, starts: Int64s, before_first: Int64s) -> Int64s:
    """Each element's predecessor in its group; `before_first` gives a group's first one's."""
    shifted = np.empty_like(column)
    shifted[1:] = column[:-1]
    shifted[starts] = before_first
    return shifted
