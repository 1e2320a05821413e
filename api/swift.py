"""Plain requests, handed to their handlers without Sanic's streams around them.

Sanic reads a request piece by piece in a task of its connection, and writes the answer there,
so that handlers can do so too. Most have no use for that, and a heartbeat would spend most of
its time there. Its bytes go straight to its handler, by Sanic's own router, middleware and
error handler. Whatever is unusual in a request is left to Sanic, which also says what is wrong
with it. Those of direct routes (`api/direct.py`) need no handler.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sanic import HTTPResponse, Request
from sanic.compat import Header
from sanic.exceptions import SanicException, ServiceUnavailable
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from api.answer import encoded_response, with_headers
from api.direct import Awaited, routes_of
from api.protocol import BoundedProtocol

#: So many different heads are remembered with what they say: a player sends the same each time.
HEADS_REMEMBERED = 1024
#: After an answer that came just as its time was over, for the next request's.
CHECKED_AGAIN_S = 0.1
#: Heads of more are Sanic's, so that those remembered stay small.
HEADERS_MAX = 32

_BLANK_LINE = b"\r\n\r\n"
#: What an answer says of its connection, and what the last one says instead.
_LAST = (b"connection: keep-alive\r\n", b"connection: close\r\n")
_FIRST_LINE = re.compile(rb"(GET|POST|PUT|DELETE) (/[!-~]*) HTTP/1\.1")
#: Lines that nobody reads in another way: words of ASCII, single spaces between them.
_LINES = re.compile(rb"(?:\r\n[A-Za-z0-9-]+: [!-~]+(?: [!-~]+)*)*")
#: With them a body does not end where its length says, or waits, or it is no request at all.
_UNUSUAL = frozenset(["transfer-encoding", "expect", "upgrade"])
_LENGTH = re.compile("[0-9]{1,12}")
#: Besides the content type, what a handler of a direct route may look at.
_READ = frozenset(["content-encoding", "idempotency-key"])

Handler = Callable[..., Awaitable[HTTPResponse]]


class PlainHeaders(NamedTuple):
    """Headers that say nothing unusual, and how long the body is."""

    headers: Header
    body_bytes: int
    #: In lower case, without parameters; "" if nothing is said.
    content_type: str
    #: Whether handlers would read none of the others.
    are_bare: bool


@dataclass(slots=True)
class _Begun:
    """A request of which the head has come, and not yet all of the body."""

    first_line: bytes
    plain: PlainHeaders
    body_start: int
    end: int
    received: bytearray


@dataclass(slots=True)
class _Directly:
    """A request that waits for a shard alone."""

    first_line: bytes
    plain: PlainHeaders
    encode: Callable[[Any], bytes]


class SwiftProtocol(BoundedProtocol):
    """Answers one request of the connection at a time, itself or by Sanic.

    While one is under way here, the connection is at a handler as Sanic sees it, so what it does
    at a stop stays right. Routes that stream, those with `ctx_streams=True`, are Sanic's.
    """

    __slots__ = ("_answering", "_begun", "_directly", "_held", "_routes")

    app: Any
    transport: Any  # there is one as long as something comes

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._answering: asyncio.Future[Any] | None = None
        self._begun: _Begun | None = None
        self._directly: _Directly | None = None
        self._routes = routes_of(self.app)
        #: What came before the answer to the request before.
        self._held = b""

    def data_received(self, data: bytes) -> None:
        if self._answering is not None:
            self._held += data
            self.transport.pause_reading()
        elif self._begun is not None:
            self._go_on(self._begun, data)
        elif self._is_idle() and self._take(data):
            self._time = time.monotonic()
        else:
            super().data_received(data)

    def check_timeouts(self) -> None:
        if self._begun is not None:
            self._leave_to_sanic(self._begun)
        if self._answering is None or time.monotonic() - self._time <= self.response_timeout:
            super().check_timeouts()
        elif not self._answering.cancel():  # it is about to be answered
            self._callback_check_timeouts = self.loop.call_later(
                CHECKED_AGAIN_S, self.check_timeouts
            )

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[no-untyped-call]
        if self._answering is not None:
            self._answering.cancel()

    def _is_idle(self) -> bool:
        """Whether a request begins with what comes, and its answer can leave."""
        http = self.http
        return (
            http is not None
            and http.stage is Stage.IDLE
            # Else Sanic has not done with the one before, of which there may be more to come.
            and getattr(http, "request", self) is None
            and not self.recv_buffer
            and not self.signal.stopped
            and self._can_write.is_set()
            and self._task is not None
            and not self._task.cancelling()
        )

    def _take(self, data: bytes) -> bool:
        """Begins with the request in `data`; False if it is Sanic's."""
        head_end = data.find(_BLANK_LINE)
        line_end = data.find(b"\r\n")
        if not line_end < head_end < self.HTTP_CLASS.HEADER_MAX_SIZE:
            return False
        plain = read_headers(data[line_end:head_end])
        if plain is None or plain.body_bytes > self.request_max_size:
            return False
        body_start = head_end + len(_BLANK_LINE)
        end = body_start + plain.body_bytes
        if len(data) > end:
            return False
        first_line = data[:line_end]
        if len(data) == end:
            return self._begin(first_line, plain, data[body_start:])
        if self._routes.find(first_line) is None and self._route(first_line, plain) is None:
            return False
        self._begun = _Begun(first_line, plain, body_start, end, bytearray(data))
        self.http.stage = Stage.REQUEST
        return True

    def _begin(self, first_line: bytes, plain: PlainHeaders, body: bytes) -> bool:
        """Has a whole request answered; False if it is Sanic's."""
        awaited = self._awaited(first_line, plain, body)
        if awaited is not None:
            self._wait(_Directly(first_line, plain, awaited.encode), awaited.reply)
            return True
        found = self._route(first_line, plain)
        if found is None:
            return False
        request, handler = found
        request.body = body
        self.http.stage = Stage.HANDLER
        self._answering = self.loop.create_task(self._answer(request, handler))
        return True

    def _route(self, first_line: bytes, plain: PlainHeaders) -> tuple[Request, Handler] | None:
        """The request without its body, and what answers it; None if it is Sanic's."""
        words = _FIRST_LINE.fullmatch(first_line)
        if words is None:
            return None
        method, url = words[1].decode(), words[2]
        headers = plain.headers
        try:
            request = self.request_class(url, headers, "1.1", method, self.transport, self.app)
            route, handler, arguments = self.app.router.get(
                request.path, method, headers.get("host")
            )
        except SanicException:
            return None
        if getattr(route.ctx, "streams", False):
            return None
        request.route, request._match_info = route, dict(arguments)
        request.conn_info = self.conn_info
        return request, handler

    def _awaited(self, first_line: bytes, plain: PlainHeaders, body: bytes) -> Awaited | None:
        """The answer to a request that needs no handler, or None."""
        found = self._routes.find(first_line) if plain.are_bare else None
        if found is None:
            return None
        begin, names = found
        try:
            return begin(self.app.ctx, body, plain.content_type, *names)
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            failed = self.loop.create_future()
            failed.set_exception(error)
            return Awaited(failed, bytes)  # which gets nothing to encode

    def _wait(self, directly: _Directly, reply: asyncio.Future[Any]) -> None:
        self._directly, self._answering = directly, reply
        self.http.stage = Stage.HANDLER
        reply.add_done_callback(self._end_directly)

    def _end_directly(self, reply: asyncio.Future[Any]) -> None:
        """As `_answer`, for a request without a handler."""
        directly, self._directly = cast(_Directly, self._directly), None
        keep_alive = not reply.cancelled()
        if not keep_alive and (self.conn_info is None or self.conn_info.lost):
            return
        headers = self._routes.headers_for(directly.plain.headers)
        try:
            if not keep_alive:
                raise ServiceUnavailable("Response Timeout")
            encoded = directly.encode(reply.result())
            if headers:
                encoded = with_headers(encoded, headers)
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            request, _ = cast(Any, self._route(directly.first_line, directly.plain))
            response = self._error(request, error)
            response.headers.update(headers)
            encoded = encoded_response(response, keep_alive)
        self._reply(encoded, keep_alive)

    def _go_on(self, begun: _Begun, data: bytes) -> None:
        begun.received += data
        size = len(begun.received)
        if size > begun.end:
            self._leave_to_sanic(begun)
        elif size == begun.end:
            self._begun = None
            body = bytes(memoryview(begun.received)[begun.body_start :])
            if not self._begin(begun.first_line, begun.plain, body):
                self._leave_to_sanic(begun)

    def _leave_to_sanic(self, begun: _Begun) -> None:
        """With the time that it has taken so far."""
        self._begun, self.http.stage = None, Stage.IDLE
        since = self._time
        # Past `BoundedProtocol`, which at a stop would not let it begin.
        HttpProtocol.data_received(self, bytes(begun.received))
        self._time = since

    async def _answer(self, request: Request, handler: Handler) -> None:
        """Does what `Sanic.handle_request` and `handle_exception` do."""
        middlewares = cast(Any, request.route).extra
        keep_alive = True
        try:
            response = await self._response(request, handler, middlewares.request_middleware)
        except asyncio.CancelledError:
            if self.conn_info is None or self.conn_info.lost:
                return
            keep_alive = False
            response = self._error(request, ServiceUnavailable("Response Timeout"))
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            response = self._error(request, error)
        try:
            for middleware in middlewares.response_middleware:
                await middleware(request, response)
            encoded = encoded_response(response, keep_alive)
        except Exception as error:  # noqa: BLE001 - as above
            encoded = encoded_response(self._error(request, error), keep_alive)
        self._reply(encoded, keep_alive)

    async def _response(
        self, request: Request, handler: Handler, before: Iterable[Any]
    ) -> HTTPResponse:
        """Of the first middleware `before` the handler that has one, else of the handler."""
        for middleware in before:
            response: HTTPResponse | None = await middleware(request)
            if response is not None:
                return response
        return await handler(request, **request.match_info)

    def _error(self, request: Request, error: Exception) -> HTTPResponse:
        response: HTTPResponse = self.app.error_handler.response(request, error)
        return response

    def _reply(self, encoded: bytes, keep_alive: bool) -> None:
        self._answering = None
        http = self.http
        if http is None or self.transport.is_closing():
            return
        if self.signal.stopped and keep_alive:
            keep_alive, encoded = False, encoded.replace(*_LAST, 1)
        self.transport.write(encoded)
        self._time, http.stage = time.monotonic(), Stage.IDLE
        if not keep_alive:
            self.close()
        elif self._held:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)


@lru_cache(maxsize=HEADS_REMEMBERED)
def read_headers(lines: bytes) -> PlainHeaders | None:
    """Those in `lines`, each of which begins with a line break; None if any is Sanic's to read."""
    if lines.count(b"\r\n") > HEADERS_MAX or not _LINES.fullmatch(lines):
        return None
    pairs = [line.split(": ", 1) for line in lines.decode().split("\r\n")[1:]]
    headers = Header((name.lower(), value) for name, value in pairs)
    lengths = headers.getall("content-length", ["0"])
    if (
        _UNUSUAL & headers.keys()
        or any(value.lower() != "keep-alive" for value in headers.getall("connection", []))
        or len(headers.getall("host", [])) > 1
        or len(lengths) > 1
        or not _LENGTH.fullmatch(lengths[0])
    ):
        return None
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return PlainHeaders(headers, int(lengths[0]), content_type, not _READ & headers.keys())
