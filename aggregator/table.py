"""Growing columns of equal length: a row a thing, a numpy array a property."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from aggregator.intmap import IntMap

#: Growing by half keeps unused space under a third.
_GROWTH = 1.5
_ROWS_MIN = 64

Column = NDArray[Any]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: No row, no time: where 0 could be meant.
NONE = -1


def grown(column: Column, rows: int) -> Column:
    """`column`, or a longer copy of it with room for `rows` and more."""
    if rows <= len(column):
        return column
    longer = np.empty(max(rows, int(len(column) * _GROWTH), _ROWS_MIN), column.dtype)
    longer[: len(column)] = column
    return longer


class Table:
    """Named columns. `table["name"]` is a view of the rows in use, and can be written to."""

    def __init__(self, columns: Mapping[str, DTypeLike], absent: Mapping[str, int]) -> None:
        """`absent` gives the value of a new row where it is not 0."""
        self._absent = dict(absent)
        self._columns: dict[str, Column] = {
            name: np.empty(0, dtype) for name, dtype in columns.items()
        }
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, column: str) -> Column:
        return self._columns[column][: self._count]

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def add(self, rows: int, **values: Any) -> Int64s:
        """Appends `rows` rows, with `values` in their columns; returns their numbers."""
        start = self._count
        self._reserve(start + rows)
        self._count += rows
        for name, column in self._columns.items():
            column[start : self._count] = values.get(name, self._absent.get(name, 0))
        return np.arange(start, self._count)

    def _reserve(self, rows: int) -> None:
        for name, column in self._columns.items():
            self._columns[name] = grown(column, rows)

    def clear(self, rows: Int64s, *but: str) -> None:
        """Sets `rows` to what new ones are, except for the columns named."""
        for name in self._columns:
            if name not in but:
                self[name][rows] = self._absent.get(name, 0)

    def to_arrow(self, chosen: Bools | None = None) -> pa.Table:
        """A copy of the `chosen` rows, or of all, that later changes do not reach."""
        rows = slice(None) if chosen is None else np.flatnonzero(chosen)
        return pa.table({name: pa.array(self[name][rows].copy()) for name in self._columns})

    def load_arrow(self, stored: pa.Table) -> None:
        """Fills an empty table; columns that `stored` lacks get the value of new rows."""
        self.add(
            stored.num_rows,
            **{
                name: stored[name].to_numpy()
                for name in self._columns
                if name in stored.column_names
            },
        )


class IndexedTable(Table):
    """A table whose rows are found by an int64 key, as far as they have been given one."""

    def __init__(self, columns: Mapping[str, DTypeLike], absent: Mapping[str, int]) -> None:
        super().__init__(columns, absent)
        self._index = IntMap()

    def find(self, keys: Int64s) -> Int64s:
        """The row of each key, `NONE` where there is none."""
        return self._index.find(keys)

    def find_or_add(self, keys: Int64s, **columns: Int64s) -> tuple[Int64s, Bools]:
        """The rows of distinct `keys`, missing ones added with their `columns`; and which were."""
        rows = self._index.find(keys)
        is_new = rows == NONE
        if is_new.any():
            chosen: dict[str, Any] = {name: column[is_new] for name, column in columns.items()}
            rows[is_new] = self.add(int(np.count_nonzero(is_new)), **chosen)
            self._index.insert(keys[is_new], rows[is_new])
        return rows, is_new

    def rows(self, keys: Int64s, **columns: Int64s) -> Int64s:
        """As `find_or_add`, for keys that may repeat."""
        rows = self._index.find(keys)
        missing = np.flatnonzero(rows == NONE)
        if len(missing):
            distinct, first, which = np.unique(
                keys[missing], return_index=True, return_inverse=True
            )
            chosen = missing[first]
            added, _ = self.find_or_add(
                distinct, **{name: column[chosen] for name, column in columns.items()}
            )
            rows[missing] = added[which]
        return rows

    def index(self, keys: Int64s, rows: Int64s) -> None:
        """Makes loaded rows findable again."""
        self._index.insert(keys, rows)
