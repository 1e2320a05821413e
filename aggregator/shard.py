"""A shard: the one place where state, log and snapshots meet.

`handle` takes frames, however they travelled. Frames of events that arrive while
the disk is busy share the next write and fsync. Frames of queries are answered
at once, from the state in memory.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import psutil
import xxhash

from aggregator.answers import View
from aggregator.messages import (
    EVENTS,
    QUERIES,
    Answers,
    Applied,
    Query,
    Refused,
    Reply,
    ShardStats,
    StatsQuery,
    decode_events,
    decode_queries,
)
from aggregator.rate import Rate
from aggregator.recovery import recover
from aggregator.rules import Rules
from persistence import log, snapshot
from persistence.batch import Batch, BatchError
from persistence.epoch import Epoch
from persistence.errors import NotWritableError
from persistence.files import FolderLock, make_folder
from persistence.log import Log, Record

#: What the process ends with when it may not go on writing (EX_IOERR).
EXIT_CANNOT_WRITE = 74
#: The process before may take this long to let go of the folder.
LOCK_WAIT_S = 10.0

_encoder = msgspec.msgpack.Encoder()
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Where a shard keeps its data, and when it snapshots and starts a new log segment."""

    number: int
    folder: Path
    rules: Rules
    snapshot_events: int
    segment_bytes: int


@dataclass(slots=True)
class _Append:
    """A frame of events on its way to the disk."""

    producer: int
    sequence: int
    batch: Batch
    encoded: memoryview
    reply: asyncio.Future[Reply]


class Shard:
    """Use from one event loop, after `Shard(...)` has recovered what is in the folder."""

    def __init__(
        self, settings: ShardSettings, clock_ms: Callable[[], int] = lambda: time.time_ns() // 10**6
    ) -> None:
        """Recovers; raises `PersistenceError` if the folder is in use or damaged."""
        self._settings = settings
        self._clock_ms = clock_ms
        make_folder(settings.folder)
        self._lock = FolderLock(settings.folder, LOCK_WAIT_S)
        self._log_folder = settings.folder / "log"
        self._snapshot_folder = settings.folder / "snapshots"
        with contextlib.ExitStack() as release:  # for the next attempt, here or elsewhere
            release.callback(self._lock.release)
            self._epoch = Epoch(settings.folder)
            release.callback(self._epoch.close)
            recovered = recover(self._log_folder, self._snapshot_folder, settings.rules)
            self._log = Log(
                self._log_folder, self._epoch, recovered.next_sequence, settings.segment_bytes
            )
            release.pop_all()
        #: What was found on disk, for people.
        self.recovered = recovered.summary
        self._state, self._producers = recovered.state, recovered.producers
        self._received_ms = recovered.received_ms
        self._snapshot_sequence = recovered.snapshot_sequence
        self._applied_sequence = recovered.next_sequence - 1
        self._events_since_snapshot = recovered.replayed_events
        self._pending: list[_Append] = []
        self._in_flight: dict[tuple[int, int], asyncio.Future[Reply]] = {}
        self._wake = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self._snapshotting: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, "log")
        self._writable = True
        self._rate = Rate()

    async def handle(self, frame: bytes) -> bytes:
        """The encoded reply to `frame`; events are on disk and counted when it is `Applied`."""
        kind = frame[:1]
        if kind == EVENTS:
            return _encoder.encode(await self._take_events(frame))
        if kind == QUERIES:
            return _encoder.encode(Answers(self._answer_all(decode_queries(frame))))
        return _encoder.encode(Refused(f"a frame of unknown kind {kind!r}"))

    async def close(self) -> None:
        """Finishes what is under way, snapshots what the newest snapshot lacks, lets go."""
        while self._pending or self._in_flight:
            await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        if self._committer is not None:
            self._committer.cancel()
        if self._snapshotting is not None:
            await self._snapshotting
        if self._applied_sequence > self._snapshot_sequence:
            await self._snapshot()
        self._disk.shutdown()
        self._log.close()
        self._epoch.close()
        self._lock.release()

    # Events

    async def _take_events(self, frame: bytes) -> Reply:
        producer, sequence, encoded = decode_events(frame)
        known = self._producers.reply_to(producer, sequence)
        if known is not None:
            return known
        reply = self._in_flight.get((producer, sequence))
        if reply is None:
            try:
                batch = Batch.decode(encoded)
            except BatchError as error:
                return Refused(str(error))
            reply = asyncio.get_running_loop().create_future()
            self._in_flight[producer, sequence] = reply
            self._pending.append(_Append(producer, sequence, batch, encoded, reply))
            self._wake.set()
            if self._committer is None:
                self._committer = asyncio.create_task(self._commit_forever())
        return await asyncio.shield(reply)

    async def _commit_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._pending = self._pending, []
            try:
                await self._commit(group)
            except Exception as error:  # noqa: BLE001 - nothing may be acknowledged any more
                self._give_up(error)
            if self._events_since_snapshot >= self._settings.snapshot_events and (
                self._snapshotting is None or self._snapshotting.done()
            ):
                self._snapshotting = asyncio.create_task(self._snapshot())

    async def _commit(self, group: list[_Append]) -> None:
        """Makes a group of frames durable, then visible, then answers.

        1. Stamp each with the next sequence and the shard's clock, which never runs back.
        2. Append all with one write and one fsync, in the disk's thread.
        3. Apply each to the state and remember the reply, for a producer that asks again.

        Any error but `NotWritableError` leaves it unknown what is durable: the process ends.
        """
        self._received_ms = max(self._clock_ms(), self._received_ms)
        records = [
            Record(
                self._log.next_sequence + index,
                self._received_ms,
                append.producer,
                append.sequence,
                append.encoded,
            )
            for index, append in enumerate(group)
        ]
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._disk, self._log.append, records)
        except NotWritableError as error:
            if self._writable:
                _logger.error("shard %d takes no events: %s", self._settings.number, error)
            self._writable = False
            for append in group:
                self._answer(append, Refused(str(error)))
            return
        self._writable = True
        for append in group:
            duplicate = self._state.apply(append.batch, self._received_ms)
            reply = Applied(self._received_ms, np.flatnonzero(duplicate).tolist())
            self._producers.remember(append.producer, append.sequence, reply)
            self._events_since_snapshot += len(append.batch)
            self._rate.count(len(append.batch))
            self._answer(append, reply)
        # The log runs ahead of the state while a group is on its way to the disk.
        self._applied_sequence = records[-1].sequence

    def _answer(self, append: _Append, reply: Reply) -> None:
        del self._in_flight[append.producer, append.sequence]
        append.reply.set_result(reply)

    def _give_up(self, error: Exception) -> NoReturn:
        _logger.critical("shard %d ends: %s", self._settings.number, error)
        logging.shutdown()
        os._exit(EXIT_CANNOT_WRITE)

    # Snapshots

    async def _snapshot(self) -> None:
        """Writes a frozen copy of the state in a thread, while appends go on."""
        sequence = self._applied_sequence
        tables = self._state.to_arrow()
        extra: dict[str, Any] = {
            "received_ms": self._received_ms,
            "young_since_ms": self._state.recent.young_since_ms,
            "producers": self._producers.dump(),
        }
        self._events_since_snapshot = 0
        try:
            await asyncio.to_thread(snapshot.write, self._snapshot_folder, sequence, tables, extra)
        except Exception:  # the log has everything, so the shard goes on
            _logger.exception("no snapshot of shard %d", self._settings.number)
        else:
            self._snapshot_sequence = sequence

    # Queries

    def _answer_all(self, queries: list[Query]) -> list[msgspec.Raw]:
        view = View(self._state, max(self._clock_ms(), self._received_ms))
        return [
            msgspec.Raw(
                _encoder.encode(
                    self._stats() if isinstance(query, StatsQuery) else view.answer(query)
                )
            )
            for query in queries
        ]

    def _is_writable(self) -> bool:
        """After a failure, whether there is room again: nothing may be sent until that is said."""
        self._writable = self._writable or self._log.has_room()
        return self._writable

    def _stats(self) -> ShardStats:
        state = self._state
        paths = log.segments(self._log_folder)
        names = state.movie_names.to_list()
        hashes = np.fromiter((xxhash.xxh3_64_intdigest(n.encode()) for n in names), np.uint64)
        return ShardStats(
            shard=self._settings.number,
            users=len(state.users),
            movies=len(state.movies),
            pairs=len(state.pairs),
            streams=len(state.streams.table),
            events=state.events,
            events_per_second=self._rate.per_second(),
            memory_bytes=psutil.Process().memory_info().rss,
            remembered_ids=len(state.recent),
            epoch=self._epoch.number,
            log_sequence=self._applied_sequence,
            log_segments=len(paths),
            log_bytes=sum(path.stat().st_size for path in paths),
            broken_tails=len(log.broken_tails(self._log_folder)),
            snapshot_sequence=self._snapshot_sequence,
            writable=self._is_writable(),
            movie_hashes=hashes.tobytes(),
        )
