"""A hash map from int64 keys to row numbers: linear probing in one array.

A slot is found by multiplying (Lemire, "Fast random integer generation in an interval",
2019), so a map can have any number of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper, kernel
from kernels.hashing import mix
from kernels.rows import NONE

#: `row` is one more than the row, so that zeros are empty slots. The last slot is none: its
#: key is the map's seed, without which clients could choose ids that all collide.
SLOT = np.dtype([("key", np.int64), ("row", np.int32)])
Slots = NDArray[Any]
Int64s = NDArray[np.int64]


@helper
def first_slot(slots: Slots, key: np.int64) -> np.int64:
    """Where the search for `key` begins."""
    size = len(slots) - 1
    mixed = mix(key ^ slots[size].key)
    return np.int64(((mixed >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32))


@helper
def _place(slots: Slots, key: int) -> int:
    """The slot of `key`, or the empty one where it would be."""
    size = len(slots) - 1
    at = first_slot(slots, key)
    while slots[at].row != 0 and slots[at].key != key:
        at += 1
        if at == size:
            at = 0
    return at


@helper
def seed_of(slots: Slots) -> int:
    return slots[len(slots) - 1].key


@helper
def find(slots: Slots, key: int) -> int:
    """The row of `key`, or NONE."""
    return np.int64(slots[_place(slots, key)].row) - 1


@helper
def insert(slots: Slots, key: int, row: int) -> None:
    """Adds a key that may not be there yet; there is an empty slot beyond it."""
    at = _place(slots, key)
    slots[at].key = key
    slots[at].row = row + 1


@kernel
def find_all(slots: Slots, keys: Int64s) -> Int64s:
    rows = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        rows[i] = find(slots, keys[i])
    return rows


@kernel
def insert_all(slots: Slots, keys: Int64s, rows: Int64s) -> None:
    for i in range(len(keys)):
        insert(slots, keys[i], rows[i])


@kernel
def move_all(old: Slots, new: Slots) -> None:
    """Enters what is in slots into more of them, which are empty; the order stays."""
    size = len(new) - 1
    for i in range(len(old) - 1):
        if old[i].row != 0:
            at = first_slot(new, old[i].key)
            while new[at].row != 0:
                at += 1
                if at == size:
                    at = 0
            new[at].key, new[at].row = old[i].key, old[i].row


@helper
def find_or_reserve(slots: Slots, key: int, size: Int64s) -> int:
    """The row of `key`, or NONE after it was given the next row of a table, `size[0]`."""
    at = _place(slots, key)
    if slots[at].row != 0:
        return np.int64(slots[at].row) - 1
    slots[at].key = key
    slots[at].row = size[0] + 1
    return np.int64(NONE)
