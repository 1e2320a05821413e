"""Stopping while the server starts, before its loop handles signals.

A signal raises `KeyboardInterrupt` wherever the start is. That can be inside of a
library that swallows it, so `check` raises it again.
"""

import signal
from types import FrameType

_asked = False


def install() -> None:
    """Has SIGINT and SIGTERM end the start."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ask)


def check() -> None:
    """Raises `KeyboardInterrupt` if a stop was asked for."""
    if _asked:
        raise KeyboardInterrupt


def _ask(_number: int, _frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603 - signals are the process' own
    _asked = True
    raise KeyboardInterrupt
