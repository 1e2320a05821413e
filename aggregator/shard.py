"""A shard: the one place where state, log and snapshots meet.

`handle` takes frames, however they travelled. What has come by then of events and
commands shares one write and one fsync, in the thread that reads the socket: to hand
them to another and back takes half as long as the disk does. Frames of queries are
answered from the state in memory, by `answer`, in any thread, whatever the disk does.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from aggregator import entries
from aggregator.answers import View
from aggregator.changes import carry_out
from aggregator.checkpoint import Folders, Frozen, erases_in
from aggregator.checkpoints import Checkpoints
from aggregator.commands import Command
from aggregator.export import export
from aggregator.file_access import FileAccess
from aggregator.linger import Linger
from aggregator.messages import (
    COMMANDS,
    EVENTS,
    EXPORT,
    HOLD,
    QUERIES,
    TABLES,
    Answers,
    Applied,
    Done,
    Exported,
    ExportRequest,
    Query,
    Refused,
    Reply,
    StatsQuery,
    decode_appended,
    decode_export,
    decode_hold,
    decode_queries,
    decode_tables_request,
)
from aggregator.onlookers import Onlookers
from aggregator.recovery import recover
from aggregator.shard_settings import ShardSettings
from aggregator.state import State
from aggregator.statistics import Standing, Statistics
from aggregator.tally import Tally
from aggregator.wire import Respond
from persistence import records
from persistence.batch import BatchError, Encoded
from persistence.epoch import Epoch
from persistence.errors import NotWritableError
from persistence.files import FolderLock, make_folder
from persistence.log import Log
from persistence.records import Record

#: What the process ends with when it may not go on writing (EX_IOERR).
EXIT_CANNOT_WRITE = 74
#: What was answered is counted, and SYNCED noted, so soon after, for many frames together.
CHORES_DELAY_S = 0.01
#: After a lone event the loop stays awake so long; its sender has the next one by then.
LINGER_S = 0.0004
#: The process before may take this long to let go of the folder.
LOCK_WAIT_S = 10.0
#: So many at a time: each reads all of the log, after which checkpoints and erases have their turn.
EXPORTS_MAX = 16
#: An fdatasync that takes longer is worth a warning.
SLOW_SYNC_S = 1.0
_LOG_KINDS = {EVENTS: records.EVENTS, COMMANDS: records.COMMANDS}
#: Frames that are handled without a task of their own.
SWIFT = frozenset([EVENTS, COMMANDS])

_encoder = msgspec.msgpack.Encoder()
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Append:
    """A frame of events or commands on its way to the disk."""

    kind: int
    producer: int
    sequence: int
    content: Encoded | list[Command]
    encoded: memoryview
    #: Several, where its sender has sent it again.
    responds: list[Respond]


class Shard:
    """Use from one event loop, after `Shard(...)` has recovered what is in the folder.

    The loop waits for the disk, so it should be this shard's own. From other threads
    call `answer` and `warn_of_slow_disk` alone.
    """

    def __init__(
        self, settings: ShardSettings, clock_ms: Callable[[], int] = lambda: time.time_ns() // 10**6
    ) -> None:
        """Recovers; raises `PersistenceError` if the folder is in use or damaged."""
        self._settings = settings
        self._clock_ms = clock_ms
        make_folder(settings.folder)
        self._lock = FolderLock(settings.folder, LOCK_WAIT_S)
        self._folders = Folders.of(settings.folder, settings.number, settings.owner)
        with contextlib.ExitStack() as release:  # for the next attempt, here or elsewhere
            release.callback(self._lock.release)
            self._epoch = Epoch(settings.folder)
            release.callback(self._epoch.close)
            state = State(settings.rules, settings.hours_kept_days)
            recovered = recover(self._folders, state)
            self._log = Log(
                self._folders.log,
                settings.owner,
                self._epoch,
                recovered.next_sequence,
                settings.segment_bytes,
            )
            release.pop_all()
        #: What was found on disk, for people.
        self.recovered = recovered.summary
        self._tally = Tally(recovered.state, self._give_up)
        self._producers = recovered.producers
        self._received_ms = recovered.received_ms
        self._applied_sequence = recovered.next_sequence - 1
        self._files = FileAccess()
        self._checkpoints = Checkpoints(
            settings,
            self._folders,
            recovered,
            self._log,
            self._lock.descriptor,
            self._files,
            lambda: self._ask_for_chores(0),
        )
        self._pending: list[_Append] = []
        self._in_flight: dict[tuple[int, int], _Append] = {}
        self._quiet: asyncio.Future[None] | None = None
        #: Comes when the sockets have been read.
        self._next_turn: asyncio.Handle | None = None
        #: When the chores come next, by the loop's clock, and the call that then does them.
        self._chores_at_s = math.inf
        self._chores: asyncio.Handle | None = None
        self._linger = Linger(LINGER_S)
        self._is_closing = False
        #: When the write that is under way began.
        self._writing_since_s: float | None = None
        self._warned_of_s: float | None = None
        self._exports = 0
        self._onlookers = Onlookers(settings.folder, self._files, self._tally)
        #: Why nothing can be written, if so.
        self._refusal = ""
        self._statistics = Statistics(settings.number, self._epoch.number, self._folders)

    def receive(self, frame: bytes, respond: Respond) -> None:
        """Has `respond` get the encoded reply to a `SWIFT` frame.

        When it is `Applied`, events are on disk, and no query comes before they are counted.
        """
        reply = self._take(_LOG_KINDS[frame[:1]], frame, respond)
        if reply is not None:
            respond(_encoder.encode(reply))

    def answer(self, frame: bytes) -> bytes:
        """The encoded reply to a frame of queries. Safe to call from any thread."""
        queries = decode_queries(frame)
        is_about_shard = any(isinstance(query, StatsQuery) for query in queries)
        # Before events have to wait for it: the disk with the files may take its time.
        standing = self._standing() if is_about_shard else None
        with self._tally.current() as state:
            answers = self._answer_all(state, queries, standing)
        return _encoder.encode(Answers(answers))

    async def handle(self, frame: bytes) -> bytes:
        """The encoded reply to any frame."""
        kind = frame[:1]
        if kind in SWIFT:
            replied: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            def respond(reply: bytes) -> None:
                if not replied.done():
                    replied.set_result(reply)

            self.receive(frame, respond)
            return await replied
        if kind == QUERIES:
            return self.answer(frame)
        if kind == EXPORT:
            return _encoder.encode(await self._export(decode_export(frame)))
        if kind == HOLD:
            return _encoder.encode(await self._onlookers.hold(decode_hold(frame)))
        if kind == TABLES:
            wanted = decode_tables_request(frame)
            return _encoder.encode(await self._onlookers.tables(wanted, self._applied_sequence))
        return _encoder.encode(Refused(f"a frame of unknown kind {kind!r}"))

    async def close(self) -> None:
        """Finishes what is under way, makes a last checkpoint if one is due, lets go."""
        self._files.release_all()
        if self._in_flight:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet
        self._end_turns()
        await self._checkpoints.stop()
        if self._applied_sequence > self._checkpoints.sequence:
            await self.checkpoint()
        self._tally.close()
        self._log.close()
        self._epoch.close()
        self._lock.release()

    # Events and commands

    def _take(self, kind: int, frame: bytes, respond: Respond) -> Reply | None:
        """What is known of a frame already; else it is on its way, and `respond` is told."""
        producer, sequence, encoded = decode_appended(frame)
        known = self._producers.reply_to(producer, sequence)
        if known is not None:
            return known
        under_way = self._in_flight.get((producer, sequence))
        if under_way is not None:
            under_way.responds.append(respond)
            return None
        try:
            content = entries.checked(kind, encoded)
        except (BatchError, msgspec.MsgspecError) as error:
            return Refused(str(error))
        append = _Append(kind, producer, sequence, content, encoded, [respond])
        self._in_flight[producer, sequence] = append
        self._pending.append(append)
        self._ask_for_turn()
        return None

    def start(self) -> None:
        """Begins to make checkpoints when they are due; the first frame does so too."""
        self._ask_for_chores(0)

    def _ask_for_turn(self) -> None:
        if self._next_turn is None and not self._is_closing:
            self._next_turn = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Commits what has come since the turn before.

        Between two turns replies leave and sockets are read.
        """
        self._next_turn = None
        try:
            is_lone = len(self._pending) == len(self._pending[0].content) == 1
            self._commit()
        except Exception as error:  # noqa: BLE001 - nothing may be acknowledged any more
            self._give_up(error)
        if is_lone:
            self._linger.begin()
        self._ask_for_chores(0 if self._tally.is_worth_counting else CHORES_DELAY_S)

    def _ask_for_chores(self, in_s: float) -> None:
        loop = asyncio.get_running_loop()
        at_s = loop.time() + in_s
        if at_s >= self._chores_at_s or self._is_closing:
            return
        if self._chores is not None:
            self._chores.cancel()
        self._chores_at_s, self._chores = at_s, loop.call_later(in_s, self._do_chores)

    def _do_chores(self) -> None:
        """What an answer need not wait for, so that many frames share it."""
        self._chores_at_s = math.inf
        try:
            self._log.note_synced()
            self._tally.count_soon()
            if self._checkpoints.due_in_s(self._applied_sequence) == 0:
                self._checkpoints.begin(self._applied_sequence, self._received_ms)
        except Exception as error:  # noqa: BLE001 - what was acknowledged must be counted
            self._give_up(error)
        due_in_s = self._checkpoints.due_in_s(self._applied_sequence)
        if due_in_s is not None:
            self._ask_for_chores(due_in_s)

    def _end_turns(self) -> None:
        self._is_closing = True
        for coming in (self._next_turn, self._chores):
            if coming is not None:
                coming.cancel()

    def _commit(self) -> None:
        """Makes what is pending durable, then answers; it is counted before anything is asked.

        1. Stamp each with the next sequence and the shard's clock, which never runs back.
        2. Append all with one write and one fsync.
        3. Remember and send each reply; the events are counted with those of other frames.

        Any error but `NotWritableError` leaves it unknown what is durable: the process ends.
        """
        group, self._pending = self._pending, []
        self._received_ms = max(self._clock_ms(), self._received_ms)
        appended = [
            Record(
                self._log.next_sequence + index,
                self._received_ms,
                append.producer,
                append.sequence,
                append.encoded,
                append.kind,
            )
            for index, append in enumerate(group)
        ]
        self._writing_since_s = time.monotonic()
        try:
            self._log.append(appended)
        except NotWritableError as error:
            if not self._refusal:
                _logger.error("shard %d takes no events: %s", self._settings.number, error)
            self._refusal = str(error)
            for append in group:
                self._answer(append, Refused(str(error)))
            return
        finally:
            self._writing_since_s = None
        self._refusal = ""
        replies = [self._apply(a.content, r) for a, r in zip(group, appended, strict=True)]
        for append, reply in zip(group, replies, strict=True):
            self._producers.remember(append.producer, append.sequence, reply)
            self._checkpoints.logged(len(append.encoded))
            self._answer(append, reply)
        self._applied_sequence = appended[-1].sequence

    def _apply(self, content: Encoded | list[Command], record: Record) -> Applied | Done:
        reply: Applied | Done
        if isinstance(content, Encoded):
            without_effect = self._tally.add(content, record.received_ms)
            self._statistics.taken.count(len(content))
            reply = Applied(record.received_ms, without_effect)
        else:
            with self._tally.current() as state:
                reply = carry_out(state, content, record.received_ms)
            without_effect = [i for i, o in enumerate(reply.outcomes) if o.status != "done"]
            self._checkpoints.erasing += erases_in(record.sequence, record.received_ms, content)
        if without_effect:
            self._checkpoints.skipped[record.sequence] = without_effect
        return reply

    def _answer(self, append: _Append, reply: Reply) -> None:
        del self._in_flight[append.producer, append.sequence]
        encoded = _encoder.encode(reply)
        for respond in append.responds:
            respond(encoded)
        if self._quiet is not None and not self._in_flight:
            self._quiet.set_result(None)

    def warn_of_slow_disk(self) -> None:
        """If so, says once that a write takes too long. Call it now and then, in any thread."""
        since_s = self._writing_since_s
        if since_s in (None, self._warned_of_s) or time.monotonic() - since_s < SLOW_SYNC_S:
            return
        self._warned_of_s = since_s
        _logger.warning(
            "shard %d: fdatasync of %s takes longer than %.0f s; what it gets meanwhile waits",
            self._settings.number, self._folders.log, SLOW_SYNC_S,
        )  # fmt: skip

    def _give_up(self, error: Exception) -> NoReturn:
        _logger.critical("shard %d ends: %s", self._settings.number, error)
        logging.shutdown()
        os._exit(EXIT_CANNOT_WRITE)

    async def checkpoint(self) -> None:
        """Makes one now, while nothing is committed; one that fails is tried again later."""
        await self._checkpoints.make(self._frozen, self._received_ms)

    def _frozen(self) -> Frozen:
        with self._tally.current() as state:
            return Frozen.of(
                state,
                self._applied_sequence,
                self._received_ms,
                self._producers.dump(),
                self._checkpoints.skipped,
                self._checkpoints.erasing,
            )

    # Queries and exports

    def _answer_all(
        self, state: State, queries: list[Query], standing: Standing | None
    ) -> list[msgspec.Raw]:
        """`standing` is there if there is a query for statistics."""
        view = View(state, self._now_ms())
        about_state = [query for query in queries if not isinstance(query, StatsQuery)]
        answers = map(_encoder.encode, view.answer_all(about_state))
        # Those who ask for statistics together share them.
        stats = b""
        if standing is not None:
            # By the same clock: to ask of an earlier time takes a look at all there is.
            watching_now = int(view.watching_now.sum())
            stats = _encoder.encode(self._statistics.of(state, watching_now, standing))
        return [
            msgspec.Raw(stats if isinstance(query, StatsQuery) else next(answers))
            for query in queries
        ]

    def _now_ms(self) -> int:
        return max(self._clock_ms(), self._received_ms)

    def _standing(self) -> Standing:
        return Standing(
            applied_sequence=self._applied_sequence,
            snapshot_sequence=self._checkpoints.sequence,
            snapshot_ms=self._checkpoints.received_ms,
            erasing=self._checkpoints.erasing,
            refusal=self._still_refused(),
            files=self._statistics.look_at_files(),
        )

    def _still_refused(self) -> str:
        """The refusal, unless there is room again: nothing may be sent until that is said."""
        if self._refusal and self._log.has_room():
            self._refusal = ""
        return self._refusal

    async def _export(self, request: ExportRequest) -> Exported | Refused:
        """A part of what is stored of a user, read from disk in a thread."""
        if self._exports >= EXPORTS_MAX:
            return Refused(f"{EXPORTS_MAX} exports are under way")
        self._exports += 1
        try:
            async with self._files.reading():
                return await asyncio.to_thread(
                    export,
                    self._folders,
                    request,
                    self._applied_sequence,
                    dict(self._checkpoints.skipped),
                    list(self._checkpoints.erasing),
                )
        finally:
            self._exports -= 1
