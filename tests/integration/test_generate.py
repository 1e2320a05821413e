"""`playhead generate` as people run it: against a playhead, and against servers that fail."""

import asyncio
import os
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from aiohttp import web

from tests.command import Ended, command
from tests.playhead import COMMAND, Playhead

TIMEOUT_S = 100


def generate(url: str, *options: str) -> Ended:
    return command("generate", "--url", url, *options)


# Against a playhead


@pytest.mark.parametrize(
    "options",
    [
        ("--events", "2000", "--seed", "7"),
        ("--events", "2000", "--seed", "8", "--no-sessions"),
        ("--events", "2000", "--seed", "9", "--batch", "50"),
        ("--events", "2000", "--seed", "10", "--batch", "50", "--no-sessions"),
        ("--events", "10000", "--seed", "12", "--batch", "300", "--users", "20", "--movies", "3"),
    ],
    ids=" ".join,
)
def test_every_total_is_as_the_events_make_it(server: Playhead, options: tuple[str, ...]) -> None:
    run = generate(server.url, "--rate", "0", "--verify", *options)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Verified" in run.stdout


def test_a_known_seed_is_not_verified(server: Playhead) -> None:
    options = "--events", "20", "--rate", "0", "--seed", "11"
    assert generate(server.url, *options).returncode == 0
    before = server.get("/v1/stats").json()["events"]
    verified = generate(server.url, *options, "--verify")
    assert verified.returncode == 1
    assert "earlier run with this seed" in verified.stderr
    assert server.get("/v1/stats").json()["events"] == before
    again = generate(server.url, *options)
    assert again.returncode == 0
    assert "include earlier runs" in again.stdout.replace("\n", " ")


def test_the_rate_is_kept(server: Playhead) -> None:
    run = generate(server.url, "--events", "600", "--rate", "200")
    assert run.returncode == 0, run.stderr
    assert 2.9 < _summary(run.stdout)["seconds"] < 6  # with time to catch up on a busy machine


def test_ctrl_c_ends_with_the_summary(server: Playhead) -> None:
    endless = [str(COMMAND), "generate", "--url", server.url, "--rate", "200", "--verify"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(endless, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        lines = iter(run.stdout.readline, "")
        next(line for line in lines if "events/s" in line)
        run.send_signal(signal.SIGINT)
        rest = "".join(lines)
        assert run.wait(TIMEOUT_S) == 0
    assert _summary(rest)["accepted"] > 0
    assert "Verified" in rest


# Against servers that fail

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Pretender:
    """Answers as a playhead does, but keeps only a list of what came; `take` may do worse."""

    def __init__(self) -> None:
        self.requests: list[tuple[str | None, list[dict[str, Any]]]] = []

    async def take(self, request: web.Request) -> web.Response:
        body = await request.json()
        events = body if isinstance(body, list) else [body]
        self.requests.append((request.headers.get("Idempotency-Key"), events))
        return await self.answer(events)

    async def answer(self, events: list[dict[str, Any]]) -> web.Response:
        return web.json_response(
            {
                "accepted": len(events),
                "duplicates": 0,
                "rejected": 0,
                "errors": [],
                "now": "2026-01-01T12:00:00.000Z",
            }
        )

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL, while it runs in a thread."""
        addresses: list[tuple[str, int]] = []
        is_up, is_over = Event(), Event()

        async def serve() -> None:
            app = web.Application()
            app.router.add_post("/", self.take)
            app.router.add_get("/readyz", self.ready)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            addresses.extend(runner.addresses)
            is_up.set()
            await asyncio.to_thread(is_over.wait)
            await runner.cleanup()

        thread = Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            assert is_up.wait(10)
            host, port = addresses[0]
            yield f"http://{host}:{port}"
        finally:
            is_over.set()
            thread.join()


class Overloaded(Pretender):
    """Refuses the first try of every third request, some after it took the events."""

    def __init__(self) -> None:
        super().__init__()
        self.tries: Counter[str | None] = Counter()

    async def take(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key")
        self.tries[key] += 1
        if self.tries[key] == 1 and len(self.tries) % 3 == 0:
            return web.Response(status=503, headers={"Retry-After": "0.1"})
        if self.tries[key] == 1 and len(self.tries) % 5 == 0:
            await super().take(request)
            assert request.transport is not None
            request.transport.close()
        return await super().take(request)


class Slow(Pretender):
    """Notes users that come again before they had an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: set[str] = set()
        self.impatient: set[str] = set()

    async def answer(self, events: list[dict[str, Any]]) -> web.Response:
        users = {event["user"] for event in events}
        self.impatient |= users & self.under_way
        self.under_way |= users
        await asyncio.sleep(0.005)
        self.under_way -= users
        return await super().answer(events)


def test_wrong_totals_are_found() -> None:
    """A server that forgets everything knows no total."""
    with Pretender().running() as url:
        run = generate(url, "--events", "200", "--rate", "0", "--verify")
    assert run.returncode == 1
    assert "differences" in run.stdout
    assert "v1/movies/" in run.stdout


def test_what_failed_is_sent_again_with_its_key() -> None:
    server = Overloaded()
    with server.running() as url:
        run = generate(url, "--events", "300", "--rate", "0", "--no-sessions")
    assert run.returncode == 0, run.stdout + run.stderr
    summary = _summary(run.stdout)
    assert (summary["accepted"], summary["lost, outcome unknown"]) == (300, 0)
    assert summary["requests tried again"] >= 100
    events_of_key = dict(server.requests)
    assert None not in events_of_key
    assert len(server.requests) > len(events_of_key) == 300
    assert all(events_of_key[key] == events for key, events in server.requests)


def test_events_with_ids_need_no_key() -> None:
    server = Pretender()
    with server.running() as url:
        # Of some seeds the first 500 events are all from one flight, where everybody has a phone.
        assert generate(url, "--events", "500", "--rate", "0", "--seed", "1").returncode == 0
    assert {(key is None, "id" in events[0]) for key, events in server.requests} == {
        (True, True),
        (False, False),
    }


@pytest.mark.parametrize("batch", ["1", "20"])
def test_a_user_waits_for_the_answer(batch: str) -> None:
    server = Slow()
    with server.running() as url:
        options = "--events", "1000", "--rate", "0", "--users", "10", "--batch", batch
        assert generate(url, *options, "--no-sessions").returncode == 0
    assert not server.impatient
    users: dict[str, list[float]] = defaultdict(list)
    for _, events in server.requests:
        assert len(events) <= int(batch)
        for event in events:
            users[event["user"]].append(event["at"])
    assert sum(map(len, users.values())) == 1000


def test_without_a_server_it_says_so() -> None:
    run = generate("http://127.0.0.1:1")
    assert run.returncode == 1
    assert "no server is ready at http://127.0.0.1:1" in run.stderr
    assert "playhead serve" in run.stderr


def _summary(output: str) -> dict[str, float]:
    """The rows of the table at the end, without their units."""
    rows = [line.strip("│ \n").split("│") for line in output.splitlines() if line.startswith("│")]
    return {name.strip(): float(value.split()[0].replace(",", "")) for name, value in rows}
