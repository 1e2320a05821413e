"""The rows of pairs, found by user and movie, and what else there is about some of them."""

import secrets
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.intmap import GROWTH, LOAD_MAX, SLOTS_MIN
from aggregator.table import Column, Table
from kernels import pair_index
from kernels.rows import MORE, NO_MORE, NONE, PAIR

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: What goes for a pair that has no row of its own in `more`, where that is no constant.
_EVIDENT = {"furthest_ms": "latest_ms", "last_t": "latest_t", "last_at": "latest_ms"}


class Pairs(Table):
    """The table of pairs, whose columns are also those of `more`, and `version`.

    Only those of its own rows are views. Kernels write to `slots`, after `reserve`, and
    to `more`, after a `reserve` of its own.
    """

    def __init__(self) -> None:
        nothing = ("latest_t", "latest_order", "next", "hour", "hours")
        super().__init__(PAIR, {"first_t": np.iinfo(np.int64).max, **dict.fromkeys(nothing, NONE)})
        self.more = Table(MORE, dict.fromkeys(("completed_t", "last_t", "streams", "runs"), NONE))
        self.more.add(1, views=1)
        self._seed = np.uint64(secrets.randbits(64))
        self.slots = self._allocated(SLOTS_MIN)

    def __getitem__(self, column: str) -> Column:
        if column in (PAIR.names or ()):
            return super().__getitem__(column)
        values: Column = self.of(column, slice(None))
        return values

    def of(self, column: str, rows: Any) -> Any:
        """The values of a column in `rows`, which are numbers or what else an index can be."""
        if column in (PAIR.names or ()):
            return self[column][rows]
        more = self["more"][rows]
        if column == "version":
            return self["events"][rows] + self.more["changes"][more]
        values = self.more[column][more]
        if column in _EVIDENT:
            return np.where(more == NO_MORE, self[_EVIDENT[column]][rows], values)
        return values

    def exist(self) -> Bools:
        """Which pairs exist."""
        exist: Bools = self["version"] > 0
        return exist

    def reserve(self, rows: int) -> None:
        super().reserve(rows)
        wanted = int((len(self) + rows) / LOAD_MAX) + 1
        if wanted > len(self.slots) - 1:
            old = self.slots
            self.slots = self._allocated(max(wanted, int(len(old) * GROWTH)))
            pair_index.move_all(old, self.slots)

    def load_arrow(self, stored: pa.Table) -> None:
        """Fills an empty table, and makes its rows findable. Streams, runs and hours come after."""
        super().load_arrow(stored)
        pair_index.insert_all(self.slots, self.rows, len(self))
        names = ("furthest_ms", "duration_ms", "completed_t", "views", "begun_again", "hidden")
        columns = {name: stored[name].to_numpy() for name in names}
        columns["changes"] = stored["version"].to_numpy() - self["events"]
        is_evident = np.ones(len(self), np.bool_)
        for name, column in columns.items():
            is_evident &= column == self[name]
        rows = np.flatnonzero(~is_evident)
        more = self._give_more(rows)
        for name, column in columns.items():
            self.more[name][more] = column[rows]

    def more_of(self, rows: Int64s) -> Int64s:
        """The rows of `more` of pairs, of their own from now on."""
        self._give_more(np.unique(rows[self["more"][rows] == NO_MORE]))
        return self["more"][rows].astype(np.int64)

    def _give_more(self, rows: Int64s) -> Int64s:
        """As `kernels.pairs.give_more`, to distinct pairs without."""
        evident = {name: self.of(name, rows) for name in _EVIDENT}
        self["more"][rows] = self.more.add(len(rows), views=self["events"][rows] > 0, **evident)
        return self["more"][rows]

    def _allocated(self, slots: int) -> NDArray[np.uint64]:
        allocated = np.zeros(slots + 1, np.uint64)
        allocated[slots] = self._seed
        return allocated
