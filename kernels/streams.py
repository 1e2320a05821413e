"""Rows of streams with a session: where the last event was, and the open run."""

from typing import Any

from kernels import narrow
from kernels.compiler import helper


@helper
def last_t(stream: Any) -> int:
    """NONE without events."""
    return narrow.value(stream.last_t)


@helper
def open_run(stream: Any) -> tuple[int, int]:
    """Its start and its end, which is where the last event was."""
    return narrow.value(stream.run_start), narrow.value(stream.last_at)


@helper
def put(stream: Any, t: int, run_start: int, at: int) -> None:
    narrow.put(stream.last_t, t)
    narrow.put(stream.run_start, run_start)
    narrow.put(stream.last_at, at)
