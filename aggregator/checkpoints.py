"""The checkpoints of a shard: what the last one covers, when the next is due, and making it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aggregator import checkpoint
from aggregator.checkpoint import Folders, Frozen
from aggregator.checkpointer import Checkpointer, Order
from aggregator.file_access import FileAccess
from aggregator.recovery import Recovered
from aggregator.schedule import Schedule
from aggregator.shard_settings import ShardSettings
from persistence import log, snapshot
from persistence.errors import NotWritableError, PersistenceError
from persistence.log import Log

_logger = logging.getLogger(__name__)


class Checkpoints:
    """Use from the shard's event loop, between commits: what is in the log then is in the next."""

    def __init__(
        self,
        settings: ShardSettings,
        folders: Folders,
        recovered: Recovered,
        shard_log: Log,
        lock: int,
        files: FileAccess,
        ended: Callable[[], None],
    ) -> None:
        """`lock` is the descriptor of the shard's lock; `ended` is told of each, and failures."""
        self._settings, self._folders = settings, folders
        self._log, self._lock, self._files = shard_log, lock, files
        self._ended = ended
        #: The record that the last one ends with, and when that was received.
        self.sequence, self.received_ms = recovered.snapshot_sequence, recovered.snapshot_ms
        #: Of records after it: the indexes of what had no effect. The shard adds to both.
        self.skipped = recovered.skipped
        #: Erases that no checkpoint has made final.
        self.erasing = recovered.erasing
        self._schedule = Schedule(
            log_bytes_min=settings.snapshot_log_bytes,
            interval_s=settings.snapshot_interval_s,
            erase_delay_s=settings.erase_delay_s,
            log_bytes=log.bytes_after(folders.log, recovered.snapshot_sequence),
            snapshot_bytes=snapshot.newest_bytes(folders.snapshots),
        )
        self._making: asyncio.Task[None] | None = None
        self._checkpointer: Checkpointer | None = None

    def logged(self, more_bytes: int) -> None:
        self._schedule.logged(more_bytes)

    def due_in_s(self, last_sequence: int) -> float | None:
        """0 when one is due, None when none will be before something changes.

        `last_sequence` is that of the newest record.
        """
        return self._schedule.due_in_s(
            has_more=last_sequence > self.sequence, has_erases=bool(self.erasing)
        )

    def begin(self, sequence: int, received_ms: int) -> None:
        """Has one made of all up to the record `sequence`, the newest, by another process."""
        if self._end_segment():
            making = self._make(sequence, received_ms, self._write_beside(sequence))
            self._making = asyncio.create_task(making)

    async def make(self, freeze: Callable[[], Frozen], received_ms: int) -> None:
        """Makes one here; nothing is committed before it is made, or put off."""
        if self._end_segment():
            frozen = freeze()
            await self._make(frozen.sequence, received_ms, self._write(frozen))

    async def stop(self) -> None:
        """Gives up the one that is under way."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])

    def _end_segment(self) -> bool:
        """Ends a log segment with what is to be in a checkpoint; False if there is no room."""
        try:
            self._log.rotate()
        except NotWritableError as error:
            self._postpone(error)
            return False
        self._schedule.begin()
        return True

    async def _make(self, sequence: int, received_ms: int, writing: Awaitable[None]) -> None:
        """Up to the record `sequence`; one that fails is tried again later."""
        try:
            await writing
            snapshot_bytes = snapshot.newest_bytes(self._folders.snapshots)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log has everything
            self._postpone(error)
            return
        self.sequence, self.received_ms = sequence, received_ms
        self._schedule.end(snapshot_bytes)
        self.skipped = {s: i for s, i in self.skipped.items() if s > sequence}
        self.erasing = [each for each in self.erasing if each.sequence >= sequence]
        self._ended()

    async def _write(self, frozen: Frozen) -> None:
        async with self._files.changing():
            await asyncio.to_thread(checkpoint.write, self._folders, frozen)

    async def _write_beside(self, sequence: int) -> None:
        """In a process of its own, while frames are handled here."""
        settings = self._settings
        order = Order(
            str(settings.folder),
            settings.number,
            settings.owner,
            settings.rules,
            settings.hours_kept_days,
            sequence,
        )
        self._checkpointer = maker = Checkpointer.start(order, self._lock)
        try:
            await asyncio.to_thread(maker.prepare)
            async with self._files.changing():
                await asyncio.to_thread(maker.write)
        finally:
            await asyncio.to_thread(maker.kill)  # its memory takes a while to be given back
            self._checkpointer = None

    def _postpone(self, error: Exception) -> None:
        is_known = isinstance(error, OSError | PersistenceError)
        _logger.error(
            "no checkpoint of shard %d: %s", self._settings.number, error,
            exc_info=None if is_known else error,
        )  # fmt: skip
        self._schedule.postpone()
        self._ended()
