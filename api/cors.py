"""Calls from web pages of other origins, as far as they are allowed (CORS, WHATWG Fetch)."""

from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import BaseHTTPResponse, empty

#: Seconds for which a browser may remember what is allowed.
MAX_AGE_S = 7200
_METHODS = "GET, POST, PUT, DELETE"
_HEADERS = "Content-Type, Content-Encoding, Idempotency-Key, If-Match"
_EXPOSED = "ETag, Retry-After"


def install(app: Sanic[Any, Any], origins: str) -> None:
    """Allows the comma-separated `origins`; `*` is any, but then without cookies."""
    allowed = frozenset(origin.strip() for origin in origins.split(",") if origin.strip())
    if not allowed:
        return

    def headers_for(request: Request) -> dict[str, str]:
        origin = request.headers.get("origin", "")
        if origin in allowed:
            return {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Credentials": "true",
                "Vary": "Origin",
            }
        return {"Access-Control-Allow-Origin": "*"} if "*" in allowed and origin else {}

    async def answer_preflight(request: Request) -> HTTPResponse | None:
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        return empty(
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": str(MAX_AGE_S),
            }
        )

    async def allow(request: Request, response: BaseHTTPResponse) -> None:
        found = headers_for(request)
        if found:
            response.headers.update(found | {"Access-Control-Expose-Headers": _EXPOSED})

    app.register_middleware(answer_preflight, "request")
    app.register_middleware(allow, "response")
