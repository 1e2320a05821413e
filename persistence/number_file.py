"""A number in a file of its own: 12 bytes, written in place, the number (u64) and its CRC-32.

They lie in one sector of the disk, so a crash leaves the old number or the new one.
"""

import os
import struct
import zlib
from pathlib import Path

from persistence.errors import DamagedError
from persistence.files import sync_folder

#: Two in a row come in between two writes, unless someone writes all the time.
READINGS_MAX = 100

_NUMBER = struct.Struct("<Q")
_CONTENT = struct.Struct("<QI")


class NumberFile:
    """An open file; it holds 0 until something else is written."""

    def __init__(self, path: Path) -> None:
        """Opens `path`, or makes it, durably."""
        self.path = path
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if is_new:
            sync_folder(path.parent)

    def read(self) -> int:
        """Raises `DamagedError`."""
        return _decode(self.path, os.pread(self._descriptor, _CONTENT.size + 1, 0))

    def write(self, number: int) -> None:
        """What a process writes outlives it, but not the machine before `sync`."""
        checksum = zlib.crc32(_NUMBER.pack(number))
        os.pwrite(self._descriptor, _CONTENT.pack(number, checksum), 0)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_number(path: Path) -> int:
    """That of a file that may not be there: then 0. Raises `DamagedError`."""
    try:
        return _decode(path, content_beside_writer(path))
    except FileNotFoundError:
        return 0


def content_beside_writer(path: Path) -> bytes:
    """Of a number's file, which may be written at this moment: what two readings agree on."""
    content = path.read_bytes()
    for _ in range(READINGS_MAX):
        again = path.read_bytes()
        if again == content:
            break
        content = again
    return content


def _decode(path: Path, content: bytes) -> int:
    if len(content) <= _CONTENT.size and not content.strip(b"\0"):
        return 0  # made, and the machine stopped before anything was written
    if len(content) != _CONTENT.size:
        raise DamagedError(path, min(len(content), _CONTENT.size), "it is no single number")
    number, checksum = _CONTENT.unpack(content)
    if zlib.crc32(_NUMBER.pack(number)) != checksum:
        raise DamagedError(path, 0, "the checksum of the number in it does not match")
    return int(number)
