"""A growing hash map from int64 keys to row numbers, for whole arrays of keys at once."""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.memory import zeros
from kernels import intmap

Int64s = NDArray[np.int64]

#: Beyond, probing takes long.
LOAD_MAX = 0.75
#: Growing by half keeps it at least half as full as it may be.
GROWTH = 1.5
SLOTS_MIN = 1 << 10


class IntMap:
    """Keys to rows (0 and up); a key is never removed.

    Kernels write to `slots` themselves, after `reserve`.
    """

    def __init__(self) -> None:
        self._seed = np.int64(secrets.randbits(63))
        self.slots = self._allocated(SLOTS_MIN)

    def find(self, keys: Int64s) -> Int64s:
        """The row of each key, NONE where there is none."""
        return intmap.find_all(self.slots, keys)

    def insert(self, keys: Int64s, rows: Int64s, known: int) -> None:
        """Adds `keys`, which are distinct and not in the map, to `known` ones."""
        self.reserve(known + len(keys))
        intmap.insert_all(self.slots, keys, rows)

    def reserve(self, keys: int) -> None:
        """Makes room for so many keys altogether."""
        wanted = int(keys / LOAD_MAX) + 1
        if wanted > len(self.slots) - 1:
            old = self.slots
            self.slots = self._allocated(max(wanted, int(len(old) * GROWTH)))
            intmap.move_all(old, self.slots)

    def keys(self) -> Int64s:
        """In ascending order: that of the slots is another in each process."""
        return np.sort(self.slots["key"][self.slots["row"] != 0])

    def _allocated(self, slots: int) -> NDArray[Any]:
        allocated = zeros(slots + 1, intmap.SLOT)
        allocated[slots]["key"] = self._seed
        return allocated
