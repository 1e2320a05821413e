"""Growing tables of rows, which kernels add to and change."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.intmap import IntMap
from aggregator.memory import grown
from kernels import narrow
from kernels.rows import INT40, INT48, NONE

_ROWS_MIN = 64

Column = NDArray[Any]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Table:
    """Rows of a dtype. `table["name"]` is a column of those in use.

    It is a view to read and write, unless the column is of narrow numbers: these are
    read to a copy, and `put` writes them. `rows` has room for more than `size[0]`, the
    number of rows in use; `size[1]` is the first of a list of rows to use again, or NONE.
    """

    def __init__(self, dtype: np.dtype[Any], absent: Mapping[str, int] | None = None) -> None:
        """`absent` gives the value of a new row where it is not 0."""
        self.rows = np.empty(_ROWS_MIN, dtype)
        self.size = np.array([0, NONE], np.int64)
        self._narrow = {n for n in dtype.names or () if dtype[n] in (INT40, INT48)}
        self._new = np.zeros(1, dtype)
        for name, value in (absent or {}).items():
            self._put(self._new[name], name, 0, value)

    def __len__(self) -> int:
        return int(self.size[0])

    def __getitem__(self, column: str) -> Column:
        values: Column = self.of(column, slice(None))
        return values

    def of(self, column: str, rows: Any) -> Any:
        """The values of a column in `rows`, which are numbers or what else an index can be."""
        values = self.rows[column][: len(self)][rows]
        return narrow.values(values) if column in self._narrow else values

    def put(self, column: str, rows: Any, values: Any) -> None:
        """Writes what `of` reads."""
        self._put(self.rows[column][: len(self)], column, rows, values)

    def reserve(self, rows: int) -> None:
        """Makes room for so many more."""
        self.rows = grown(self.rows, len(self) + rows)

    def add(self, rows: int, **values: Any) -> Int64s:
        """Appends `rows` rows, with `values` in their columns; returns their numbers."""
        start = len(self)
        self.reserve(rows)
        self.size[0] += rows
        self.rows[start : start + rows] = self._new
        for name, value in values.items():
            self.put(name, slice(start, start + rows), value)
        return np.arange(start, start + rows)

    def to_arrow(self, columns: tuple[str, ...], chosen: Bools | None = None) -> pa.Table:
        """A copy of these columns of the `chosen` rows, or of all."""
        rows = slice(None) if chosen is None else np.flatnonzero(chosen)
        return pa.table({name: pa.array(self.of(name, rows).copy()) for name in columns})

    def load_arrow(self, stored: pa.Table) -> None:
        """Fills an empty table; what `stored` lacks is as in new rows."""
        known = [name for name in stored.column_names if name in (self.rows.dtype.names or ())]
        self.add(len(stored), **{name: stored[name].to_numpy() for name in known})

    def _put(self, into: Column, column: str, rows: Any, values: Any) -> None:
        if column in self._narrow:
            narrow.put_all(into, rows, values)
        else:
            into[rows] = values


class IndexedTable(Table):
    """A table whose rows are found by an int64 key."""

    def __init__(self, dtype: np.dtype[Any], absent: Mapping[str, int] | None = None) -> None:
        super().__init__(dtype, absent)
        self.index = IntMap()

    def find(self, keys: Int64s) -> Int64s:
        """The row of each key, NONE where there is none."""
        return self.index.find(keys)

    def reserve(self, rows: int) -> None:
        super().reserve(rows)
        self.index.reserve(len(self) + rows)

    def index_all(self, keys: Int64s) -> None:
        """Makes all rows, which were loaded, findable; a key a row."""
        self.index.insert(keys, np.arange(len(self)), 0)
