"""The answer to a request that went well: JSON."""

from collections.abc import Iterator
from typing import Any

from sanic import HTTPResponse
from sanic.compat import Header

_TYPE = (b"content-type", b"application/json")
#: What Sanic itself adds to an answer that is sent at once.
_OF_SANIC = {"content-length", "connection"}


class JsonAnswer(HTTPResponse):
    """A 200. Sanic cleans and encodes each header of each answer; here there are mostly none."""

    __slots__ = ()

    def __init__(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        # Sanic's own makes two sets of headers, and looks at what the body is.
        self.asgi, self.stream, self._cookies = False, None, None
        self.body, self.status, self.content_type = body, 200, "application/json"
        self.headers = Header(headers or {})

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        headers: Any = self.headers
        if headers.keys() != _OF_SANIC:
            return super().processed_headers
        connection, length = headers["connection"].encode(), b"%d" % headers["content-length"]
        return iter(((b"content-length", length), (b"connection", connection), _TYPE))
