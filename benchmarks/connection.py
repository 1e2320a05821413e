"""A connection that is kept alive, with one request at a time, for clients that time answers."""

import asyncio
from http import HTTPStatus
from typing import Protocol, cast

import httptools


class Sender(Protocol):
    """Who sends on connections; `since_s` is what it said when it sent."""

    def answered(self, connection: "Connection", since_s: float, status: int) -> None:
        """The connection is free."""

    def lost(self, connection: "Connection", since_s: float | None) -> None:
        """The connection has gone; None when nothing was under way."""


class Connection(asyncio.Protocol):
    """Tells its sender of each answer, once it is whole."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._since_s: float | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._is_lost = False

    def send(self, request: bytes, since_s: float) -> None:
        self._since_s = since_s
        self._transport.write(request)

    def abandon(self) -> None:
        """A request under way is lost."""
        self._transport.abort()
        self.connection_lost(None)

    # What the loop and the parser call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        since_s, self._since_s = self._since_s, None
        assert since_s is not None
        self._sender.answered(self, since_s, self._parser.get_status_code())

    def connection_lost(self, _: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._sender.lost(self, self._since_s)


async def connect(sender: Sender, host: str, port: int, connections: int) -> list[Connection]:
    """So many, open."""
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(sender), host, port)
        opened.append(connection)
    return opened


def is_good(status: int) -> bool:
    return status // 100 == HTTPStatus.OK // 100
