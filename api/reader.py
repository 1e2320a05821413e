"""Sanic's reader of requests, strict about where one ends.

What can be read in two ways, a proxy in front may read in the other, and so take for one request
what is two here. That is refused, and nothing after it is read.
"""

import re
from typing import Any

from sanic.exceptions import BadRequest, SanicException
from sanic.http.http1 import HTTP_CONTINUE, Http

#: What may stand before the data of a chunk: its size, mostly.
CHUNK_LINE_MAX = 64

_BLANK_LINE = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
#: RFC 9112, without its obsolete line folding.
_HEAD = re.compile(
    rb"%b [^\x00-\x20\x7f]+ HTTP/1\.[01](?:\r\n%b:[\t\x20-\x7e\x80-\xff]*)*" % (_TOKEN, _TOKEN)
)
_HOST = re.compile(rb"\r\nhost:", re.IGNORECASE)
#: A header that says where the body ends.
_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*[0-9]+[ \t]*(?=\r|\Z)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r|\Z)", re.IGNORECASE)
#: The end of what was before, a size, and what nobody has to know about the chunk.
_CHUNK = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class StrictReader(Http):
    """Refuses what is malformed; HEAD is read as GET, and Sanic leaves the body out."""

    __slots__ = ()

    protocol: Any
    request: Any
    request_body: Any

    async def http1_request_header(self) -> None:
        buffer = self.recv_buffer
        while (end := buffer.find(_BLANK_LINE)) < 0 and len(buffer) - 3 < self.HEADER_MAX_SIZE:
            await self._receive_more()
        if 0 <= end < self.HEADER_MAX_SIZE:
            self._check_head(end)
        await super().http1_request_header()  # type: ignore[no-untyped-call]
        self.upgrade_websocket = False  # there is none, and it would have no deadline
        if self.request_body is True and not self.request_bytes_left:
            self.request_body = None  # else Sanic would look for it
        if self.request.method == "HEAD" and may_be_head(self.request):
            self.request.method = "GET"

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        if self.protocol.signal.stopped:
            self.keep_alive = False
        await super().http1_response_header(data, end_stream)

    async def read(self) -> bytes | None:
        if self.request_body == "chunked" and not self.request_bytes_left:
            await self._check_chunk()
        return await super().read()

    def _check_head(self, end: int) -> None:
        """Of the request that the buffer begins with; Sanic reads it next."""
        head = bytes(self.recv_buffer[:end])
        fault = fault_of(head)
        if fault is not None:
            raise BadRequest(fault)
        coding = _CHUNKED.search(head)
        if coding is not None:  # in whatever letters, and Sanic knows only small ones
            self.recv_buffer[coding.start() : coding.end()] = b"\r\nTransfer-Encoding:chunked"

    async def _check_chunk(self) -> None:
        if self.expecting_continue:  # nothing comes before that
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        buffer = self.recv_buffer
        while buffer.find(b"\r\n", 2) < 0 and len(buffer) < CHUNK_LINE_MAX:
            await self._receive_more()
        if _CHUNK.match(buffer, 0, CHUNK_LINE_MAX) is None:
            self.keep_alive = False
            raise BadRequest("The body is not chunked as RFC 9112 has it")


def may_be_head(request: Any) -> bool:
    """Whether GET is possible at the path of `request`, and its answer has an end."""
    try:
        route, *_ = request.app.router.get(request.path, "GET", request.headers.get("host"))
    except SanicException:
        return False
    return not getattr(route.ctx, "streams", False)


def fault_of(head: bytes) -> str | None:
    """What is wrong with the head of a request; None if everyone reads it alike."""
    if _HEAD.fullmatch(head) is None:
        return "The head of the request is not as RFC 9112 has it"
    if len(_HOST.findall(head)) > 1:  # none is wrong, too, but harms no one
        return "Expected one header Host"
    is_old = head.partition(b"\r\n")[0].endswith(b"0")
    told = len(_FRAMING.findall(head))
    known = len(_LENGTH.findall(head)) + (0 if is_old else len(_CHUNKED.findall(head)))
    if told > 1 or told != known:
        return "Expected one Content-Length, in digits, or Transfer-Encoding: chunked alone"
    return None
