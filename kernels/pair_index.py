"""A hash map from a user and a movie to the row of their pair, where both stand.

A slot holds half of their hash and one more than the row; 0 is an empty slot. The place of
a slot comes from the same half, so a map grows without looking at rows. The last slot is
none: it is the map's seed, without which clients could choose names that all collide.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper, kernel
from kernels.hashing import mix
from kernels.rows import NONE

Rows = NDArray[Any]
UInt64s = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_EMPTY = np.uint64(0)


@helper
def hash_of(slots: UInt64s, user: int, movie: int) -> np.uint64:
    """The upper half of a pair's slot; the lower one is 0."""
    seed = np.int64(slots[len(slots) - 1])
    return mix((user << 32 | movie) ^ seed) & ~_LOW


@helper
def first_place(slots: UInt64s, hashed: np.uint64) -> int:
    return np.int64(((hashed >> _32) * np.uint64(len(slots) - 1)) >> _32)


@helper
def guess(slots: UInt64s, hashed: np.uint64) -> int:
    """The row that most probably is that of the hash, or NONE; it looks at no rows."""
    at = first_place(slots, hashed)
    while slots[at] != _EMPTY and slots[at] & ~_LOW != hashed:
        at += 1
        if at == len(slots) - 1:
            at = 0
    return np.int64(slots[at] & _LOW) - 1


@helper
def _place(slots: UInt64s, rows: Rows, hashed: np.uint64, user: int, movie: int) -> int:
    """The slot of a pair, or the empty one where it would be."""
    at = first_place(slots, hashed)
    while slots[at] != _EMPTY:
        if slots[at] & ~_LOW == hashed:
            pair = rows[np.int64(slots[at] & _LOW) - 1]
            if pair.user == user and pair.movie == movie:
                break
        at += 1
        if at == len(slots) - 1:
            at = 0
    return at


@helper
def find(slots: UInt64s, rows: Rows, user: int, movie: int) -> int:
    """The row of a pair, or NONE."""
    at = _place(slots, rows, hash_of(slots, user, movie), user, movie)
    return np.int64(slots[at] & _LOW) - 1


@helper
def find_or_reserve(slots: UInt64s, rows: Rows, user: int, movie: int, row: int) -> int:
    """The row of a pair, or NONE after it was given `row`."""
    hashed = hash_of(slots, user, movie)
    at = _place(slots, rows, hashed, user, movie)
    if slots[at] != _EMPTY:
        return np.int64(slots[at] & _LOW) - 1
    slots[at] = hashed | np.uint64(row + 1)
    return np.int64(NONE)


@helper
def _enter(slots: UInt64s, entry: np.uint64) -> None:
    """Adds a slot that may not be there yet; there is an empty one beyond it."""
    at = first_place(slots, entry)
    while slots[at] != _EMPTY:
        at += 1
        if at == len(slots) - 1:
            at = 0
    slots[at] = entry


@kernel
def insert_all(slots: UInt64s, rows: Rows, count: int) -> None:
    """Adds the first `count` rows to an empty map."""
    for row in range(count):
        hashed = hash_of(slots, np.int64(rows[row].user), np.int64(rows[row].movie))
        _enter(slots, hashed | np.uint64(row + 1))


@kernel
def move_all(old: UInt64s, new: UInt64s) -> None:
    for i in range(len(old) - 1):
        if old[i] != _EMPTY:
            _enter(new, old[i])
