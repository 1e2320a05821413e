"""The epoch of a shard: which incarnation of its actor may write.

Every opening of the log takes the next epoch. A writer compares its own with
the file before each append, so an incarnation that slept through its
replacement's start finds out and ends (the fencing token of Kleppmann's "How to
do distributed locking").
"""

from pathlib import Path

from persistence.errors import FencedError
from persistence.number_file import NumberFile

#: In the folder of the shard.
EPOCH = "EPOCH"


class Epoch:
    """The epoch this process took, and the means to see that it is still the newest."""

    def __init__(self, folder: Path) -> None:
        """Takes the next epoch of the shard in `folder`, durably."""
        self._file = NumberFile(folder / EPOCH)
        try:
            self.number = self._file.read() + 1
            self._file.write(self.number)
            self._file.sync()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises `FencedError` when another incarnation has taken a later epoch."""
        newest = self._file.read()
        if newest != self.number:
            raise FencedError(
                f"epoch {newest} has replaced epoch {self.number} in {self._file.path}"
            )

    def close(self) -> None:
        self._file.close()
