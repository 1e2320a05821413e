"""Requests at a fixed rate, whether or not earlier ones were answered.

Each is timed from the moment at which it was due, so what waits because the server
stalls counts with all of its wait; wrk, which sends when it has an answer, would
leave that out. `python -m benchmarks.open_loop URL FILE RATE` prints an `Outcome`,
and before it a line as soon as it sends.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import cyclopts
import msgspec
import uvloop
from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from benchmarks.connection import Connection, connect, is_good
from benchmarks.latencies import Latencies
from benchmarks.request_file import read_forever

#: The line that the process says before it sends; the last is its outcome.
BEGINNING = "sending"
#: Between looks at what is due.
TICK_S = 0.001
#: Not counted: the server's caches fill.
WARM_UP_S = 1.0
#: After the last request is due; what has no answer by then counts with the wait so far.
GRACE_S = 10.0


class Outcome(msgspec.Struct, frozen=True):
    """Of all requests that were due after the warm-up; latencies from when they were due."""

    requests: int
    #: Of another status than 2xx, unanswered, or on a connection that broke.
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    #: How far behind the clock requests were sent for which a connection was free.
    late_p99_ms: float
    #: Of one core, that this process took.
    cpu_share: float


class OpenLoop:
    """Sends `rate` requests a second; use once, in a running event loop."""

    def __init__(
        self, requests: Iterator[bytes], rate: float, seconds: float, warm_up_s: float = WARM_UP_S
    ) -> None:
        self._requests = requests
        self._rate = rate
        self._total = round(rate * (warm_up_s + seconds))
        self._warm_up_s = warm_up_s
        self._latencies, self._lateness = Latencies(), Latencies()
        self._counted = self._errors = 0
        self._due = 0
        self._ended = 0
        self._free: deque[Connection] = deque()
        self._open = 0
        # When those were due that wait for a connection.
        self._waiting: deque[float] = deque()

    async def run(self, host: str, port: int, connections: int) -> Outcome:
        """Returns when all have been answered, or given up.

        Raises `ConnectionError` when no connection is left to send on.
        """
        self._all_ended = asyncio.get_running_loop().create_future()
        opened = await connect(self, host, port, connections)
        self._free.extend(opened)
        self._open = len(opened)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        self._start_s, self._counted_from_s = started_s, started_s + self._warm_up_s
        self._tick()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended, self._total / self._rate + GRACE_S)
        cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - started_s)
        self._give_up(opened)
        return self._outcome(cpu_share)

    def _tick(self) -> None:
        now_s = time.perf_counter()
        while self._due < self._total:
            due_s = self._start_s + self._due / self._rate
            if due_s > now_s:
                asyncio.get_running_loop().call_later(TICK_S, self._tick)
                return
            self._due += 1
            if self._free:
                self._send(self._free.popleft(), due_s)
                self._lateness.add(time.perf_counter() - due_s)
            else:
                self._waiting.append(due_s)

    def _send(self, connection: Connection, due_s: float) -> None:
        connection.send(next(self._requests), due_s)

    def answered(self, connection: Connection, due_s: float, status: int) -> None:
        """The connection is free for what waits, or will be due."""
        self._end(due_s, is_good=is_good(status))
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: Connection, due_s: float | None) -> None:
        """Its request was due then, if it had one; the others go on."""
        if due_s is not None:
            self._end(due_s, is_good=False)
        with suppress(ValueError):
            self._free.remove(connection)
        self._open -= 1
        if not self._open and not self._all_ended.done():
            self._all_ended.set_exception(ConnectionError("the server closed all connections"))

    def _end(self, due_s: float, is_good: bool) -> None:
        if due_s >= self._counted_from_s:
            self._latencies.add(time.perf_counter() - due_s)
            self._counted += 1
            self._errors += not is_good
        self._ended += 1
        if self._ended == self._total and not self._all_ended.done():
            self._all_ended.set_result(None)

    def _give_up(self, opened: list[Connection]) -> None:
        """Counts what has no answer, with its wait so far."""
        for due_s in self._waiting:
            self._end(due_s, is_good=False)
        for connection in opened:
            connection.abandon()

    def _outcome(self, cpu_share: float) -> Outcome:
        p50_ms, p99_ms, p999_ms = (
            self._latencies.percentile_s(percent) * 1000 for percent in (50, 99, 99.9)
        )
        late_p99_ms = self._lateness.percentile_s(99) * 1000
        return Outcome(self._counted, self._errors, p50_ms, p99_ms, p999_ms, late_p99_ms, cpu_share)


def main(
    url: str,
    requests: Path,
    rate: PositiveFloat,
    *,
    offset: int = 0,
    connections: PositiveInt = 256,
    seconds: PositiveFloat = 10.0,
    warm_up_s: Annotated[float, Parameter(name="--warm-up-s")] = WARM_UP_S,
) -> None:
    """Send requests at a fixed rate, and print how long their answers took.

    Parameters
    ----------
    url
        The server; of its address only host and port count.
    requests
        A file of requests, sent over and over.
    rate
        Requests a second.
    offset
        Where in the file to begin.
    connections
        Connections, each with one request at a time.
    seconds
        How long requests count.
    warm_up_s
        How long requests are sent before that.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    sending = OpenLoop(read_forever(requests, offset), rate, seconds, warm_up_s)
    gc.disable()  # a request leaves no cycles behind
    print(BEGINNING, flush=True)
    outcome = uvloop.run(sending.run(address.hostname, address.port or 80, connections))
    print(msgspec.json.encode(outcome).decode())


if __name__ == "__main__":
    cyclopts.run(main)
