"""GET /v1/live, on a real server: what it says, and how it ends."""

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tests.integration.conftest import CONNECTIONS_MAX, connections_of
from tests.playhead import Playhead, eventually

#: A browser waits as long as this before it takes a connection for lost.
SILENCE_S = 10


def address_of(playhead: Playhead) -> tuple[str, int]:
    host, port = re.findall(r"//(.+):(\d+)", playhead.url)[0]
    return host, int(port)


class Listener:
    """Listens until the end of a `with`."""

    def __init__(self, playhead: Playhead) -> None:
        self.answer = playhead.session.get(
            playhead.url + "/v1/live", stream=True, timeout=SILENCE_S
        )
        assert self.answer.status_code == 200, self.answer.text
        self._lines = self.answer.iter_lines(chunk_size=None)
        assert next(self._lines).startswith(b"retry: ")
        assert next(self._lines) == b""

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """The names and data of events, up to a clean end of the stream."""
        name = "message"
        for line in self._lines:
            if line.startswith(b"event: "):
                name = line.removeprefix(b"event: ").decode()
            elif line.startswith(b"data: "):
                data = json.loads(line.removeprefix(b"data: "))
                assert next(self._lines) == b""
                yield name, data
                name = "message"

    def frame(self) -> Any:
        """The next one that is no problem."""
        return next(data for name, data in self if name == "message")


def test_a_frame_at_once_and_then_one_a_second(strict: Playhead) -> None:
    with Listener(strict) as listener:
        headers = listener.answer.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        # Longer than any request may take there.
        times = [datetime.fromisoformat(listener.frame()["time"]).timestamp() for _ in range(5)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert sum(gap > 0.9 for gap in gaps) >= 3  # one that was late leaves less to the next
        assert times[-1] - times[0] < 4 * SILENCE_S


def test_it_says_what_the_other_answers_say(strict: Playhead) -> None:
    strict.session.put(strict.url + "/v1/movies/live1", json={"title": "Løve & co"})
    slugs = ["live1", "<img src=x onerror=alert(1)>\u2028", "x" * 256]
    with Listener(strict) as listener:
        before = listener.frame()
        hour = datetime.fromisoformat(before["time"]).hour
        for n, slug in enumerate(slugs):
            for at in range(0, 70 - 20 * n, 10):
                strict.post("/", json={"user": f"live{n}", "slug": slug, "at": at})
        stats = strict.get("/v1/stats").json()
        frame = next(
            each for each in iter(listener.frame, None) if each["events"] == stats["events"]
        )
        movies = strict.get("/v1/movies?window=1h&limit=10").json()["movies"]
    assert {name: frame[name] for name in ("users", "movies", "pairs", "watching_now")} == {
        name: stats[name] for name in ("users", "movies", "pairs", "watching_now")
    }
    if datetime.fromisoformat(frame["time"]).hour == hour:  # the top list begins anew with each
        own = [movie for movie in frame["top"] if movie["slug"] in slugs]
        assert own == [
            {name: movie[name] for name in ("slug", "title", "watch_seconds", "watching_now")}
            for movie in movies
            if movie["slug"] in slugs
        ]
        assert [(movie["slug"], movie["title"]) for movie in own] == [
            (slugs[0], "Løve & co"),
            (slugs[1], None),
            (slugs[2], None),
        ]
    assert set(frame) == set(before)


def test_while_a_shard_is_away_it_says_so_and_goes_on(strict: Playhead) -> None:
    shard = strict.children("ShardActor")[0]
    with Listener(strict) as listener:
        listener.frame()
        shard.suspend()
        try:
            problems: list[Any] = []
            while len(problems) < 3:
                name, data = next(iter(listener))
                problems += [data] if name == "problem" else []
        finally:
            shard.resume()
        assert all(problem["status"] == 503 for problem in problems)
        assert all(re.match(r"shard [01] not available: ", one["detail"]) for one in problems)
        listener.frame()


def test_listeners_leave_connections_to_others(strict: Playhead) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX // 2):
            stack.enter_context(Listener(strict)).frame()
        refused = strict.get("/v1/live")
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert strict.get("/healthz").status_code == 200
    eventually(lambda: connections_of(strict) <= 1, "no one listens but who asks")
    with Listener(strict) as listener:
        listener.frame()


def test_a_listener_that_reads_nothing_is_cut(strict: Playhead) -> None:
    for n in range(10):  # long frames fill what the system holds for it sooner
        slug = f"{n}" + "é" * 127
        strict.post("/", json=[{"user": f"stall{n}", "slug": slug, "at": at} for at in (0, 60)])
    (worker,) = strict.children("api.worker")
    with Listener(strict) as listener, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stalled.connect(address_of(strict))
        stalled.sendall(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n")
        listener.frame()
        deadline = time.monotonic() + 90
        while any(c.raddr == stalled.getsockname() for c in worker.net_connections("tcp")):
            listener.frame()  # which the other one does not hold up
            assert time.monotonic() < deadline
