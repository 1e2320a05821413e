"""What a shard lives in: its threads, its sockets, and new attempts to recover."""

import asyncio
import gc
import logging
import os
import time
from pathlib import Path

import msgspec
import ray

from aggregator import lifeline, log_pipe, logs, warm_up, wire
from aggregator.description import Description
from aggregator.loop_thread import LoopThread
from aggregator.messages import QUERIES, Refused
from aggregator.shard import SLOW_SYNC_S, SWIFT, Shard
from aggregator.shard_settings import ShardSettings
from aggregator.sockets import queries_path, socket_path
from aggregator.wire import Respond
from persistence.errors import PersistenceError

#: Between attempts to recover a shard that could not.
RETRY_S = 5.0

_encoder = msgspec.msgpack.Encoder()
_logger = logging.getLogger(__name__)


class ShardHost:
    """`handle` is the entry for frames; callers on the same node use its sockets instead.

    The shard has a loop to itself, which waits for the disk. Ray's answers queries meanwhile.
    """

    def __init__(self, settings: ShardSettings, socket_folder: str, log_level: str) -> None:
        """Recovers the shard. One that cannot says why, and tries again when it is asked."""
        self._settings = settings
        self._socket_folder = Path(socket_folder)
        lifeline.hold(self._socket_folder)  # before it takes the lock that the next one needs
        log_pipe.write_to(self._socket_folder)
        logs.configure(log_level)
        self._serving = asyncio.Lock()
        self._server: asyncio.AbstractServer | None = None
        self._queries: asyncio.AbstractServer | None = None
        self._thread = LoopThread("shard")
        self._shard: Shard | None = None
        self._failure: str | None = None
        self._retry_at_s = 0.0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        warm_up.warm_up()
        self._open()

    async def handle(self, frame: bytes) -> bytes:
        """The encoded reply; `Refused` also when handling fails, so that no caller waits."""
        self._open()
        if frame[:1] == QUERIES:
            return self._answer(frame)
        return await self._thread.run(self._handle(frame))

    def _answer(self, frame: bytes) -> bytes:
        shard = self._shard
        if shard is None:
            return self._closed_reply()
        try:
            return shard.answer(frame)
        except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
            return self._fault_reply(error)

    def _receive_query(self, frame: bytes, respond: Respond) -> None:
        respond(self._answer(frame))

    # In the shard's thread

    async def _handle(self, frame: bytes) -> bytes:
        shard = self._shard
        if shard is None:
            return self._closed_reply()
        try:
            return await shard.handle(frame)
        except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
            return self._fault_reply(error)

    def _receive(self, frame: bytes, respond: Respond) -> None:
        shard = self._shard
        if shard is None:
            respond(self._closed_reply())
        elif frame[:1] in SWIFT:
            try:
                shard.receive(frame, respond)
            except Exception as error:  # noqa: BLE001 - the caller gets it, whatever it is
                respond(self._fault_reply(error))
        else:
            task = asyncio.ensure_future(self._handle_slowly(frame, respond))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _handle_slowly(self, frame: bytes, respond: Respond) -> None:
        respond(await self._handle(frame))

    async def _serve(self, shard: Shard) -> None:
        shard.start()
        self._server = await wire.serve(self._path, self._receive)

    async def _close(self, shard: Shard) -> None:
        if self._server is not None:
            self._server.close()
        await shard.close()

    # In either

    def _closed_reply(self) -> bytes:
        return _encoder.encode(Refused(self._failure or "the shard has been closed"))

    def _fault_reply(self, error: Exception) -> bytes:
        if isinstance(error, OSError):
            _logger.error("shard %d cannot handle a frame: %s", self._settings.number, error)
            return _encoder.encode(Refused(f"cannot read its files: {error.strerror}"))
        _logger.error("shard %d cannot handle a frame", self._settings.number, exc_info=error)
        return _encoder.encode(Refused(f"a fault of playhead's own: {error!r}"))

    async def describe(self) -> bytes:
        """An encoded `Description`; the sockets listen from the first call on."""
        self._open()
        async with self._serving:
            if self._server is None and self._shard is not None:
                self._queries = await wire.serve(self._queries_path, self._receive_query)
                await self._thread.run(self._serve(self._shard))
                asyncio.get_running_loop().call_later(SLOW_SYNC_S, self._watch_disk)
        return _encoder.encode(
            Description(
                shard=self._settings.number,
                node_id=ray.get_runtime_context().get_node_id(),
                pid=os.getpid(),
                socket_path=str(self._path),
                queries_path=str(self._queries_path),
                recovered=self._shard.recovered if self._shard else "",
                failure=self._failure,
            )
        )

    @property
    def _path(self) -> Path:
        return socket_path(self._socket_folder, self._settings.number)

    @property
    def _queries_path(self) -> Path:
        return queries_path(self._socket_folder, self._settings.number)

    def _watch_disk(self) -> None:
        if self._shard is not None:
            self._shard.warn_of_slow_disk()
            asyncio.get_running_loop().call_later(SLOW_SYNC_S, self._watch_disk)

    async def close(self) -> None:
        """Snapshots and lets go of the data; it answers nothing after."""
        shard, self._shard, self._closed = self._shard, None, True
        if self._queries is not None:
            self._queries.close()
        if shard is not None:
            await self._thread.run(self._close(shard))

    def _open(self) -> None:
        """Recovers if that has failed so far: what stood in the way may have been put right."""
        if self._shard is not None or self._closed or time.monotonic() < self._retry_at_s:
            return
        try:
            self._shard, self._failure = Shard(self._settings), None
            gc.freeze()  # what is there by now stays
        except PersistenceError as error:
            self._fail(str(error))
        except OSError as error:
            where = error.filename or self._settings.folder
            self._fail(f"cannot recover: {error.strerror} ({where})")
        except Exception as error:
            _logger.exception("shard %d cannot recover", self._settings.number)
            self._fail(repr(error))

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._retry_at_s = time.monotonic() + RETRY_S
        _logger.error("shard %d does not start: %s", self._settings.number, reason)
