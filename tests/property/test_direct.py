"""Requests answered without a handler get what their handler would have answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sanic import Sanic

from aggregator.errors import ShardsUnavailableError
from aggregator.lane import Lane, QueueLimits, Receipt
from aggregator.messages import Applied, Refused
from aggregator.router import Router
from aggregator.shard import Shard
from api.app import create_app
from api.arrow_stream import CONTENT_TYPE
from api.events import PARSED_AT_ONCE_BYTES_MAX, PARSED_SLOWLY_AT_ONCE_BYTES_MAX
from api.protocol import BoundedProtocol
from api.settings import Settings
from api.swift import SwiftProtocol
from tests import arrow_streams
from tests.serving import Address, Client, cut, exchanged, served
from tests.shards import NOW_MS, Clock, settings_of

END = b"\r\n\r\nok\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
#: Which no kernel takes.
ESCAPED = b'{"user": "b\\u00e9a", "slug": "film", "at": 1}'
HEARTBEAT = b'{"user": "ana", "slug": "film", "at": 1.5}'

ARRAY = b"[%b]" % b", ".join([HEARTBEAT] * 100)
LINES = b"\n".join([HEARTBEAT] * 100)
NDJSON = b"Content-Type: application/x-ndjson"
ARROW = b"Content-Type: " + CONTENT_TYPE.encode()

#: Of a request, or of the pieces of one.
Exchange = Callable[..., bytes]


def post(body: bytes, *headers: bytes, path: bytes = b"/") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: x", *headers]) + b"\r\n\r\n"


def make_app(**changes: Any) -> Sanic[Any, Any]:
    Sanic._app_registry.clear()  # each has the name of the product
    app = create_app(Settings(**changes))
    app.config.TOUCHUP = False
    return app


@asynccontextmanager
async def lane_of(
    app: Sanic[Any, Any], send: Callable[[bytes], Awaitable[bytes]], limits: QueueLimits
) -> AsyncIterator[Address]:
    """Where the application listens, with one shard that `send` stands for."""
    app.ctx.router = Router([Lane(0, send, limits)])
    try:
        async with served(app) as address:
            yield address
    finally:
        await app.ctx.router.close()


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """With a real shard whose clock stands still."""
    folder: Path = tmp_path_factory.mktemp("direct")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        shard = Shard(settings_of(folder), Clock(NOW_MS))
        serving = lane_of(make_app(), shard.handle, QueueLimits())
        address = runner.run(serving.__aenter__())
        try:
            yield lambda *pieces: runner.run(exchanged(address, [*pieces, LAST], END))
        finally:
            runner.run(serving.__aexit__(None, None, None))
            runner.run(shard.close())


def by_handlers() -> AbstractContextManager[Any]:
    """Meanwhile no request goes without one."""
    return mock.patch.object(SwiftProtocol, "_awaited", return_value=None)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Gets the first line of each request that goes without a handler."""
    first_lines: list[bytes] = []

    def note(self: SwiftProtocol, directly: Any, *others: Any) -> None:
        first_lines.append(directly.first_line)
        wait(self, directly, *others)

    wait = SwiftProtocol._wait
    monkeypatch.setattr(SwiftProtocol, "_wait", note)
    return first_lines


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, asyncio.Future[Any]]]:
    """Gets the connection of each request that goes without a handler, and its reply."""
    noted: list[tuple[Any, asyncio.Future[Any]]] = []

    def note(self: SwiftProtocol, directly: Any, reply: asyncio.Future[Any]) -> None:
        noted.append((self, reply))
        wait(self, directly, reply)

    wait = SwiftProtocol._wait
    monkeypatch.setattr(SwiftProtocol, "_wait", note)
    return noted


@pytest.mark.parametrize(
    ("request_", "is_direct"),
    [
        (post(HEARTBEAT), True),
        (post(HEARTBEAT, b"Content-Type: application/json", path=b"/v1/events"), True),
        (post(b'{"user":"ana","slug":"film","at":2,"session":"tv","id":"7","ts":1}'), True),
        (get(b"/v1/users/ana/movies/film"), True),
        (get(b"/v1/users/nobody/movies/film", b"If-Match: 7"), True),
        (post(b"[%b]" % HEARTBEAT), True),
        (post(ARRAY), True),
        (post(LINES, NDJSON), True),
        (post(arrow_streams.seeds()[0], ARROW), True),
        (post(b'[%b, {"user": "ana"}]' % HEARTBEAT), True),
        (post(b'{"user": "\xc3\xbc", "slug": "film", "at": 1}'), True),
        (post(b"[]"), False),
        (post(b'[{"user": "ana"}]'), True),
        (post(b'[{"user": "ana"'), True),
        (post(b"[%b]" % (b" " * PARSED_AT_ONCE_BYTES_MAX + HEARTBEAT)), False),
        (post(b"[%b]" % (b" " * PARSED_SLOWLY_AT_ONCE_BYTES_MAX + HEARTBEAT)), True),
        (post(b"[%b]" % (b" " * PARSED_SLOWLY_AT_ONCE_BYTES_MAX + ESCAPED)), False),
        (post(b"[%b]" % (b" " * 9_000 + ESCAPED)), True),
        (post(HEARTBEAT, b"Content-Type: Application/JSON; charset=utf-8"), True),
        (post(HEARTBEAT, b"Idempotency-Key: a"), False),
        (post(HEARTBEAT, b"Content-Encoding: gzip"), False),
        (post(HEARTBEAT, NDJSON), True),
        (post(HEARTBEAT, path=b"/?x=1"), False),
        (post(b'{"user": "ana", "slug": "film"}'), True),
        (post(b'{"user": "ana", "user": "bob", "slug": "film", "at": 1}'), True),
        (get(b"/v1/users/%b/movies/film" % (b"a" * 257)), True),
        (get(b"/v1/users/%C3%BC/movies/film"), False),
        (get(b"/v1/users/ana/movies/film/"), False),
        (get(b"/v1/users/ana/movies"), False),
    ],
)
def test_which_requests_need_no_handler(
    exchange: Exchange, taken: list[bytes], request_: bytes, is_direct: bool
) -> None:
    """Else the comparison below would compare handlers with themselves."""
    assert exchange(request_).endswith(END)
    assert taken == [request_.split(b"\r\n", 1)[0]] * is_direct


@pytest.mark.parametrize("request_", [post(HEARTBEAT), post(ARRAY), post(LINES, NDJSON)])
def test_a_body_that_comes_in_pieces_needs_no_handler_either(
    exchange: Exchange, taken: list[bytes], request_: bytes
) -> None:
    head, body = request_.split(b"\r\n\r\n")
    assert exchange(head + b"\r\n\r\n", *cut(body, 2)).endswith(END)
    assert len(taken) == 1


HEADERS = st.sampled_from(
    [
        b"Content-Type: application/json",
        b"Content-Type: application/json; charset=utf-8",
        b"Content-Type: application/x-ndjson",
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Type: text/plain",
        b"Content-Encoding: gzip",
        b"Content-Encoding: identity",
        b"Idempotency-Key: abc",
        b"Idempotency-Key: " + b"k" * 200,
        b"If-Match: 7",
        b"Origin: http://player.example",
        b"Accept: */*",
        b"Connection: close",
        b"X-Tab: a\tb",
    ]
)
NAMES = st.sampled_from(
    [b"ana", b"bob", b"a" * 256, b"a" * 257, b"a%20b", b"%C3%BC", b"%ff", b"a.b-c_~:@", b"", b"a+b"]
)
VALUES = st.sampled_from(
    [
        b"1",
        b"0",
        b"1.0005",
        b"-1",
        b"1e3",
        b"10000001",
        b"null",
        b"true",
        b'""',
        b'"ana"',
        b'"film"',
        b'"a\\u0062"',
        b'"\xc3\xbc"',
        b'"\xff"',
        b'"\x7f"',
        b'"%b"' % (b"x" * 257),
        b"[1]",
    ]
)


@st.composite
def heartbeats(draw: st.DrawFn) -> bytes:
    members = {b"user": b'"ana"', b"slug": b'"film"', b"at": b"30"}
    for key in draw(st.lists(st.sampled_from([*members, b"id", b"ts", b"duration", b"x"]))):
        members[key] = draw(VALUES)
    lines = [b'"%b": %b' % member for member in members.items()]
    if draw(st.integers(0, 5)) == 0:
        lines.append(draw(st.sampled_from(lines)))
    left, right = draw(st.sampled_from([(b"{", b"}")] * 6 + [(b" {", b"}"), (b"", b"")]))
    return left + b", ".join(lines) + right


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Of one heartbeat, or of many, with a few that differ from the others."""
    if draw(st.booleans()):
        return draw(heartbeats())
    events = [HEARTBEAT] * draw(st.sampled_from([0, 0, 100]))
    events += draw(st.lists(heartbeats(), min_size=not events, max_size=2))
    start, between, end = draw(st.sampled_from([(b"[", b",", b"]"), (b"", b"\n", b"")]))
    return start + between.join(events) + end


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    headers = draw(st.lists(HEADERS, max_size=2))
    if draw(st.booleans()):
        path = draw(st.sampled_from([b"/", b"/v1/events", b"/v1/events/", b"/?a=b"]))
        return post(draw(bodies()), *headers, path=path)
    path = b"/v1/users/%b/movies/%b" % (draw(NAMES), draw(NAMES))
    return get(path + draw(st.sampled_from([b""] * 4 + [b"/", b"?a=b", b"/x"])), *headers)


@example(get(b"/v1/users/ana/movies/film", b"Content-Length: 2") + b"ab", 1)
@example(get(b"/v1/users/ana/movies/film", b"Content-Length: 2") + b"ab", 2)
@example(post(arrow_streams.seeds()[1], ARROW), 1)
@example(post(b"[%b, %b]" % (HEARTBEAT, b'{"user": 1}'), b"Connection: close"), 2)
@given(request=requests(), pieces=st.sampled_from([1, 1, 1, 3]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_needs_no_handler_is_answered_as_by_one(
    exchange: Exchange, request: bytes, pieces: int
) -> None:
    with by_handlers():
        exchange(request)  # from now on it changes nothing, if it has an id
        expected = exchange(request)
    assert exchange(*cut(request, pieces)) == expected


class SlowShard:
    """Replies when it is told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.reply: Any = Applied(NOW_MS, [])

    async def send(self, _: bytes) -> bytes:
        await self.gate.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        return msgspec.msgpack.encode(self.reply)


Check = Callable[[SlowShard, Address], Awaitable[None]]


def with_slow_shard(
    check: Check,
    limits: QueueLimits | None = None,
    changes: Mapping[str, Any] | None = None,
    **config: Any,
) -> None:
    async def run() -> None:
        shard, app = SlowShard(), make_app(**(changes or {}))
        app.config.update(config)
        async with lane_of(app, shard.send, limits or QueueLimits()) as address:
            await check(shard, address)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("allowed", ["http://page.example", "*"])
@pytest.mark.parametrize("origin", [b"http://page.example", b"http://other.example", None])
@pytest.mark.parametrize("reply", [Applied(NOW_MS, []), Refused("no space left")])
def test_pages_of_other_origins_are_told_what_handlers_tell_them(
    taken: list[bytes], allowed: str, origin: bytes | None, reply: Any
) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        shard.reply = reply
        shard.gate.set()
        request = post(HEARTBEAT, *([b"Origin: " + origin] if origin else []))
        answer = await exchanged(address, [request, LAST], END)
        is_allowed = allowed == "*" or (origin is not None and origin.decode() == allowed)
        assert (b"Access-Control-Allow-Origin" in answer) == is_allowed
        assert answer.count(b"Vary: Origin") == (0 if allowed == "*" else 2)
        with by_handlers():
            assert answer == await exchanged(address, [request, LAST], END)
        assert len(taken) == 1

    with_slow_shard(check, changes={"cors_origins": allowed})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Refused("no space left"), b"no space left"),
        (ShardsUnavailableError({0: "gone"}), b"gone"),
        (ValueError("a fault"), b"A fault of playhead's own"),
    ],
)
def test_a_failure_is_answered_as_by_a_handler(taken: list[bytes], reply: Any, said: bytes) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        shard.reply = reply
        shard.gate.set()
        answer = await exchanged(address, [post(HEARTBEAT), LAST], END)
        with by_handlers():
            assert answer == await exchanged(address, [post(HEARTBEAT), LAST], END)
        assert said in answer
        assert len(taken) == 1

    with_slow_shard(check)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (post(HEARTBEAT), b"Send it again; with ids"),
        (get(b"/v1/users/ana/movies/film"), b"Ask again in a moment"),
        (get(b"/v1/users/ana/movies/film", b"X-Tab: a\tb"), b"Ask again in a moment"),
        (get(b"/readyz"), b"Ask again in a moment"),
    ],
)
def test_where_no_shard_answers_it_is_said_what_to_do(request_: bytes, said: bytes) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        shard.reply = ShardsUnavailableError({0: "gone"})
        shard.gate.set()
        answer = await exchanged(address, [request_, LAST], END)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert said in answer

    with_slow_shard(check)


@pytest.mark.parametrize("path", [b"/healthz", b"/v1/users/ana/movies/film", b"/docs", b"/none"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Content-Length: 2", b"ab"),
        (b"Content-Length: 0", b""),
        (b"content-length:2", b"ab"),
        (b"Transfer-Encoding: chunked", b"2\r\nab\r\n0\r\n\r\n"),
    ],
)
def test_a_body_that_nobody_wants_is_nothing_to_log(
    caplog: pytest.LogCaptureFixture, method: bytes, path: bytes, header: bytes, body: bytes
) -> None:
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: x", header, b"Origin: http://page.example"]
    head = b"\r\n".join([*lines, b"Access-Control-Request-Method: PUT"]) + b"\r\n\r\n"

    async def check(shard: SlowShard, address: Address) -> None:
        shard.gate.set()
        shard.reply = Refused("no space left")
        answer = await exchanged(address, [head + body, LAST], END)
        assert answer.endswith(END)

    caplog.set_level("WARNING")
    with_slow_shard(check, changes={"cors_origins": "http://page.example"})
    assert not caplog.messages


@pytest.mark.parametrize("pieces", [[b"ab"], [b"a", b"b"]])
def test_a_body_that_nobody_wants_is_none_for_sanic(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    for_sanic: list[bytes] = []
    monkeypatch.setattr(BoundedProtocol, "data_received", lambda _, data: for_sanic.append(data))
    head = get(b"/docs", b"Content-Length: 2")

    async def check(_shard: SlowShard, address: Address) -> None:
        answer = await exchanged(address, [head + pieces[0], *pieces[1:], LAST], END)
        assert answer.count(b"HTTP/1.1 200 ") == 2

    with_slow_shard(check)
    assert not for_sanic


def test_the_last_answer_before_a_stop_says_so(
    waiting: list[tuple[Any, asyncio.Future[Any]]],
) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        _transport, client = await _asked(address)
        await asyncio.sleep(0.05)
        ((protocol, _),) = waiting
        protocol.signal.stopped = True
        shard.gate.set()
        await client.closed()
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in client.received
        assert b"keep-alive" not in client.received

    with_slow_shard(check)


def test_past_the_bound_of_the_queue_a_heartbeat_is_refused(taken: list[bytes]) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        first = asyncio.create_task(exchanged(address, [post(HEARTBEAT)], b"}"))
        await asyncio.sleep(0.05)
        answer = await exchanged(address, [post(HEARTBEAT)], b"}")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"send slower" in answer
        shard.gate.set()
        assert (await first).startswith(b"HTTP/1.1 200 ")
        assert len(taken) == 2

    with_slow_shard(check, QueueLimits(events_max=1))


def test_a_shard_that_takes_too_long_is_waited_for_no_longer(taken: list[bytes]) -> None:
    async def check(_shard: SlowShard, address: Address) -> None:
        _transport, client = await _asked(address)
        await client.closed()
        assert client.received.startswith(b"HTTP/1.1 503 ")
        assert b"No answer in time" in client.received
        assert len(taken) == 1

    with_slow_shard(check, RESPONSE_TIMEOUT=1)


def test_an_answer_at_the_last_moment_leaves_the_connection_its_timers(
    waiting: list[tuple[Any, asyncio.Future[Any]]],
) -> None:
    """What had been answered could not be cancelled, and no time was taken from then on."""

    async def check(_shard: SlowShard, address: Address) -> None:
        _transport, client = await _asked(address)
        await asyncio.sleep(0.05)
        ((protocol, reply),) = waiting
        reply.set_result(Receipt(NOW_MS, 0))
        protocol._time -= 1_000
        protocol._callback_check_timeouts.cancel()  # as if it were what calls
        protocol.check_timeouts()
        await client.closed()
        assert client.received.startswith(b"HTTP/1.1 200 ")

    with_slow_shard(check, KEEP_ALIVE_TIMEOUT=1)


def test_a_client_that_goes_away_takes_nothing_from_the_others(taken: list[bytes]) -> None:
    async def check(shard: SlowShard, address: Address) -> None:
        transport, _ = await _asked(address)
        waiting = asyncio.create_task(exchanged(address, [post(HEARTBEAT), LAST], END))
        await asyncio.sleep(0.05)
        transport.abort()
        await asyncio.sleep(0.05)
        shard.gate.set()
        assert (await waiting).startswith(b"HTTP/1.1 200 ")
        assert len(taken) == 2

    with_slow_shard(check)


async def _asked(address: Address) -> tuple[asyncio.WriteTransport, Client]:
    """A heartbeat that is on its way."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *address)
    transport.write(post(HEARTBEAT))
    return transport, client
