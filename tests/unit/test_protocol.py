"""What bounds a connection: requests have a deadline, streams a client that takes their parts."""

import asyncio
import json
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import pytest
import uvloop
from sanic import HTTPResponse, Request, Sanic
from sanic.response import BaseHTTPResponse, text

from api import protocol
from api.problems import ProblemHandler
from api.protocol import BoundedProtocol
from tests.serving import Address, cut, new_app, send, served

RESPONSE_TIMEOUT_S = 0.2
PART = bytes(256 << 10)


class Sent:
    """What became of an endless stream."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.has_ended = asyncio.Event()
        self.stop: Any = None
        self.settings: Any = None
        self.waiting_bytes_max = 0


Test = Callable[[Address, Sent], Any]


def make_app(sent: Sent) -> Sanic[Any, Any]:
    app = new_app(RESPONSE_TIMEOUT=RESPONSE_TIMEOUT_S)
    app.error_handler = ProblemHandler()
    sent.settings = app.ctx.settings

    @app.get("/slow")
    async def slow(_: Request) -> HTTPResponse:
        await asyncio.sleep(60)
        return text("done")

    @app.post("/")
    async def take(request: Request) -> HTTPResponse:
        sent.stop = cast(BoundedProtocol, request.protocol).signal
        return text(f"took {len(request.body)}")

    @app.get("/endless-thought")
    async def think(_: Request) -> HTTPResponse:
        sent.has_begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            sent.has_ended.set()
        return text("done")

    async def mark(_: Request, response: BaseHTTPResponse) -> None:
        response.headers["X-Marked"] = "yes"

    app.register_middleware(mark, "response")

    @app.get("/stream", ctx_streams=True)
    async def stream(request: Request) -> None:
        connection = cast(BoundedProtocol, request.protocol)
        connection.start_stream()
        response = await request.respond(content_type="text/plain")
        for _ in range(3):
            await connection.taken()
            await response.send(b"part")
            await asyncio.sleep(2 * RESPONSE_TIMEOUT_S)

    @app.get("/endless", ctx_streams=True)
    async def endless(request: Request) -> None:
        connection = cast(BoundedProtocol, request.protocol)
        connection.start_stream()
        response = await request.respond(content_type="text/plain")
        try:
            while True:
                waiting_bytes = cast(Any, connection.transport).get_write_buffer_size()
                sent.waiting_bytes_max = max(waiting_bytes, sent.waiting_bytes_max)
                await connection.taken()
                await response.send(PART)
        finally:
            sent.has_ended.set()

    return app


def protocol_test(test: Test, run_loop: Callable[..., None] = asyncio.run) -> None:
    async def run() -> None:
        sent = Sent()
        async with served(make_app(sent)) as address:
            await asyncio.wait_for(test(address, sent), 60)

    run_loop(run())


async def ask(address: Address, path: str, pieces: int = 1) -> bytes:
    """All that is answered until the connection closes."""
    reader, writer = await asyncio.open_connection(*address)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    try:
        await send(writer.write, cut(request, pieces))
        return await reader.read()
    finally:
        writer.close()


def test_only_a_stream_outlives_the_deadline() -> None:
    async def test(address: Address, _: Sent) -> None:
        streamed, *slow = await asyncio.gather(
            ask(address, "/stream"), ask(address, "/slow"), ask(address, "/slow", pieces=9)
        )
        assert streamed.count(b"part") == 3
        assert streamed.endswith(b"0\r\n\r\n")
        assert b"connection: close" in streamed
        for answer in slow:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" in answer
            assert b"X-Marked: yes" in answer

    protocol_test(test)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 100\r\n\r\nsome of it",
        b"Content-Length: 100\r\nX-Tab: a\tb\r\n\r\nsome of it",
        b"Content-Length: 100\r\nUpgrade: websocket\r\n\r\nsome of it",
        b"Transfer-Encoding: chunked\r\n\r\n64\r\nsome of it",
        b"Transfer-Encoding: chunked\r\n\r\n6",
    ],
)
def test_a_body_that_does_not_come_is_not_waited_for(lines: bytes) -> None:
    async def test(address: Address, _: Sent) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + lines)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert b"nothing was done" in answer

    protocol_test(test)


def test_one_connection_too_many_is_told_what_to_do() -> None:
    async def test(address: Address, sent: Sent) -> None:
        sent.settings.connections_max = 0
        reader, writer = await asyncio.open_connection(*address)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"content-type: application/problem+json" in head
        assert b"Retry-After: 1" in head
        assert b"connection: close" in head
        assert b"content-length: %d" % len(body) in head
        problem = json.loads(body)
        assert problem["status"] == 503
        assert "--connections-max" in problem["detail"]

    protocol_test(test)


def test_who_goes_takes_what_was_asked_along() -> None:
    async def test(address: Address, sent: Sent) -> None:
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /endless-thought HTTP/1.1\r\nHost: x\r\n\r\n")
        await sent.has_begun.wait()
        writer.close()
        await sent.has_ended.wait()

    protocol_test(test)


@pytest.mark.parametrize("first_bytes", [5, 55])
def test_what_has_begun_when_the_server_stops_is_answered(first_bytes: int) -> None:
    """And nothing after it, be it begun past Sanic or by it."""
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + bytes(100)

    async def test(address: Address, sent: Sent) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(whole)
        await reader.readuntil(b"took 100")
        await send(writer.write, [whole[:first_bytes], whole[first_bytes:60]])
        sent.stop.stopped = True
        await send(writer.write, [whole[60:], whole])
        answers = await reader.read()
        writer.close()
        assert answers.count(b"took 100") == 1
        assert b"connection: close" in answers

    protocol_test(test)


def test_who_takes_nothing_of_a_stream_is_cut_and_little_is_kept_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "STALLED_S", 0.5)

    async def test(address: Address, sent: Sent) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await sent.has_ended.wait()
        assert 0 < sent.waiting_bytes_max < 2 * len(PART)

    protocol_test(test)


def test_who_takes_slowly_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALLED_S", 1.5)

    async def test(address: Address, _: Sent) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        for _number in range(20):
            await asyncio.sleep(0.1)
            await reader.readexactly(len(PART))
        writer.close()

    protocol_test(test)


def test_many_connections_are_taken_while_the_loop_is_busy() -> None:
    """One was taken each time the loop went round, so that some waited for seconds."""
    connections = 90

    async def test(address: Address, _sent: Sent) -> None:
        with ExitStack() as opened:
            clients = [
                opened.enter_context(socket.create_connection(address)) for _ in range(connections)
            ]
            for client in clients:
                client.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
                client.setblocking(False)
            rounds = 0
            while clients:
                await asyncio.sleep(0)
                rounds += 1
                ready = select.select(clients, [], [], 0)[0]
                clients = [client for client in clients if client not in ready]
        assert rounds < connections

    protocol_test(test, uvloop.run)
