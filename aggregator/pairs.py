"""The rows of pairs, found by user and movie, and what else there is about some of them."""

import secrets
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.intmap import GROWTH, LOAD_MAX, SLOTS_MIN
from aggregator.memory import zeros
from aggregator.table import Table
from kernels import pair_index
from kernels.pairs import EVENTS_MAX
from kernels.rows import LATE, MORE, NO_MORE, NONE, PAIR

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Columns of `more` that are evident of a pair without a row there, and are no constants.
_EVIDENT = ("watch_ms", "events", "furthest_ms", "last_t", "last_at")


class Pairs(Table):
    """The table of pairs, whose columns are also those of `more`, `version`, and its row there.

    Only those of its own rows can be written to. Kernels write to `slots`, after `reserve`,
    and to `more`, after a `reserve` of its own.
    """

    def __init__(self) -> None:
        nothing = ("latest_t", "latest_order", "next", "hour", "hours")
        super().__init__(PAIR, {"first_t": LATE, **dict.fromkeys(nothing, NONE)})
        self.more = Table(MORE, dict.fromkeys(("completed_t", "last_t", "streams", "runs"), NONE))
        self.more.add(1, views=1)
        self._seed = np.uint64(secrets.randbits(64))
        self.slots = self._allocated(SLOTS_MIN)

    def of(self, column: str, rows: Any) -> Any:
        """The values of a column in `rows`, which are numbers or what else an index can be."""
        if column in (PAIR.names or ()):
            return super().of(column, rows)
        events_or_more = super().of("events_or_more", rows)
        more = np.where(events_or_more < 0, ~events_or_more, NO_MORE)
        match column:
            case "more":
                return more
            case "version":
                return self.of("events", rows) + self.more.of("changes", more)
            case "events":
                evident = events_or_more
            case "watch_ms":
                evident = super().of("latest_ms", rows) - super().of("run_start", rows)
            case "furthest_ms" | "last_at":
                evident = super().of("latest_ms", rows)
            case "last_t":
                evident = super().of("latest_t", rows)
            case _:
                return self.more.of(column, more)
        return np.where(events_or_more < 0, self.more.of(column, more), evident)

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
        """Fills an empty table, and makes its rows findable.

        `stored` has the streams without a session, too; what else pairs have comes after.
        """
        columns = {name: stored[name].to_numpy() for name in stored.column_names}
        columns["first_t"] = np.minimum(columns["first_t"], LATE)  # once it was later than that
        own = {name: columns[name] for name in PAIR.names or () if name in columns}
        self.add(len(stored), **own, events_or_more=np.minimum(columns["events"], EVENTS_MAX))
        pair_index.insert_all(self.slots, self.rows, len(self))
        columns["changes"] = columns["version"] - columns["events"]
        of_more = [name for name in MORE.names or () if name in columns]
        is_evident = np.ones(len(self), np.bool_)
        for name in of_more:
            is_evident &= columns[name] == self[name]
        rows = np.flatnonzero(~is_evident)
        more = self.more_of(rows)
        for name in of_more:
            self.more.put(name, more, columns[name][rows])

    def more_of(self, rows: Int64s) -> Int64s:
        """The rows of `more` of pairs, of their own from now on."""
        self._give_more(np.unique(rows[self.of("more", rows) == NO_MORE]))
        more: Int64s = self.of("more", rows).astype(np.int64)
        return more

    def _give_more(self, rows: Int64s) -> None:
        """As `kernels.pairs.give_more`, to distinct pairs without."""
        evident = {name: self.of(name, rows) for name in _EVIDENT}
        more = self.more.add(len(rows), views=evident["events"] > 0, **evident)
        self.put("events_or_more", rows, ~more)

    def _allocated(self, slots: int) -> NDArray[np.uint64]:
        allocated = zeros(slots + 1, np.dtype(np.uint64))
        allocated[slots] = self._seed
        return allocated
