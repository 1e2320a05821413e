"""The Ray actor around a shard. Ray places it, restarts it and finds it by name."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import ray

from aggregator import wire
from aggregator.messages import Refused
from aggregator.shard import Shard, ShardSettings
from persistence.errors import PersistenceError

_encoder = msgspec.msgpack.Encoder()
_logger = logging.getLogger(__name__)


class Description(msgspec.Struct, frozen=True):
    """Where a shard is and how it came up. `failure` says why it does not serve, if so."""

    shard: int
    node_id: str
    pid: int
    socket_path: str
    recovered: str
    failure: str | None


class ShardActor:
    """`handle` is the entry for frames; callers on the same node use the socket instead."""

    def __init__(self, settings: ShardSettings, socket_folder: str, log_level: int) -> None:
        """Recovers the shard. One that cannot be trusted says so and answers nothing else."""
        logging.basicConfig(level=log_level, format="%(levelname)s %(message)s")
        self._settings = settings
        self._socket = Path(socket_folder) / f"shard-{settings.number:04}.sock"
        self._server: asyncio.AbstractServer | None = None
        self._shard: Shard | None = None
        self._failure: str | None = None
        try:
            self._shard = Shard(settings)
        except PersistenceError as error:
            self._failure = str(error)
            _logger.critical("shard %d does not start: %s", settings.number, error)

    async def handle(self, frame: bytes) -> bytes:
        if self._shard is None:
            return _encoder.encode(Refused(self._failure or "the shard has been closed"))
        return await self._shard.handle(frame)

    async def describe(self) -> bytes:
        """An encoded `Description`; the socket listens from the first call on."""
        if self._server is None and self._shard is not None:
            self._server = await wire.serve(self._socket, self.handle)
        return _encoder.encode(
            Description(
                shard=self._settings.number,
                node_id=ray.get_runtime_context().get_node_id(),
                pid=os.getpid(),
                socket_path=str(self._socket),
                recovered=self._shard.recovered if self._shard else "",
                failure=self._failure,
            )
        )

    async def close(self) -> None:
        """Snapshots and lets go of the data; the actor answers nothing after."""
        shard, self._shard = self._shard, None
        if self._server is not None:
            self._server.close()
        if shard is not None:
            await shard.close()
