"""How frames reach a shard: over its socket on this node, through Ray elsewhere.

Ray finds the shard and says where it is; after a loss it is asked again, and the
same frame is sent until it is answered or the deadline passes. The shard knows
a frame that it has by its producer and number, so sending it twice is safe.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    wait_random_exponential,
)

from aggregator import wire
from aggregator.description import Description
from aggregator.errors import ShardsUnavailableError
from aggregator.messages import QUERIES
from aggregator.wire import Connection

_logger = logging.getLogger(__name__)

_LOST = (RayError, OSError, TimeoutError)  # ConnectionLostError is an OSError
_retrying = AsyncRetrying(
    retry=retry_if_exception_type(_LOST), wait=wait_random_exponential(multiplier=0.05, max=0.5)
)

Call = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class _Ways:
    """To a shard: one for queries, which do not wait for the disk, and one for other frames."""

    queries: Call
    others: Call
    connections: Sequence[Connection] = ()


async def _ways_over(description: Description) -> _Ways:
    """Over the shard's sockets; both, or none is left open."""
    queries = await wire.connect(description.queries_path)
    try:
        others = await wire.connect(description.socket_path)
    except BaseException:
        queries.close()
        raise
    return _Ways(queries.call, others.call, [queries, others])


class ShardLink:
    """Sends frames to one shard, from one event loop."""

    def __init__(self, shard: int, actor: Any, node_id: str, deadline_s: float) -> None:
        """`actor` is its Ray handle, `node_id` where this process runs."""
        self._shard = shard
        self._actor = actor
        self._node_id = node_id
        self._deadline_s = deadline_s
        self._ways: _Ways | None = None
        self._connecting = asyncio.Lock()

    async def send(self, frame: bytes) -> bytes:
        """The reply; raises `ShardsUnavailableError` when there is none by the deadline."""
        try:
            async with asyncio.timeout(self._deadline_s):
                try:
                    return await self._send_once(frame)
                except _LOST:
                    return await _retrying(self._send_once, frame)
        except TimeoutError as error:
            raise ShardsUnavailableError(
                {self._shard: f"no reply within {self._deadline_s:g} s"}
            ) from error

    async def describe(self) -> Description:
        """What the actor says of itself; raises `RayError`."""
        return msgspec.msgpack.decode(await self._actor.describe.remote(), type=Description)

    async def _send_once(self, frame: bytes) -> bytes:
        ways = self._ways or await self._connect()
        try:
            return await (ways.queries if frame[:1] == QUERIES else ways.others)(frame)
        except _LOST as error:
            if self._ways is ways:
                self._ways = None
                for connection in ways.connections:
                    connection.close()
                _logger.warning("lost shard %d: %s", self._shard, error)
            raise

    async def _connect(self) -> _Ways:
        through_ray = _Ways(self._call_through_ray, self._call_through_ray)
        async with self._connecting:
            if self._ways is None:
                description = await self.describe()
                if description.failure is not None:
                    return through_ray  # it may recover, so ask again next time
                if description.node_id == self._node_id:
                    self._ways = await _ways_over(description)
                else:
                    self._ways = through_ray
            return self._ways

    async def _call_through_ray(self, frame: bytes) -> bytes:
        reply: bytes = await self._actor.handle.remote(frame)
        return reply


def node_id() -> str:
    """The Ray node of this process."""
    return str(ray.get_runtime_context().get_node_id())
