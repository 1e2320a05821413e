"""What ends a shard's process with its server, also where Ray is no longer there to do it.

A named pipe in the folder of the running server: the server has it open for
writing and writes nothing, a shard reads. When the server ends, however it ends,
the shard reads the end.
"""

import os
import threading
from pathlib import Path

#: What a process ends with whose server has gone.
EXIT_ORPHANED = 1
_NAME = "lifeline"


def create(folder: Path) -> int:
    """For the server: it ends when the descriptor is closed, which no child inherits."""
    path = folder / _NAME
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR)  # to write alone would wait for a reader


def hold(folder: Path) -> None:
    """Has this process end with the server; at once if that has ended."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        os._exit(EXIT_ORPHANED)
    os.set_blocking(descriptor, True)
    threading.Thread(target=_wait, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(EXIT_ORPHANED)
