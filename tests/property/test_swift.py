"""Requests that are taken past Sanic's streams get what Sanic would have answered."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import SanicException
from sanic.response import BaseHTTPResponse, empty, raw

from api.problems import ProblemHandler, not_found
from api.swift import SwiftProtocol
from tests.serving import CLOSED, PIECE_S, Address, cut, exchanged, new_app, served

LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
THE_END = b"the end"

Exchange = Callable[[list[bytes]], bytes]


async def echo(request: Request, name: str) -> HTTPResponse:
    said = {
        "method": request.method,
        "url": request.url,
        "name": name,
        "arguments": request.args,
        "headers": list(request.headers.items()),
        "cookies": dict(request.cookies),
        "ip": request.ip,
        "body": request.body.decode("latin-1"),
    }
    return raw(json.dumps(said).encode(), 201, {"ETag": '"7"'}, "application/json")


async def late(_: Request) -> HTTPResponse:
    await asyncio.sleep(3 * PIECE_S)
    return empty()


async def asked(request: Request) -> HTTPResponse:
    return raw(request.body + b"!")


async def nothing(_: Request) -> HTTPResponse:
    return raw(b"not to be sent", 204, {"Content-Length": "14"})


async def unanswered(_: Request) -> None:
    return None


async def missing(_: Request) -> HTTPResponse:
    raise not_found("There is nothing")


async def refused(_: Request) -> HTTPResponse:
    raise SanicException("No", 418, headers={"X-Why": "because"})


async def broken(_: Request) -> HTTPResponse:
    raise ValueError


async def last(_: Request) -> HTTPResponse:
    return raw(THE_END)


async def stop_some(request: Request) -> HTTPResponse | None:
    return raw("stopped", 403) if "x-stop" in request.headers else None


async def mark(request: Request, response: BaseHTTPResponse) -> None:
    response.headers["X-Marked"] = request.method
    if "mark" in request.args:
        raise ValueError


def make_app() -> Sanic[Any, Any]:
    app = new_app(REQUEST_MAX_SIZE=3_000, REQUEST_TIMEOUT=10.0)
    app.error_handler = ProblemHandler()
    app.add_route(echo, "/echo/<name:str>", methods=["GET", "POST", "PUT", "DELETE"])
    app.add_route(late, "/late", methods=["POST"])
    for handler in (asked, nothing, unanswered, missing, refused, broken, last):
        app.add_route(handler, f"/{handler.__name__}")
    app.register_middleware(stop_some, "request")
    app.register_middleware(mark, "response")
    return app


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        serving = served(make_app())
        address: Address = runner.run(serving.__aenter__())
        try:
            yield lambda pieces: runner.run(exchanged(address, [*pieces, LAST], THE_END))
        finally:
            runner.run(serving.__aexit__(None, None, None))


HEADERS = st.sampled_from(
    [
        b"Host: player.example",
        b"Origin: http://page.example",
        b"Accept: */*",
        b"accept:  */*",
        b"Content-Type: application/json",
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Player/1.0",
        b"Cookie: a=b; c=d",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding : chunked",
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Content-Length: 2",
        b"content-length: +2",
        b"Content-Length: 02",
        b"Content-Length: 2, 2",
        b"Content-Length : 2",
        b"Content-Length:\t2",
        b"X-Name: J\xc3\xbcrgen",
        b"X-Tab: a\tb",
        b"X-Trailing: space ",
        b"X_Under: score",
        b"X-Empty:",
        b" folded: line",
        b"no colon",
        b": no name",
        b"X-Feed: a\nContent-Length: 2",
        b"X-Null: a\0b",
        b"X-Stop: yes",
        b"Idempotency-Key: abc",
        b"X-Long: " + b"a" * 3_000,
        b"X-Longer: " + b"a" * 9_000,
    ]
)
FIRST_LINES = st.sampled_from(
    [
        *[b"%s /echo/n HTTP/1.1" % method for method in (b"GET", b"POST", b"PUT", b"DELETE")],
        b"POST /echo/a%20b%C3%BC?x=1&x=2&y= HTTP/1.1",
        b"GET /echo/n/ HTTP/1.1",
        b"GET //echo/n HTTP/1.1",
        b"GET /echo/n?#a HTTP/1.1",
        b"GET /echo/\xc3\xbc HTTP/1.1",
        b"GET http://x/echo/n HTTP/1.1",
        b"GET echo/n HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET  /echo/n HTTP/1.1",
        b"GET /echo/n HTTP/1.1 ",
        b"GET /echo/n HTTP/1.0",
        b"GET /echo/n HTTP/2",
        b"GET /echo/n",
        b"get /echo/n HTTP/1.1",
        b"HEAD /echo/n HTTP/1.1",
        b"OPTIONS /echo/n HTTP/1.1",
        b"PATCH /echo/n HTTP/1.1",
        b"GET /echo/%s HTTP/1.1" % (b"a" * 3_000),
        b"GET /echo/%s HTTP/1.1" % (b"a" * 9_000),
        b"POST /late HTTP/1.1",
        b"GET /late HTTP/1.1",
        b"GET /asked HTTP/1.1",
        b"GET /nothing HTTP/1.1",
        b"GET /missing HTTP/1.1",
        b"GET /refused HTTP/1.1",
        b"GET /broken HTTP/1.1",
        b"GET /nowhere HTTP/1.1",
        b"",
    ]
)
BODIES = st.sampled_from([b"", b"ab", b"\r\n", b"2\r\nab\r\n0\r\n\r\n", b"x" * 2_999, b"x" * 3_001])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(BODIES)
    host = [b"Host: x"] if draw(st.integers(0, 9)) else []
    lines = [draw(FIRST_LINES), *host, *draw(st.lists(HEADERS, max_size=4))]
    if body and draw(st.integers(0, 9)):
        lines.insert(1, b"Content-Length: %d" % (len(body) + draw(st.sampled_from([0] * 8 + [-1]))))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_which_requests_are_taken(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison below would compare Sanic with itself."""
    taken: list[bytes] = []

    def note(self: SwiftProtocol, first_line: bytes, *others: Any) -> bool:
        taken.append(first_line.split()[1])
        return begin(self, first_line, *others)

    begin = SwiftProtocol._begin
    monkeypatch.setattr(SwiftProtocol, "_begin", note)
    whole = b"POST /echo/n HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n" + bytes(200)
    for pieces in ([whole], cut(whole, 2), cut(whole, 3)):
        assert exchange(pieces).endswith(THE_END)
        assert taken == [b"/echo/n", b"/last"]
        taken.clear()
    with by_sanic():
        assert exchange([whole]).endswith(THE_END)
    assert not taken


def by_sanic() -> AbstractContextManager[Any]:
    """Meanwhile nothing is taken past it."""
    return mock.patch.object(SwiftProtocol, "_take", return_value=False)


def test_faults_are_answered_at_once(exchange: Exchange) -> None:
    """Whoever made them: a handler, or what is done after it."""
    for path in (b"/broken", b"/unanswered", b"/last?mark=badly"):
        answer = exchange([b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path])
        assert answer.startswith(b"HTTP/1.1 500 "), path
        assert answer.endswith(THE_END), path


def test_what_is_left_of_a_request_is_no_other_one(exchange: Exchange) -> None:
    """Of one that was refused before all of it had come: its trailer here looks like a request."""
    refused = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange([refused + b"0\r\n", b"GET /echo/n HTTP/1.1\r\nHost: x\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(CLOSED)
    assert answer.count(b"HTTP/1.1 ") == 1


@example(b"POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", 1)
@example(b"GET /echo/n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1)
@given(request=requests(), pieces=st.integers(1, 3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_taken_is_answered_as_by_sanic(
    exchange: Exchange, request: bytes, pieces: int
) -> None:
    with by_sanic():
        expected = exchange(cut(request, pieces))
    assert exchange(cut(request, pieces)) == expected
