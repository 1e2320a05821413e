"""Groups of equal neighbours in sorted arrays.

Small batches call these often, so they avoid numpy's slower conveniences.
"""

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


def starts_of(changes: NDArray[np.bool_]) -> Int64s:
    """Where groups begin, from whether each element but the first differs from the one before."""
    found = changes.nonzero()[0]
    starts = np.empty(len(found) + 1, np.int64)
    starts[0] = 0
    np.add(found, 1, out=starts[1:])
    return starts


def lengths_of(starts: Int64s, total: int) -> Int64s:
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = total - starts[-1:]
    return lengths


def last_of(starts: Int64s, total: int) -> Int64s:
    """The index of each group's last element."""
    last = np.empty_like(starts)
    np.subtract(starts[1:], 1, out=last[:-1])
    last[-1:] = total - 1
    return last


def before_each(column: Int64s, starts: Int64s, before_first: Int64s) -> Int64s:
    """Each element's predecessor in its group; `before_first` gives a group's first one's."""
    shifted = np.empty_like(column)
    shifted[1:] = column[:-1]
    shifted[starts] = before_first
    return shifted
