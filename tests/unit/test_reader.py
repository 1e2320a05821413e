"""Where a request ends is read in one way, or it is refused; HEAD is GET without a body."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw

from api.problems import ProblemHandler
from tests.serving import CLOSED, exchanged, new_app, served

HEARTBEAT = b'{"user":"u","slug":"m","at":1}'
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
THE_END = b"\r\n\r\nthe end"

Exchange = Callable[..., bytes]


async def echo(request: Request) -> HTTPResponse:
    return raw(b"<%b>" % request.body, headers={"ETag": '"7"'})


async def last(_: Request) -> HTTPResponse:
    return raw(b"the end")


async def stream(request: Request) -> None:
    response = await request.respond(content_type="text/plain")
    await response.send(b"part")


def make_app() -> Sanic[Any, Any]:
    app = new_app()
    app.error_handler = ProblemHandler()
    app.add_route(echo, "/", methods=["GET", "POST"])
    app.add_route(echo, "/only-post", methods=["POST"], name="only_post")
    app.add_route(last, "/last")
    app.add_route(stream, "/stream", ctx_streams=True)
    return app


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    """What comes for the pieces of requests, up to the answer to the last."""
    with asyncio.Runner() as runner:
        serving = served(make_app())
        address = runner.run(serving.__aenter__())
        try:
            yield lambda *pieces: runner.run(exchanged(address, [*pieces], THE_END))
        finally:
            runner.run(serving.__aexit__(None, None, None))


def post(*headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    lines = [b"POST / " + version, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length : 30"],
        [b"Content-Length\t: 30"],
        [b"X: a", b" Content-Length: 30"],
        [b"X: a", b"\tb"],
        [b" X: a"],
        [b"X: a\nContent-Length: 30"],
        [b"X: a\rContent-Length: 30"],
        [b"X: a\0b"],
        [b"X: a\x7f"],
        [b"no colon"],
        [b": no name"],
        [b"X\xc3\xa4: y"],
        [b"Content-Length: \x0b30"],
        [b"Content-Length: \xc2\x8530"],
        ["Content-Length: ３０".encode()],
        [b"Content-Length: +30"],
        [b"Content-Length: 3_0"],
        [b"Content-Length: 30, 30"],
        [b"Content-Length:"],
        [b"Content-Length: 30", b"Content-Length: 31"],
        [b"Content-Length: 30", b"content-length: 30"],
        [b"Content-Length: 30", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 30"],
        [b"Transfer-Encoding : chunked", b"Content-Length: 30"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding:"],
        [b"Host: y"],
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    exchange: Exchange, headers: list[bytes]
) -> None:
    answer = exchange(post(b"Host: x", *headers) + HEARTBEAT, LAST)
    check_refused(answer)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /last  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /last HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /last\nHTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET\t/last HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G(T /last HTTP/1.1\r\nHost: x\r\n\r\n",
        post(b"Host: x", b"Transfer-Encoding: chunked", version=b"HTTP/1.0"),
    ],
)
def test_what_is_no_head_is_refused(exchange: Exchange, head: bytes) -> None:
    check_refused(exchange(head, LAST))


def check_refused(answer: bytes) -> None:
    """It says so, and nothing after it is read."""
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in answer
    assert b"connection: close" in answer
    assert answer.endswith(CLOSED)
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (post(b"Host: x", b"content-length:30 \t"), HEARTBEAT),
        (post(b"Host:", b"X_Y: \xc3\xa4\tb", b"Content-Length: 030"), HEARTBEAT),
        (post(b"X-Host: y", b"HOST: x", b"CONTENT-LENGTH: 30"), HEARTBEAT),
        (post(b"Host: x", b"X-Content-Length: 3", b"Content-Length: 30"), HEARTBEAT),
        *(
            (post(b"Host: x", b"%b:%b" % (b"transfer-encoding", coding)), chunks)
            for coding in (b"chunked", b" Chunked", b"\tCHUNKED ")
            for chunks in (
                b"1e\r\n%b\r\n0\r\n\r\n" % HEARTBEAT,
                b'01E;a="b;c";d\r\n%b\r\n000;e\r\n\r\n' % HEARTBEAT,
                b"14\r\n%b\r\nA\r\n%b\r\n0\r\n\r\n" % (HEARTBEAT[:20], HEARTBEAT[20:]),
            )
        ),
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_what_is_unusual_and_right_is_read(
    exchange: Exchange, head: bytes, body: bytes, is_cut: bool
) -> None:
    request = head + body
    pieces = [request[:9], request[9:50], *(bytes([byte]) for byte in request[50:])]
    answer = exchange(*(pieces if is_cut else [request]), LAST)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"<%b>" % HEARTBEAT in answer
    assert answer.endswith(THE_END)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_there_may_be_no_host(exchange: Exchange, version: bytes) -> None:
    """Of what is sent by hand, and nobody reads that in another way."""
    headers = [b"Content-Length: 30", b"Connection: close"]
    answer = exchange(post(*headers, version=version) + HEARTBEAT)
    assert answer.endswith(b"<%b>" % HEARTBEAT + CLOSED)


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x1e\r\n%b\r\n0\r\n\r\n",
        b"+1e\r\n%b\r\n0\r\n\r\n",
        b"-1e\r\n%b\r\n0\r\n\r\n",
        b"1_e\r\n%b\r\n0\r\n\r\n",
        b" 1e\r\n%b\r\n0\r\n\r\n",
        b"1e \r\n%b\r\n0\r\n\r\n",
        b"\n1e\n\r\n%b\r\n0\r\n\r\n",
        b"1e;a\nb\r\n%b\r\n0\r\n\r\n",
        b"1e;a\rb\r\n%b\r\n0\r\n\r\n",
        "１e\r\n%b\r\n0\r\n\r\n".encode(),
        b"\r\n%b\r\n0\r\n\r\n",
        b"1e\r\n%bXX0\r\n\r\n",
        b"1e\r\n%bXX\r\n0\r\n\r\n",
        b"1e\r\n%b\n0\r\n\r\n",
        b"1e\r\n%b\r\n0\r\nX: y\r\n\r\n",
        b"1e\r\n%b\r\n0x0\r\n\r\n",
        b"1e;" + b"a" * 99 + b"\r\n%b\r\n0\r\n\r\n",
        b"1e" + b"a" * 99 + b"%b",
    ],
)
def test_chunks_that_could_be_read_in_two_ways_are_refused(
    exchange: Exchange, chunks: bytes
) -> None:
    head = post(b"Host: x", b"Transfer-Encoding: chunked")
    check_refused(exchange(head + chunks % HEARTBEAT, LAST))


def test_chunks_are_asked_for(exchange: Exchange) -> None:
    head = post(b"Host: x", b"Transfer-Encoding: chunked", b"Expect: 100-continue")
    answer = exchange(head, b"1e\r\n%b\r\n0\r\n\r\n" % HEARTBEAT, LAST)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert b"<%b>" % HEARTBEAT in answer
    assert answer.endswith(THE_END)


@pytest.mark.parametrize("path", [b"/", b"/last", b"/nowhere"])
def test_head_gets_what_get_would_without_the_body(exchange: Exchange, path: bytes) -> None:
    asked = b" %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
    full_head, _, body = exchange(b"GET" + asked).removesuffix(CLOSED).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in full_head
    answer = exchange(b"HEAD" + asked + LAST)
    assert answer.startswith(full_head + b"\r\n\r\nHTTP/1.1 200 ")
    assert answer.endswith(THE_END)


@pytest.mark.parametrize(
    ("path", "allowed"), [(b"/stream", b"GET"), (b"/only-post", b"POST")], ids=repr
)
def test_head_is_not_where_get_is_not_or_has_no_end(
    exchange: Exchange, path: bytes, allowed: bytes
) -> None:
    answer = exchange(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path, LAST)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: %b\r\n" % allowed in answer
    assert b"{" not in answer
    assert answer.endswith(THE_END)


def test_where_get_is_head_is_allowed(exchange: Exchange) -> None:
    answer = exchange(b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", LAST)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD, POST\r\n" in answer
