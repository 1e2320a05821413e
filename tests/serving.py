"""Applications served by this process, as workers serve theirs, and requests in pieces."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from sanic import Sanic

from api.swift import SwiftProtocol

#: Amply for a piece to be read before the next is sent.
PIECE_S = 0.01
#: Without a word for so long, nothing more comes.
SILENCE_S = 1
#: Sanic says it of any answer, unless it has rewritten itself for an application, as it does
#: where it serves one. So without it nobody sees whether an answer was Sanic's.
ALT_SVC = b"alt-svc: \r\n"
#: Stands where the server has closed the connection.
CLOSED = b"(closed)"

Address = tuple[str, int]


def new_app(**config: Any) -> Sanic[Any, Any]:
    app: Sanic[Any, Any] = Sanic(f"test-{uuid4()}", configure_logging=False)
    # Sanic rewrites its classes for the first application that starts, unless told not to.
    app.config.update(TOUCHUP=False, ACCESS_LOG=False, AUTO_EXTEND=False, **config)
    app.ctx.settings = SimpleNamespace(connections_max=100)
    return app


@asynccontextmanager
async def served(app: Sanic[Any, Any]) -> AsyncIterator[Address]:
    """Where it listens meanwhile."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        listening.setblocking(False)
        app.ctx.listening = listening
        server: Any = await app.create_server(
            sock=listening, protocol=SwiftProtocol, return_asyncio_server=True
        )
        await server.startup()
        await server.start_serving()
        try:
            yield listening.getsockname()
        finally:
            await server.close()


async def send(write: Callable[[bytes], None], pieces: Sequence[bytes]) -> None:
    """Writes the pieces of a request, with a pause after each."""
    for piece in pieces:
        write(piece)
        await asyncio.sleep(PIECE_S)


def cut(request: bytes, pieces: int) -> list[bytes]:
    """The request in so many pieces of one size."""
    size = -(-len(request) // pieces)
    return [request[start : start + size] for start in range(0, len(request), size)]


class Client(asyncio.Protocol):
    """Keeps what comes, also where the connection is reset behind it."""

    def __init__(self) -> None:
        self.received = b""
        self.has_news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.has_news.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.received += CLOSED
        self.has_news.set()

    async def closed(self) -> None:
        """Returns once the server has closed the connection."""
        async with asyncio.timeout(20):
            while not self.received.endswith(CLOSED):
                self.has_news.clear()
                await self.has_news.wait()


async def exchanged(address: Address, pieces: list[bytes], end: bytes) -> bytes:
    """All that comes for what is sent, up to the `end` of the last answer."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *address)

    def write(piece: bytes) -> None:
        if not transport.is_closing():
            transport.write(piece)

    await send(write, pieces)
    with contextlib.suppress(TimeoutError):
        while not client.received.endswith((end, CLOSED)):
            client.has_news.clear()
            await asyncio.wait_for(client.has_news.wait(), SILENCE_S)
    transport.close()
    return client.received.replace(ALT_SVC, b"")
