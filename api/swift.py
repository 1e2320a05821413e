"""Small requests that came whole, handed to their handlers without Sanic's streams around them.

Sanic reads a request piece by piece in a task of its connection, and writes the answer there,
as large bodies, slow clients and answers without an end need it. A heartbeat needs none of
that, and would spend most of its time there. It goes from the bytes that came straight to its
handler, by Sanic's own router, middleware and error handler. Whatever is unusual in a request
is left to Sanic, which also says what is wrong with it.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NamedTuple

from sanic import HTTPResponse, Request
from sanic.compat import Header
from sanic.exceptions import SanicException
from sanic.headers import format_http1_response
from sanic.helpers import has_message_body
from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

from api.protocol import BoundedProtocol

#: With a larger body, what is saved is little.
BODY_BYTES_MAX = 1 << 16
#: Of so many different ones it is remembered what they say: a player sends the same each time.
HEADERS_REMEMBERED = 1024
HEADERS_BYTES_MAX = 2048

_BLANK_LINE = b"\r\n\r\n"
_FIRST_LINE = re.compile(rb"(GET|POST|PUT|DELETE) (/[!-~]*) HTTP/1\.1")
#: Lines that nobody reads in another way: words of ASCII, single spaces between them.
_LINES = re.compile(rb"(?:\r\n[A-Za-z0-9-]+: [!-~]+(?: [!-~]+)*)*")
#: With them a body does not end where its length says, or waits, or it is no request at all.
_UNUSUAL = frozenset(["transfer-encoding", "expect", "upgrade"])
_LENGTH = re.compile("[0-9]{1,5}")

Handler = Callable[..., Awaitable[HTTPResponse]]


class PlainHeaders(NamedTuple):
    """Headers that say nothing unusual, and how long the body is."""

    headers: Header
    body_bytes: int


class SwiftProtocol(BoundedProtocol):
    """Answers one request of the connection at a time, itself or by Sanic.

    While one is under way here, the connection is at a handler as Sanic sees it, so what it does
    at timeouts and at a stop stays right. Routes that stream, those with `ctx_streams=True`, are
    Sanic's.
    """

    __slots__ = ("_answering", "_asked", "_begun", "_held")

    app: Any
    transport: Any  # there is one as long as something comes

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._answering: asyncio.Task[None] | None = None
        #: What is being answered.
        self._asked: Request | None = None
        #: A request without its body, which clients like to send in another piece.
        self._begun = b""
        #: What came before the answer to the request before.
        self._held = b""

    def data_received(self, data: bytes) -> None:
        if self._answering is not None:
            self._held += data
            self.transport.pause_reading()
        elif self._begun:
            whole = self._end_waiting() + data
            if not self._take(whole, may_wait=False):
                self._leave_to_sanic(whole)
        elif self._is_idle() and self._take(data, may_wait=True):
            self._time = time.monotonic()
        else:
            super().data_received(data)

    def check_timeouts(self) -> None:
        if self._begun:
            self._leave_to_sanic(self._end_waiting())
        super().check_timeouts()
        if self._answering is not None and self.http.exception is not None:
            self._answering.cancel()  # as Sanic does with its own task
            response = self.app.error_handler.response(self._asked, self.http.exception)
            self.transport.write(_encoded(response, keep_alive=False))

    def _is_idle(self) -> bool:
        """Whether a request begins with what comes, and its answer can leave."""
        return (
            self.http is not None
            and self.http.stage is Stage.IDLE
            # Else Sanic has not done with the one before, of which there may be more to come.
            and getattr(self.http, "request", self) is None
            and not self.recv_buffer
            and not self.signal.stopped
            and self._can_write.is_set()
        )

    def _take(self, data: bytes, may_wait: bool) -> bool:
        """Begins to answer the request in `data`, or waits for its body; False if it is Sanic's."""
        head_end = data.find(_BLANK_LINE)
        line_end = data.find(b"\r\n")
        if not 0 < head_end - line_end <= HEADERS_BYTES_MAX:
            return False
        plain = read_headers(data[line_end:head_end])
        if plain is None or plain.body_bytes > self.request_max_size:
            return False
        body_start = head_end + len(_BLANK_LINE)
        missing = body_start + plain.body_bytes - len(data)
        if missing:
            return missing > 0 and may_wait and self._wait_for_body(data)
        request = self._request(data[:line_end], plain.headers, data[body_start:])
        return request is not None and self._begin(request)

    def _wait_for_body(self, begun: bytes) -> bool:
        self._begun, self.http.stage = begun, Stage.REQUEST
        return True

    def _end_waiting(self) -> bytes:
        begun, self._begun, self.http.stage = self._begun, b"", Stage.IDLE
        return begun

    def _leave_to_sanic(self, begun: bytes) -> None:
        since = self._time
        HttpProtocol.data_received(self, begun)
        self._time = since

    def _request(self, first_line: bytes, headers: Header, body: bytes) -> Request | None:
        words = _FIRST_LINE.fullmatch(first_line)
        if words is None:
            return None
        method, url = words[1].decode(), words[2]
        try:
            request = self.request_class(url, headers, "1.1", method, self.transport, self.app)
        except SanicException:
            return None
        request.body, request.conn_info = body, self.conn_info
        return request

    def _begin(self, request: Request) -> bool:
        host = request.headers.get("host")
        try:
            route, handler, arguments = self.app.router.get(request.path, request.method, host)
        except SanicException:
            return False
        if getattr(route.ctx, "streams", False):
            return False
        request.route, request._match_info = route, arguments
        self.http.stage = Stage.HANDLER
        self._asked = request
        self._answering = self.loop.create_task(self._answer(request, route.extra, handler))
        return True

    async def _answer(self, request: Request, extra: Any, handler: Handler) -> None:
        response = await self._response(request, extra, handler)
        self._answering = self._asked = None
        if self.http is None or self.transport.is_closing():
            return
        self.transport.write(_encoded(response))
        self._time, self.http.stage = time.monotonic(), Stage.IDLE
        if self.signal.stopped:
            self.close()
        elif self._held:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)

    async def _response(self, request: Request, extra: Any, handler: Handler) -> HTTPResponse:
        """As `Sanic.handle_request` finds it; `extra` has the middleware of the route."""
        response: HTTPResponse | None = None
        try:
            for middleware in extra.request_middleware:
                response = response or await middleware(request)
            response = response or await handler(request, **request.match_info)
        except Exception as error:  # noqa: BLE001 - the client gets it, whatever it is
            response = self.app.error_handler.response(request, error)
        for middleware in extra.response_middleware:
            await middleware(request, response)
        return response


@lru_cache(maxsize=HEADERS_REMEMBERED)
def read_headers(lines: bytes) -> PlainHeaders | None:
    """Those in `lines`, each of which begins with a line break; None if any is Sanic's to read."""
    if not _LINES.fullmatch(lines):
        return None
    pairs = [line.split(": ", 1) for line in lines.decode().split("\r\n")[1:]]
    headers = Header((name.lower(), value) for name, value in pairs)
    lengths = headers.getall("content-length", ["0"])
    if (
        _UNUSUAL & headers.keys()
        or any(value.lower() != "keep-alive" for value in headers.getall("connection", []))
        or len(lengths) > 1
        or not _LENGTH.fullmatch(lengths[0])
        or int(lengths[0]) > BODY_BYTES_MAX
    ):
        return None
    return PlainHeaders(headers, int(lengths[0]))


def _encoded(response: HTTPResponse, keep_alive: bool = True) -> bytes:
    headers, body = response.headers, response.body or b""
    if has_message_body(response.status):  # type: ignore[no-untyped-call]
        headers["content-length"] = len(body)
    headers["connection"] = "keep-alive" if keep_alive else "close"
    return format_http1_response(response.status, response.processed_headers) + body
