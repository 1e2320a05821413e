"""What shards have to say, brought to the server's standard error.

A named pipe in the folder of the running server: shards write to it, a thread of the
server copies. Ray does this through files that another process reads, at 45 MiB.
"""

import contextlib
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

#: For the last lines, once the shards have gone.
_LAST_LINES_TIMEOUT_S = 1.0
_READ_BYTES = 1 << 16
_STDERR = 2
_NAME = "log"


class LogPipe:
    """The server's end."""

    def __init__(self, folder: Path) -> None:
        path = folder / _NAME
        os.mkfifo(path, 0o600)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it waits for a writer
        os.set_blocking(self._reader, True)
        #: Without it the pipe would end whenever there is no shard.
        self._writer: int | None = os.open(path, os.O_WRONLY)
        self._thread = threading.Thread(target=self._copy, name="log", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        while lines := os.read(self._reader, _READ_BYTES):
            # Whatever becomes of a line, the next ones are read.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.buffer.write(lines)
                sys.stderr.flush()
        os.close(self._reader)

    def close(self) -> None:
        """Waits for what shards still have to say, if they are about to end."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
            self._thread.join(_LAST_LINES_TIMEOUT_S)


def write_to(folder: Path) -> None:
    """Makes the pipe the standard error of this process.

    A server that does not read is not waited for: lines there is no room for are lost.
    """
    descriptor = os.open(folder / _NAME, os.O_WRONLY | os.O_NONBLOCK)
    os.dup2(descriptor, _STDERR)
    os.close(descriptor)
    lossy: Any = _Lossy()
    sys.stderr = io.TextIOWrapper(lossy, errors="backslashreplace", write_through=True)


class _Lossy(io.RawIOBase):
    """Standard error without a buffer, where what was lost would stand before the next line."""

    def writable(self) -> bool:
        return True

    def write(self, line: Any) -> int:
        with contextlib.suppress(BlockingIOError):
            os.write(_STDERR, line)
        return len(line)
