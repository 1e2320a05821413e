"""Frames over a Unix socket, for callers on the shard's own node.

Each message is its length (u32), a call number (u32) and a body, little-endian;
a reply carries the number of its call. Calls may overlap. The socket is
reachable by its owner alone.
"""

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

#: Above any frame the limits admit; more means that the bytes are not ours.
MESSAGE_BYTES_MAX = 1 << 30

#: Of frames that the other side has not read; their senders give up and send others meanwhile.
UNREAD_BYTES_MAX = 64 << 20

_HEADER = struct.Struct("<II")

#: Takes a reply, once.
Respond = Callable[[bytes], None]
Handler = Callable[[bytes, Respond], None]


class ConnectionLostError(ConnectionError):
    """The other side went away; a call under way may have been carried out."""


class _Messages(asyncio.Protocol, ABC):
    """Cuts the stream into messages."""

    def __init__(self) -> None:
        self._received = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._received and len(data) >= _HEADER.size:
            length, call = _HEADER.unpack_from(data)
            if len(data) == _HEADER.size + length:  # as most do
                self.message_received(call, data[_HEADER.size :])
                return
        received = self._received
        received += data
        start = 0
        while len(received) - start >= _HEADER.size:
            length, call = _HEADER.unpack_from(received, start)
            if length > MESSAGE_BYTES_MAX:
                self.close()
                return
            end = start + _HEADER.size + length
            if len(received) < end:
                break
            self.message_received(call, bytes(memoryview(received)[start + _HEADER.size : end]))
            start = end
        del received[:start]

    @abstractmethod
    def message_received(self, call: int, body: bytes) -> None:
        """A whole message has come."""

    def send(self, call: int, body: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(_HEADER.pack(len(body), call) + body)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _Served(_Messages):
    """The shard's end of a connection."""

    def __init__(self, handle: Handler) -> None:
        super().__init__()
        self._handle = handle

    def message_received(self, call: int, body: bytes) -> None:
        self._handle(body, partial(self.send, call))


class Connection(_Messages):
    """The caller's end: `await connection.call(frame)`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._next_call = 0
        self._lost = False

    async def call(self, frame: bytes) -> bytes:
        """The reply; raises `ConnectionLostError`."""
        if self._lost or self.transport is None:
            raise ConnectionLostError("the shard's socket is closed")
        if self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.transport.abort()  # what waits there goes, as if it had been lost on the way
            raise ConnectionLostError("the shard does not read")
        number = self._next_call = (self._next_call + 1) & 0xFFFFFFFF
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        self.send(number, frame)
        try:
            return await reply
        finally:
            del self._calls[number]

    def message_received(self, call: int, body: bytes) -> None:
        reply = self._calls.get(call)
        if reply is not None and not reply.done():
            reply.set_result(body)

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = True
        for reply in self._calls.values():
            if not reply.done():
                reply.set_exception(ConnectionLostError("the shard's socket closed"))


async def serve(path: Path, handle: Handler) -> asyncio.AbstractServer:
    """Listens on `path`, whose folder only the owner may enter."""
    _make_way(path)
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Served(handle), str(path))


def _make_way(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


async def connect(path: str) -> Connection:
    _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, path)
    return connection
