"""Requests that wait for a shard alone, answered without a handler's task around them.

Nearly all requests bring heartbeats, and most others ask where a user was. To make a
`Request` of one, look for its route and run its handler takes twice as long as what is
done for it. So a route may have a `ctx_begin`, which takes those of its requests that
have nothing unusual about them. The others are its handler's.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sanic import Sanic
from sanic.compat import Header

#: A name in a path that is what it stands for.
_SEGMENT = r"([A-Za-z0-9._~:@-]+)"
_PARAMETER = re.compile(r"<\w+:str>")


class Awaited(NamedTuple):
    """An answer that is on its way."""

    reply: "asyncio.Future[Any]"
    #: Makes all of the answer of what `reply` gets; raises what the handler would.
    encode: Callable[[Any], bytes]


#: Gets the context of the application, the body, its content type and what stands in the path.
#: With None it has done nothing, and the handler is asked. It raises what the handler would.
Begin = Callable[..., Awaited | None]
#: Gets the headers of a request, and gives those that an answer has besides its own.
HeadersFor = Callable[[Header], Mapping[str, str]]


class _Replaced(NamedTuple):
    """Middleware that direct routes go without."""

    middleware: Collection[Any]
    headers_for: HeadersFor


class DirectRoutes:
    """Those of an application that have a `ctx_begin`, and no middleware that has to run."""

    def __init__(self, app: Sanic[Any, Any]) -> None:
        replaced = getattr(app.ctx, "replaced_middleware", _Replaced((), lambda _: {}))
        self.headers_for = replaced.headers_for
        self._fixed: dict[bytes, Begin] = {}
        self._patterns: list[tuple[re.Pattern[bytes], Begin]] = []
        for route in app.router.routes:
            begin = getattr(route.ctx, "begin", None)
            middleware = [*route.extra.request_middleware, *route.extra.response_middleware]
            if begin and all(each.func in replaced.middleware for each in middleware):
                for method in route.methods:
                    self._add(f"{method} /{route.path} HTTP/1.1", begin)

    def find(self, first_line: bytes) -> tuple[Begin, Sequence[str]] | None:
        """How a request begins, and what stands in its path; None for any other."""
        begin = self._fixed.get(first_line)
        if begin is not None:
            return begin, ()
        for pattern, begin in self._patterns:
            found = pattern.fullmatch(first_line)
            if found is not None:
                return begin, [segment.decode() for segment in found.groups()]
        return None

    def _add(self, first_line: str, begin: Begin) -> None:
        if _PARAMETER.search(first_line):
            pattern = _SEGMENT.join(map(re.escape, _PARAMETER.split(first_line)))
            self._patterns.append((re.compile(pattern.encode()), begin))
        else:
            self._fixed[first_line.encode()] = begin


@lru_cache(maxsize=4)
def routes_of(app: Sanic[Any, Any]) -> DirectRoutes:
    """Those of an application that has started."""
    return DirectRoutes(app)


def replace_middleware(
    app: Sanic[Any, Any], middleware: Collection[Any], headers_for: HeadersFor
) -> None:
    """Says that all that these functions do for a direct route is what `headers_for` does."""
    app.ctx.replaced_middleware = _Replaced(middleware, headers_for)
