"""The answer to a request that went well: JSON."""

from collections.abc import Iterator
from typing import Any

from sanic import HTTPResponse
from sanic.compat import Header

_TYPE = (b"content-type", b"application/json")


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
        headers: Any = self.headers
        encoded = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        encoded.append(_TYPE)
        return iter(encoded)
