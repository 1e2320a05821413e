"""Arrays that get longer: room is reserved ahead, where that costs nothing."""

import contextlib
import mmap
import os
import resource
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]

_GROWTH = 2
_ROWS_MIN = 64
#: From so many bytes on, room is reserved so many times over, to grow without a copy.
_RESERVED_FROM = 1 << 20
_RESERVED_TIMES = 1 << 14
#: What comes after so many bytes lies on large pages, which a short array would waste.
_LARGE_PAGES_FROM = 1 << 22
#: The policy by which the system counts all that is reserved (vm.overcommit_memory).
_COUNT_ALL = 2


def grown(column: Column, rows: int) -> Column:
    """`column`, or a longer copy of it with room for `rows` and more, all zeros.

    Room takes no memory before it is used, so there may be far more than was asked for.
    """
    if rows <= len(column):
        return column
    rows = max(rows, len(column) * _GROWTH, _ROWS_MIN)
    longer = _reserved(rows, column.dtype)
    if longer is None:
        longer = np.zeros(rows, column.dtype)
    longer[: len(column)] = column
    return longer


def zeros(items: int, dtype: np.dtype[Any]) -> Column:
    """An array that the system gets back as a whole when it is dropped, if it is large.

    The C library would keep the memory of arrays that larger ones replaced.
    """
    size = items * dtype.itemsize
    if size < _RESERVED_FROM:
        return np.zeros(items, dtype)
    return np.frombuffer(_mapped(size, 0), dtype, items)


def _reserved(rows: int, dtype: np.dtype[Any]) -> Column | None:
    """Addresses for far more than so many rows; None if there are few rows, or few addresses."""
    wanted = rows * dtype.itemsize
    reserved = min(wanted * _RESERVED_TIMES, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE)
    if not _RESERVED_FROM <= wanted < reserved or not _are_addresses_free():
        return None
    try:
        mapped = _mapped(reserved, _LARGE_PAGES_FROM)
    except OSError:
        return None
    return np.frombuffer(mapped, dtype, reserved // dtype.itemsize)


def _mapped(size: int, small_bytes: int) -> mmap.mmap:
    """Memory that is the system's; on large pages from `small_bytes` on, if it is large."""
    mapped = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size > _LARGE_PAGES_FROM:
        with contextlib.suppress(OSError):  # not all machines have large pages
            mapped.madvise(mmap.MADV_HUGEPAGE, small_bytes)
    return mapped


@cache
def _are_addresses_free() -> bool:
    """Whether what is reserved and not used counts towards no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    try:
        policy = int(Path("/proc/sys/vm/overcommit_memory").read_text())
    except (OSError, ValueError):
        return False
    return limit == resource.RLIM_INFINITY and policy != _COUNT_ALL
