"""The buckets that a pair has been in, of pairs with too many runs to look through."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aggregator.table import IndexedTable
from kernels import lists
from kernels.retention import LOOKED_AT_MAX
from kernels.rows import BUCKET_MS, VISITED, VISITED_BUCKETS
from kernels.tables import Tables

Int64s = NDArray[np.int64]


class Visits:
    """Pages of bits. They say nothing that runs do not, so no snapshot has them."""

    def __init__(self, tables: Callable[[], Tables]) -> None:
        """`tables` gives those of the state that this is a part of."""
        self._tables = tables
        self.pages = IndexedTable(VISITED)
        #: As in `kernels.tables`.
        self.looked_at = np.zeros(1, np.int64)

    def reserve(self, events: int, max_gap_ms: int) -> None:
        """Makes room for what so many events come to, each of the gap at most."""
        if len(self.pages):
            self.pages.reserve(events * (max_gap_ms // (VISITED_BUCKETS * BUCKET_MS) + 2))

    def begin_all(self) -> None:
        """Of all pairs at once that would get visits with one of their next events."""
        self.begin(lists.many_runs(self._tables(), LOOKED_AT_MAX))

    def begin(self, pairs: Int64s) -> None:
        """Notes where distinct pairs have been; from then on it is noted where they come to."""
        self.pages.reserve(lists.visited_pages(self._tables(), pairs))
        lists.enter_visits(self._tables(), pairs)
