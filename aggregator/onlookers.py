"""Commands on the same machine that look at a shard beside its server, as `playhead check` does.

They know the shard by the folder of its data, as copies of a data directory have one id.
"""

import asyncio
from pathlib import Path

from aggregator.file_access import FileAccess
from aggregator.messages import (
    Held,
    HoldRequest,
    Refused,
    Tabled,
    TablesRequest,
    encode_tables,
)
from aggregator.tables import tables_of
from aggregator.tally import Tally

#: The longest that one of them may have checkpoints wait; erases wait with them.
HOLD_S_MAX = 60.0
#: Of all tables of the state, compressed, in one reply; half of what a message may have.
TABLES_BYTES_MAX = 1 << 29


class Onlookers:
    """Answers them, in the shard's loop."""

    def __init__(self, folder: Path, files: FileAccess, tally: Tally) -> None:
        self._folder = folder
        self._files = files
        self._tally = tally

    async def hold(self, request: HoldRequest) -> Held | Refused:
        """Has checkpoints wait, so that what has begun to be read stays there."""
        if not self._is_meant(request.folder):
            return self._refused()
        if request.seconds > 0:
            seconds = min(request.seconds, HOLD_S_MAX)
            return Held(has_lasted=await self._files.hold(request.holder, seconds))
        self._files.release(request.holder)
        return Held()

    async def tables(self, request: TablesRequest, sequence: int) -> Tabled | Refused:
        """All that the state says after the record `sequence`, the last; encoded in a thread."""
        if not self._is_meant(request.folder):
            return self._refused()
        with self._tally.current() as state:
            fold_before, tables = state.hours.fold_before, tables_of(state)
        encoded = await asyncio.to_thread(encode_tables, tables)
        if sum(map(len, encoded.values())) > TABLES_BYTES_MAX:
            return Refused("what it has in memory is too much for one message")
        return Tabled(sequence, fold_before, encoded)

    def _is_meant(self, folder: str) -> bool:
        try:
            return self._folder.samefile(folder)
        except OSError:
            return False

    def _refused(self) -> Refused:
        return Refused(f"this shard keeps its data in {self._folder}")
