"""Files that survive a crash: locks, atomic replacement, synced folders."""

import fcntl
import os
import time
from pathlib import Path

from persistence.errors import LockedError


def sync_folder(folder: Path) -> None:
    """Makes creations and renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents, durably; only their owner may enter."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Writes `path` whole: after a crash it holds the old content or the new."""
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)  # it may be what fills the disk
        raise
    sync_folder(path.parent)


class FolderLock:
    """An exclusive lock on a file in a folder, released when the process ends, however it ends."""

    def __init__(self, folder: Path, wait_s: float = 0.0, name: str = "LOCK") -> None:
        """Raises `LockedError` when the lock is still taken after `wait_s` seconds."""
        path = folder / name
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(self._descriptor)
                    raise LockedError(path) from None
                time.sleep(0.05)

    @property
    def descriptor(self) -> int:
        """A process that inherits it holds the lock too, until it ends."""
        return self._descriptor

    def release(self) -> None:
        os.close(self._descriptor)
