"""The hashes of ids seen lately, so that what is sent again counts once."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.intmap import IntMap
from kernels import recent
from kernels.rows import NONE

#: A client that sends something again does so within a day.
WINDOW_MS = 24 * 3_600_000
#: Hashes in a half; bounds what a shard's ids take to about 2 x 40 MB.
HALF_MAX = 2_000_000
#: Tags of records start again here; that of long ago is 0.
_TAG_MAX = 1 << 30

Int64s = NDArray[np.int64]
_NO_HASHES = np.zeros(0, np.int64)


class RecentHashes:
    """A set of hashes in two halves: when the young one is full or a day old, the old one goes.

    So a hash is remembered for `window_ms`, or until `half_max` others came.
    """

    def __init__(self, window_ms: int = WINDOW_MS, half_max: int = HALF_MAX) -> None:
        self._window_ms = window_ms
        self._half_max = half_max
        self._young, self._old = IntMap(), IntMap()
        self._young_count = self._old_count = 0
        self._tag = 1
        self.young_since_ms = 0

    def __len__(self) -> int:
        return self._young_count + self._old_count

    def mark(
        self, keys: Int64s | None, ids: Int64s | None, record: Int64s, received_ms: Int64s
    ) -> NDArray[np.bool_]:
        """Which events came before, by the keys of their requests and by ids of their own.

        Remembers the others. `record` numbers the log record of each event from 0 on; one
        record holds a request once. `received_ms` is when each was received.
        """
        first_ms = int(received_ms[0])
        is_due = self._young_count > 0 and self.turns(first_ms, first_ms, 0)
        young, count = (IntMap(), 0) if is_due else (self._young, self._young_count)
        young.reserve(count + sum(len(record) for column in (keys, ids) if column is not None))
        duplicate, marked, first = recent.mark(
            (young.slots, self._young.slots, self._old.slots),
            is_due,
            count,
            _NO_HASHES if keys is None else keys,
            _NO_HASHES if ids is None else ids,
            record,
            self._tag,
        )
        if first != NONE:  # what is due waits for a hash that is new
            if is_due:
                self._old, self._old_count = self._young, self._young_count
            if count == 0:
                self.young_since_ms = int(received_ms[first])
            self._young, self._young_count = young, marked
        self._tag = (self._tag + int(record[-1]) + 1) % _TAG_MAX + 1
        return duplicate

    def turns(self, first_ms: int, last_ms: int, more: int) -> bool:
        """Whether the old half would go while `more` hashes come from `first_ms` to `last_ms`."""
        since_ms = self.young_since_ms if self._young_count else first_ms
        return last_ms - since_ms > self._window_ms or self._young_count + more >= self._half_max

    def to_arrow(self) -> pa.Table:
        halves = [half.keys() for half in (self._old, self._young)]
        is_young = np.repeat([False, True], [len(half) for half in halves])
        return pa.table({"hash": np.concatenate(halves), "is_young": is_young})

    def load_arrow(self, stored: pa.Table, young_since_ms: int) -> None:
        hashes, is_young = stored["hash"].to_numpy(), stored["is_young"].to_numpy()
        young, old = hashes[is_young], hashes[~is_young]
        for half, chosen in ((self._old, old), (self._young, young)):
            half.insert(chosen, np.zeros(len(chosen), np.int64), 0)
        self._young_count, self._old_count = len(young), len(old)
        self.young_since_ms = young_since_ms
