"""The buckets that a pair has been in, of pairs with too many runs to look through."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aggregator.table import IndexedTable
from kernels import lists
from kernels.retention import LOOKED_AT_MAX
from kernels.rows import VISITED, VISITED_MS
from kernels.tables import Tables

Int64s = NDArray[np.int64]


class Visits:
    """Pages of bits. They say nothing that runs do not, so no snapshot has them."""

    def __init__(self, tables: Callable[[], Tables]) -> None:
        """`tables` gives those of the state that this is a part of."""
        self._tables = tables
        self.pages = IndexedTable(VISITED)
        #: Whether any pair has visits, of which there may be none yet.
        self._has_pairs = False

    def reserve(self, events: int, max_gap_ms: int) -> None:
        """Makes room for what so many events come to, each of the gap at most."""
        if self._has_pairs:
            self.pages.reserve(events * (max_gap_ms // VISITED_MS + 2))

    def begin_all(self) -> None:
        """As `begin`, with all pairs that have many runs."""
        self.begin(lists.pairs_with_many_runs(self._tables(), LOOKED_AT_MAX))

    def begin(self, pairs: Int64s) -> None:
        """Notes where distinct pairs have been; from then on it is noted where they come to."""
        self._has_pairs |= len(pairs) > 0
        self.pages.reserve(lists.visited_pages(self._tables(), pairs))
        lists.enter_visits(self._tables(), pairs)
