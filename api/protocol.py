"""Sanic's HTTP protocol, with bounds that it lacks."""

import asyncio
from typing import Any

from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

#: How long an answer to a request that timed out may take to get out.
LAST_WORDS_S = 1.0

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class BoundedProtocol(HttpProtocol):
    """Timeouts count from a request's first byte; past a number of connections no more are taken.

    Sanic starts its timers anew at every byte, so that a client that sends one
    now and then is never cut.
    """

    def data_received(self, data: bytes) -> None:
        if self.http is None or self.http.stage is Stage.IDLE:
            super().data_received(data)
            return
        since = self._time
        super().data_received(data)
        self._time = since

    def check_timeouts(self) -> None:
        super().check_timeouts()  # type: ignore[no-untyped-call]
        if self.http is not None and self.http.exception is not None:
            # It has timed out, and Sanic would go on to read the rest of its body.
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self.abort)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[no-untyped-call]
        if len(self.connections) > self.app.ctx.settings.connections_max:
            transport.write(_FULL)
            asyncio.get_running_loop().call_soon(self.close)
