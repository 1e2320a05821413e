"""The buckets that a pair has been in, as bits, of pairs with many runs.

To look through the runs takes longer the more there are, and a client can make any number.
"""

import numpy as np

from kernels import intmap
from kernels.compiler import helper
from kernels.rows import NONE, VISITED_BUCKETS
from kernels.tables import Indexed

_ONE = np.uint64(1)


@helper
def _key(pair: int, page: int) -> int:
    return np.int64(pair) << 32 | page


@helper
def enter(visits: Indexed, pair: int, bucket: int) -> bool:
    """Notes that a pair has been in a bucket; whether that is new. There is room for a page."""
    key = _key(pair, bucket // VISITED_BUCKETS)
    page = intmap.find_or_reserve(visits.slots, key, visits.size)
    if page == NONE:
        page = visits.size[0]
        visits.size[0] = page + 1
        visits.rows[page].buckets = 0
    visited = visits.rows[page]
    bit = _ONE << np.uint64(bucket % VISITED_BUCKETS)
    is_new = (visited.buckets & bit) == np.uint64(0)
    visited.buckets |= bit
    return is_new


@helper
def forget(visits: Indexed, pair: int, number: int) -> None:
    """Forgets where a pair has been in the buckets of a page, which is there."""
    visits.rows[intmap.find(visits.slots, _key(pair, number))].buckets = 0
