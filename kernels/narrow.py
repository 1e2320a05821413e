"""Numbers of `INT40` and `INT48`: one at a time in kernels, and as columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper

Int64s = NDArray[np.int64]

_LOW = 0xFFFFFFFF


@helper
def value(narrow: Any) -> int:
    return np.int64(narrow.high) << 32 | np.int64(narrow.low)


@helper
def put(narrow: Any, number: int) -> None:
    narrow.low = number & _LOW
    narrow.high = number >> 32


def values(column: NDArray[Any]) -> Int64s:
    wide: Int64s = column["high"].astype(np.int64) << 32 | column["low"]
    return wide


def put_all(column: NDArray[Any], rows: Any, numbers: Any) -> None:
    """Writes to `rows` of a column, which are numbers or what else an index can be."""
    wide = np.asarray(numbers, np.int64)
    column["low"][rows] = wide & _LOW
    column["high"][rows] = wide >> 32
