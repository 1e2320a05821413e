"""Groups of equal neighbours in sorted arrays.

Small batches call these often, so they avoid numpy's slower conveniences.
"""

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

#: From so many on, several sorts by 16 bits, which numpy does by radix, beat one by 64.
_RADIX_FROM = 2_000
_DIGIT_BITS = 16


def order_of(keys: Int64s, most: int) -> Int64s:
    """The indexes that sort `keys`, which are 0 to `most`; equal ones keep their order."""
    if len(keys) < _RADIX_FROM or most >> 3 * _DIGIT_BITS:
        return keys.argsort(kind="stable")
    order = keys.astype(np.uint16).argsort(kind="stable")
    for shift in range(_DIGIT_BITS, most.bit_length(), _DIGIT_BITS):
        digit = (keys >> shift).astype(np.uint16)
        order = order.take(digit.take(order).argsort(kind="stable"))
    return order


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


def first_of_equals(hashes: Int64s) -> Int64s | None:
    """The index of the first one equal to each of `hashes`; None if they are distinct."""
    high = (hashes >> 32) + (1 << 31)
    order = order_of(high, (1 << 32) - 1)
    high = high.take(order)
    is_same = high[1:] == high[:-1]
    if not is_same.any():
        return None
    doubtful = np.zeros(len(hashes), np.bool_)
    doubtful[order[1:][is_same]] = doubtful[order[:-1][is_same]] = True
    at = doubtful.nonzero()[0]
    _, first, which = np.unique(hashes.take(at), return_index=True, return_inverse=True)
    firsts = np.arange(len(hashes))
    firsts[at] = at.take(first.take(which))
    return firsts
