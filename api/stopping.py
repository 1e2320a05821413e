"""Stopping while the server starts, before its loop handles signals.

A signal raises `KeyboardInterrupt` wherever the start is. That can be inside of a
library that swallows it, so `check` raises it again.
"""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked = False


def install() -> None:
    """Has SIGINT and SIGTERM end the start, however long that takes.

    Ray's handler for SIGTERM, which comes before ours once Ray has begun to start, sets
    an alarm that aborts the process 3 s later: it is kept from all threads.
    https://github.com/ray-project/ray/pull/64830
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    for number in SIGNALS:
        signal.signal(number, _ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    check()


def keep() -> None:
    """Keeps what comes for `install`, also across the start of another program in this process.

    A thread that was there before, such as one of numpy's, blocks nothing: what it gets is noted.
    """
    for number in SIGNALS:
        signal.signal(number, _note)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def ignore() -> None:
    """From here on the server stops, and cannot do so faster."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raises `KeyboardInterrupt` if a stop was asked for."""
    if _asked:
        raise KeyboardInterrupt


def _note(_number: int, _frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603 - signals are the process' own
    _asked = True


def _ask(number: int, frame: FrameType | None) -> None:
    _note(number, frame)
    raise KeyboardInterrupt
