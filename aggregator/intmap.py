"""A hash map from int64 keys to row numbers, for whole arrays of keys at once.

Open addressing with linear probing over two numpy arrays: 12 bytes a slot, no
Python object an entry. Keys are mixed with the finalizer of SplitMix64 (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

#: Probe sequences stay short up to here; the table doubles beyond.
LOAD_MAX = 0.6
_SLOTS_MIN = 1 << 10
_EMPTY = -1


def mix(keys: Int64s) -> NDArray[np.uint64]:
    """Spreads `keys` over all 64 bits, one to one."""
    z = keys.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class IntMap:
    """Keys to rows (0 and up); a key is never removed."""

    def __init__(self) -> None:
        self._allocate(_SLOTS_MIN)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keys(self) -> Int64s:
        keys: Int64s = self._keys[self._rows != _EMPTY]
        return keys

    def find(self, keys: Int64s) -> Int64s:
        """The row of each key, -1 where there is none."""
        rows = np.full(len(keys), _EMPTY, np.int64)
        slots = self._home(keys)
        pending = np.arange(len(keys))
        while len(pending):
            at = slots[pending]
            found = self._rows[at]
            match = (self._keys[at] == keys[pending]) & (found != _EMPTY)
            rows[pending[match]] = found[match]
            pending = pending[~match & (found != _EMPTY)]
            slots[pending] = (slots[pending] + 1) & self._mask
        return rows

    def insert(self, keys: Int64s, rows: Int64s) -> None:
        """Adds `keys`, distinct and not in the map yet, with `rows`, no two of them equal."""
        self._reserve(len(keys))
        self._place(keys, rows)
        self._count += len(keys)

    def _place(self, keys: Int64s, rows: Int64s) -> None:
        slots = self._home(keys)
        pending = np.arange(len(keys))
        while len(pending):
            at = slots[pending]
            free = self._rows[at] == _EMPTY
            # Of several keys for one free slot the last write wins; the others go on probing.
            self._rows[at[free]] = rows[pending[free]]
            placed = free & (self._rows[at] == rows[pending])
            self._keys[at[placed]] = keys[pending[placed]]
            pending = pending[~placed]
            slots[pending] = (slots[pending] + 1) & self._mask

    def _home(self, keys: Int64s) -> Int64s:
        return (mix(keys) & np.uint64(self._mask)).astype(np.int64)

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._keys = np.zeros(slots, np.int64)
        self._rows = np.full(slots, _EMPTY, np.int32)

    def _reserve(self, more: int) -> None:
        wanted = int((self._count + more) / LOAD_MAX) + 1
        if wanted <= self._mask + 1:
            return
        used = self._rows != _EMPTY
        keys, rows = self._keys[used], self._rows[used].astype(np.int64)
        self._allocate(1 << (wanted - 1).bit_length())
        self._place(keys, rows)
