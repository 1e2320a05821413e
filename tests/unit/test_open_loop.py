"""Loads: requests go out when they are due, each wait counts whole, and so does the last answer."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import pytest

from benchmarks import closed_loop, load, open_loop, request_file
from benchmarks.closed_loop import ClosedLoop
from benchmarks.open_loop import OpenLoop, Outcome
from benchmarks.request_file import RequestFile, post, read_forever

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
#: Between parts of an answer that are sent one by one.
PAUSE = b"\0"

#: What a server does with a body; None closes the connection.
Answer = Callable[[bytes], Awaitable[bytes | None]]
T = TypeVar("T")


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[int]:
    """A server on the port that is yielded, until its clients have gone."""
    serving = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                assert length is not None
                answered = await answer(await reader.readexactly(int(length[1])))
                if answered is None:
                    break
                for part in answered.split(PAUSE):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*serving)


def send(
    answer: Answer, rate: float, seconds: float, connections: int = 4, warm_up_s: float = 0
) -> Outcome:
    async def run() -> Outcome:
        async with served(answer) as port:
            loop = OpenLoop(repeat(post(b"{}")), rate, seconds, warm_up_s)
            return await loop.run("127.0.0.1", port, connections)

    return asyncio.run(run())


async def good(_: bytes) -> bytes:
    return GOOD


def test_sends_as_many_as_are_due() -> None:
    outcome = send(good, rate=500, seconds=0.5)
    assert outcome.requests == 250
    assert outcome.errors == 0
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.p999_ms


def test_what_is_due_during_a_stall_waits_from_then_on() -> None:
    stall_s, seen = 0.6, 0
    is_over = asyncio.Event()

    async def stall_once(_: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 20:
            asyncio.get_running_loop().call_later(stall_s, is_over.set)
        if seen >= 20:
            await is_over.wait()
        return GOOD

    outcome = send(stall_once, rate=100, seconds=1, connections=2)
    # Most were due during the stall, and waited for what was left of it.
    assert outcome.p99_ms > 500
    assert outcome.p50_ms > 50
    assert outcome.requests == 100
    assert outcome.errors == 0


def test_a_server_that_is_too_slow_shows_in_every_wait() -> None:
    async def slow(_: bytes) -> bytes:
        await asyncio.sleep(0.02)
        return GOOD

    outcome = send(slow, rate=100, seconds=1, connections=1)
    assert outcome.requests == 100
    # Fifty a second leave: the one in the middle waits for 25 others, the last for 50.
    assert outcome.p50_ms > 400
    assert outcome.p99_ms > 900


def test_the_warm_up_does_not_count() -> None:
    seen = 0

    async def slow_at_first(_: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 1:
            await asyncio.sleep(0.9)
        return GOOD

    outcome = send(slow_at_first, rate=200, seconds=0.5, warm_up_s=0.5)
    assert seen == 200
    assert outcome.requests == 100
    assert outcome.p999_ms < 900


@pytest.mark.parametrize(("answer", "errors"), [(EMPTY, 0), (BUSY, 50)])
def test_other_statuses_are_errors(answer: bytes, errors: int) -> None:
    async def give(_: bytes) -> bytes:
        return answer

    outcome = send(give, rate=100, seconds=0.5)
    assert (outcome.requests, outcome.errors) == (50, errors)


def test_an_answer_may_come_in_pieces() -> None:
    async def in_pieces(_: bytes) -> bytes:
        return PAUSE.join((GOOD[:30], GOOD[30:-1], GOOD[-1:]))

    outcome = send(in_pieces, rate=50, seconds=0.5)
    assert (outcome.requests, outcome.errors) == (25, 0)


def test_what_is_never_answered_counts_with_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "GRACE_S", 0.2)

    async def run() -> Outcome:
        is_over = asyncio.Event()

        async def never(_: bytes) -> bytes | None:
            await is_over.wait()
            return None

        async with served(never) as port:
            loop = OpenLoop(repeat(post(b"{}")), 100, 0.5, 0)
            try:
                return await loop.run("127.0.0.1", port, 4)
            finally:
                is_over.set()

    outcome = asyncio.run(run())
    assert (outcome.requests, outcome.errors) == (50, 50)
    assert outcome.p50_ms > 200


def test_a_lost_connection_is_an_error_and_the_others_go_on() -> None:
    seen = 0

    async def close_once(_: bytes) -> bytes | None:
        nonlocal seen
        seen += 1
        return None if seen == 10 else GOOD

    outcome = send(close_once, rate=200, seconds=0.5, connections=2)
    assert (outcome.requests, outcome.errors) == (100, 1)


def test_without_any_connection_there_is_no_outcome() -> None:
    async def close(_: bytes) -> bytes | None:
        return None

    with pytest.raises(ConnectionError, match="closed all connections"):
        send(close, rate=200, seconds=0.5, connections=2)


# The closed loop


def test_a_closed_loop_counts_what_is_under_way_at_the_end() -> None:
    async def slow(_: bytes) -> bytes:
        await asyncio.sleep(1)
        return GOOD

    async def run() -> closed_loop.Outcome:
        async with served(slow) as port:
            return await ClosedLoop(repeat(post(b"{}")), 1.5).run("127.0.0.1", port, 3)

    outcome = asyncio.run(run())
    # Two on each connection, the second of which ends after the time.
    assert (outcome.requests, outcome.errors) == (6, 0)
    assert outcome.seconds >= 1.99
    assert outcome.per_second == pytest.approx(6 / outcome.seconds)
    assert outcome.p50_ms >= 990


def test_a_closed_loop_counts_errors_apart() -> None:
    answers = iter([GOOD, BUSY, None])

    async def give(_: bytes) -> bytes | None:
        return next(answers)

    async def run() -> closed_loop.Outcome:
        async with served(give) as port:
            return await ClosedLoop(repeat(post(b"{}")), 10).run("127.0.0.1", port, 1)

    outcome = asyncio.run(run())
    assert (outcome.requests, outcome.errors) == (3, 2)
    assert outcome.per_second == pytest.approx(1 / outcome.seconds)


# Files of requests


@pytest.fixture
def numbered(tmp_path: Path) -> RequestFile:
    """A hundred requests whose bodies are their numbers; some have lines."""
    bodies = (b"%d" % number + b"\n" * (number % 3) for number in range(100))
    return request_file.write(tmp_path / "requests", map(post, bodies), events_each=1)


def test_a_file_is_read_from_any_request_on_and_again(numbered: RequestFile) -> None:
    requests = read_forever(numbered.path, numbered.offset(298))
    numbers = [int(next(requests).rpartition(b"\r\n\r\n")[2]) for _ in range(5)]
    assert numbers == [98, 99, 0, 1, 2]


def test_a_process_sends_a_file_until_all_is_answered(numbered: RequestFile) -> None:
    bodies, outcome = _bodies_sent(
        lambda url: load.until_answered(url, numbered, connections=1, seconds=1, first=90)
    )
    assert bodies == [number % 100 for number in range(90, 90 + outcome.requests)]
    assert outcome.errors == 0


def test_a_process_sends_a_file_at_a_rate(numbered: RequestFile) -> None:
    bodies, outcome = _bodies_sent(
        lambda url: load.at_rate(url, numbered, rate=200, seconds=1, first=90)
    )
    assert bodies[:12] == [*range(90, 100), 0, 1]
    assert (outcome.requests, outcome.errors) == (200, 0)
    assert len(bodies) == 200 * (1 + open_loop.WARM_UP_S)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_a_file_in_order(numbered: RequestFile) -> None:
    bodies, result = _bodies_sent(
        lambda url: load.wrk(url, numbered, connections=1, seconds=1, first=90)
    )
    # One is made only to be looked at before it starts.
    assert bodies[:11] == [*range(91, 100), 0, 1]
    assert bodies == [number % 100 for number in range(91, 91 + len(bodies))]
    assert result.requests in (len(bodies) - 1, len(bodies))
    assert result.errors == 0
    assert result.per_second == pytest.approx(result.requests, rel=0.5)
    assert 0 < result.p50_us <= result.p99_us <= result.p999_us


def _bodies_sent(send_to: Callable[[str], T]) -> tuple[list[int], T]:
    """What came of a load, as numbers in order, and what it says of itself."""
    bodies: list[int] = []

    async def note(body: bytes) -> bytes:
        bodies.append(int(body))
        return GOOD

    async def run() -> T:
        async with served(note) as port:
            return await asyncio.to_thread(send_to, f"http://127.0.0.1:{port}")

    return bodies, asyncio.run(run())
