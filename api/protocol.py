"""Sanic's HTTP protocol, with bounds that it lacks."""

import asyncio
import resource
import socket
import time
from functools import partial
from typing import Any

from sanic.exceptions import RequestCancelled, RequestTimeout
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from api.answer import encoded_response
from api.problems import unavailable
from api.reader import StrictReader

#: How long an answer to a request that timed out may take to get out.
LAST_WORDS_S = 1.0
#: A client that takes nothing of a stream for so long is cut.
STALLED_S = 10.0
#: For the way to the shards, and to tell clients that there are no more for them.
DESCRIPTORS_KEPT = 32
#: What the system may hold of a stream; it would let megabytes pile up for a client that is gone.
STREAM_BUFFER_BYTES = 16 << 10

#: The loop itself takes one each time it goes round, which with many requests under way is seldom.
ACCEPTED_AT_ONCE = 32

_FULL = encoded_response(
    unavailable(
        "Too many connections: ask again in a moment; if it stays so, raise --connections-max"
    ).response(),
    keep_alive=False,
)
_LATE = "Not all of the request came in time, so nothing was done. Send it again"

_accepted: set[asyncio.Task[Any]] = set()


class BoundedProtocol(HttpProtocol):
    """Timeouts count from a request's first byte; past a number of connections no more are taken.

    Sanic starts its timers anew at every byte, so that a client that sends one
    now and then is never cut. An answer without an end, a stream, has no
    deadline, but each of its parts has.
    """

    HTTP_CLASS = StrictReader

    __slots__ = ("_accepts", "_options", "_streaming")

    def __init__(self, accepts: bool = True, **options: Any) -> None:
        """`accepts`: with this connection, others that wait at `app.ctx.listening` are taken."""
        super().__init__(**options)
        self._accepts = accepts
        self._options = options
        self._streaming = False

    def data_received(self, data: bytes) -> None:
        if self.http is None or self.http.stage is Stage.IDLE:
            if self.signal.stopped:
                self.close()  # else one request after the other would hold up the stop
            else:
                super().data_received(data)
            return
        since = self._time
        super().data_received(data)
        self._time = since

    def check_timeouts(self) -> None:
        if self._streaming:
            self._time = time.monotonic()  # `taken` is what bounds it
        super().check_timeouts()  # type: ignore[no-untyped-call]
        http = self.http
        if http is not None and http.exception is not None:
            if http.request_body or isinstance(http.exception, RequestTimeout):
                # No handler begins before all of the body is there.
                http.exception = RequestTimeout(_LATE)
            # It has timed out, and Sanic would go on to read the rest of its body.
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self.abort)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[no-untyped-call]
        if self._accepts:
            self._accept_others()
        if self._is_one_too_many(transport):
            transport.write(_FULL)
            asyncio.get_running_loop().call_soon(self.close)

    def _accept_others(self) -> None:
        loop = asyncio.get_running_loop()
        make = partial(type(self), accepts=False, **self._options)
        for _ in range(ACCEPTED_AT_ONCE - 1):
            try:
                connection, _address = self.app.ctx.listening.accept()
            except OSError:  # mostly as none waits
                return
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(make, connection))
            _accepted.add(task)
            task.add_done_callback(_accepted.discard)

    def _is_one_too_many(self, transport: Any) -> bool:
        """A descriptor is the lowest number that is free, so it tells how many are left."""
        descriptors_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptor: int = transport.get_extra_info("socket").fileno()
        connections_max: int = self.app.ctx.settings.connections_max
        return (
            len(self.connections) > connections_max
            or descriptor >= descriptors_max - DESCRIPTORS_KEPT
        )

    def abort(self) -> None:
        """Ends the connection, whatever is under way."""
        # Sanic would also forget the transport, and then stumble over its absence.
        if self.transport is not None:
            self.transport.abort()

    # Streams

    def start_stream(self) -> None:
        """The answer is a stream, the last on this connection; await `taken` before each part."""
        assert self.http is not None
        if self.transport is None or self.transport.is_closing():
            raise RequestCancelled
        self._streaming = True
        self.http.keep_alive = False
        self.transport.set_write_buffer_limits(high=0)
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)
        # Notices also a client that vanished without a word.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_S * 1000))

    @property
    def is_stalled(self) -> bool:
        """Whether a part waits for the client."""
        return not self._can_write.is_set()

    async def taken(self) -> None:
        """Returns once the client can take a part; one that takes too long is cut."""
        if not self.is_stalled:
            return
        try:
            async with asyncio.timeout(STALLED_S):
                await self._can_write.wait()
        except TimeoutError:
            self.abort()
            raise RequestCancelled from None
