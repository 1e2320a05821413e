"""The epoch of a shard: which incarnation of its actor may write.

Every opening of the log takes the next epoch. A writer compares its own with
the file before each append, so an incarnation that slept through its
replacement's start finds out and ends (the fencing token of Kleppmann's "How to
do distributed locking").

EPOCH is 12 bytes, written in place: the epoch (u64) and its CRC-32 (u32).
"""

import os
import struct
import zlib
from pathlib import Path

from persistence.errors import DamagedError, FencedError
from persistence.files import sync_folder

_NUMBER = struct.Struct("<Q")
_CONTENT = struct.Struct("<QI")


class Epoch:
    """The epoch this process took, and the means to see that it is still the newest."""

    def __init__(self, folder: Path) -> None:
        """Takes the next epoch of the shard in `folder`, durably."""
        self._path = folder / "EPOCH"
        fresh = not self._path.exists()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.number = 1 if fresh else self._read() + 1
            os.pwrite(self._descriptor, self._encode(self.number), 0)
            os.fsync(self._descriptor)
            if fresh:
                sync_folder(folder)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises `FencedError` when another incarnation has taken a later epoch."""
        newest = self._read()
        if newest != self.number:
            raise FencedError(f"epoch {newest} has replaced epoch {self.number} in {self._path}")

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self) -> int:
        content = os.pread(self._descriptor, _CONTENT.size, 0)
        if not content.strip(b"\0"):
            return 0  # created, and the machine stopped before anything was written
        if len(content) < _CONTENT.size:
            raise DamagedError(self._path, len(content), "the epoch is cut short")
        number, checksum = _CONTENT.unpack(content)
        if zlib.crc32(_NUMBER.pack(number)) != checksum:
            raise DamagedError(self._path, 0, "the epoch's checksum does not match")
        return int(number)

    @staticmethod
    def _encode(number: int) -> bytes:
        return _CONTENT.pack(number, zlib.crc32(_NUMBER.pack(number)))
