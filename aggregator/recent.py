"""The hashes of ids seen lately, so that what is sent again counts once."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.intmap import IntMap

#: A client that sends something again does so within a day.
WINDOW_MS = 24 * 3_600_000
#: Hashes in a half; bounds what a shard's ids take to about 2 x 40 MB.
HALF_MAX = 2_000_000

Int64s = NDArray[np.int64]


class RecentHashes:
    """A set of hashes in two halves: when the young one is full or a day old, the old one goes.

    So a hash is remembered for `window_ms`, or until `half_max` others came.
    """

    def __init__(self, window_ms: int = WINDOW_MS, half_max: int = HALF_MAX) -> None:
        self._window_ms = window_ms
        self._half_max = half_max
        self._young, self._old = IntMap(), IntMap()
        self._young_since_ms = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def contains(self, hashes: Int64s) -> NDArray[np.bool_]:
        seen = self._young.find(hashes) >= 0
        if len(self._old):
            seen |= self._old.find(hashes) >= 0
        return seen

    def add(self, hashes: Int64s, received_ms: int) -> None:
        """Remembers `hashes`, which are distinct and not contained yet."""
        if not len(hashes):
            return
        if len(self._young) and self.turns(received_ms, received_ms, 0):
            self._old, self._young = self._young, IntMap()
        if not len(self._young):
            self._young_since_ms = received_ms
        self._young.insert(hashes, np.arange(len(self._young), len(self._young) + len(hashes)))

    def turns(self, first_ms: int, last_ms: int, more: int) -> bool:
        """Whether the old half would go while `more` hashes come from `first_ms` to `last_ms`."""
        since_ms = self._young_since_ms if len(self._young) else first_ms
        return last_ms - since_ms > self._window_ms or len(self._young) + more >= self._half_max

    def to_arrow(self) -> pa.Table:
        halves = [half.keys() for half in (self._old, self._young)]
        is_young = np.repeat([False, True], [len(half) for half in halves])
        return pa.table({"hash": np.concatenate(halves), "is_young": is_young})

    def load_arrow(self, stored: pa.Table, young_since_ms: int) -> None:
        hashes, is_young = stored["hash"].to_numpy(), stored["is_young"].to_numpy()
        for half, chosen in ((self._old, ~is_young), (self._young, is_young)):
            half.insert(hashes[chosen], np.arange(np.count_nonzero(chosen)))
        self._young_since_ms = young_since_ms

    @property
    def young_since_ms(self) -> int:
        return self._young_since_ms
