"""Answers as bytes; those to requests that went well are JSON."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from sanic import HTTPResponse
from sanic.compat import Header
from sanic.headers import format_http1_response
from sanic.helpers import has_message_body

_TYPE = (b"content-type", b"application/json")
_END = b"\r\n"


class JsonAnswer(HTTPResponse):
    """A 200. Sanic cleans each header; those here are our own, with nothing of a client's."""

    __slots__ = ()

    def __init__(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        # Sanic's own makes two sets of headers, and looks at what the body is.
        self.asgi, self.stream, self._cookies = False, None, None
        self.body, self.status, self.content_type = body, 200, "application/json"
        self.headers = Header(headers or {})

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([*self._encoded_headers(), _TYPE])

    def encode(self, keep_alive: bool) -> bytes:
        """What Sanic would send; few of its headers differ from one answer to the next."""
        body: Any = self.body
        return encoded_answer(body, self._encoded_headers(), keep_alive)

    def _encoded_headers(self) -> list[tuple[bytes, bytes]]:
        headers: Any = self.headers
        return [(name.encode(), str(value).encode()) for name, value in headers.items()]


def encoded_answer(
    body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), keep_alive: bool = True
) -> bytes:
    """All of a 200, of a JSON `body`."""
    first: bytes = format_http1_response(200, headers).removesuffix(_END)
    return first + _last_headers(len(body), keep_alive) + body


def encoded_response(response: HTTPResponse, keep_alive: bool) -> bytes:
    """What Sanic would send."""
    if isinstance(response, JsonAnswer):
        return response.encode(keep_alive)
    headers, body = response.headers, response.body or b""
    if has_message_body(response.status):  # type: ignore[no-untyped-call]
        headers["content-length"] = len(body)
    else:
        body = b""
        headers.pop("content-length", None)
    headers["connection"] = "keep-alive" if keep_alive else "close"
    return format_http1_response(response.status, response.processed_headers) + body


def with_headers(encoded: bytes, headers: Mapping[str, str]) -> bytes:
    """An answer with more headers."""
    first_line, rest = encoded.split(_END, 1)
    lines = [first_line, *(f"{name}: {value}".encode() for name, value in headers.items())]
    return _END.join([*lines, rest])


@lru_cache(maxsize=1 << 12)
def _last_headers(body_bytes: int, keep_alive: bool) -> bytes:
    connection = b"keep-alive" if keep_alive else b"close"
    pairs = ((b"content-length", b"%d" % body_bytes), (b"connection", connection), _TYPE)
    return b"".join(b"%b: %b\r\n" % pair for pair in pairs) + _END
