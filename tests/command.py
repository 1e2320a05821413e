"""`playhead check`, `sql` and others, in this process: most of what they take is their start.

Each is also tried as people run it, in a process of its own: where it refuses or is ended.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.cli import main

#: What some commands handle in a way of their own.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


@dataclass(frozen=True)
class Ended:
    """How a command ended, named as `subprocess.run` does."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: str | Path) -> Ended:
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with _left_as_it_is(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = _code_of([str(argument) for argument in arguments])
    return Ended(code, *(_all_of(stream) for stream in (out, error)))


def _code_of(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        if not isinstance(end.code, str):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _all_of(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


@contextlib.contextmanager
def _left_as_it_is() -> Iterator[None]:
    """Keeps priority and signals, which a command may change in a process of its own."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "nice", lambda _: 0)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
