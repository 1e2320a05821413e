"""Calls from web pages of other origins, as far as they are allowed (CORS, WHATWG Fetch)."""

from typing import Any, cast

from sanic import HTTPResponse, Request, Sanic
from sanic.compat import Header
from sanic.http import Http
from sanic.response import BaseHTTPResponse, empty

from api import direct

#: Seconds for which a browser may remember what is allowed.
MAX_AGE_S = 7200
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_HEADERS = "Content-Type, Content-Encoding, Idempotency-Key, If-Match"
_EXPOSED = {"Access-Control-Expose-Headers": "ETag, Retry-After"}


def install(app: Sanic[Any, Any], origins: str) -> None:
    """Allows the comma-separated `origins`; `*` is any, but then without cookies."""
    allowed = frozenset(origin.strip() for origin in origins.split(",") if origin.strip())
    if not allowed:
        return
    # Also on answers to others: else a cache would keep those, and give them to allowed pages.
    varied = {} if allowed == {"*"} else {"Vary": "Origin"}

    def headers_for(headers: Header) -> dict[str, str]:
        """What an answer to a request with these headers says."""
        origin = headers.get("origin", "")
        if origin in allowed:
            return {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Credentials": "true",
                **varied,
                **_EXPOSED,
            }
        if "*" in allowed:
            return {"Access-Control-Allow-Origin": "*", **varied, **_EXPOSED}
        return varied

    async def answer_preflight(request: Request) -> HTTPResponse | None:
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        if cast(Http, request.stream).request_body:
            return None  # a browser sends none, and nobody would read it
        return empty(
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": str(MAX_AGE_S),
            }
        )

    async def allow(request: Request, response: BaseHTTPResponse) -> None:
        response.headers.update(headers_for(request.headers))

    app.register_middleware(answer_preflight, "request")
    app.register_middleware(allow, "response")
    direct.replace_middleware(app, {answer_preflight, allow}, headers_for)
