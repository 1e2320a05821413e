"""Requests one after the other on each connection, for a while, and all of them answered.

As wrk does, but what is under way at the end counts too, with the time that it takes:
of batches that take a second there are few, and wrk would leave out the last of each
connection. `python -m benchmarks.closed_loop URL FILE` prints an `Outcome`.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import cyclopts
import msgspec
import uvloop
from cyclopts.types import PositiveFloat, PositiveInt

from benchmarks.connection import Connection, connect, is_good
from benchmarks.latencies import Latencies
from benchmarks.request_file import read_forever


class Outcome(msgspec.Struct, frozen=True):
    """`seconds` are from the first request to the last answer."""

    requests: int
    #: Of another status than 2xx, or on a connection that broke.
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    #: Of one core, that this process took.
    cpu_share: float

    @property
    def per_second(self) -> float:
        """Good ones."""
        return (self.requests - self.errors) / self.seconds


class ClosedLoop:
    """Sends for `seconds`; use once, in a running event loop."""

    def __init__(self, requests: Iterator[bytes], seconds: float) -> None:
        self._requests = requests
        self._seconds = seconds
        self._latencies = Latencies()
        self._ended = self._errors = self._under_way = 0
        self._all_ended = asyncio.Event()

    async def run(self, host: str, port: int, connections: int) -> Outcome:
        """Returns when all have been answered."""
        opened = await connect(self, host, port, connections)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        self._until_s = started_s + self._seconds
        for connection in opened:
            self._under_way += 1
            self._send(connection)
        await self._all_ended.wait()
        seconds = time.perf_counter() - started_s
        cpu_share = (time.process_time() - cpu_s) / seconds
        p50_ms, p99_ms = (self._latencies.percentile_s(percent) * 1000 for percent in (50, 99))
        outcome = Outcome(self._ended, self._errors, seconds, p50_ms, p99_ms, cpu_share)
        for connection in opened:
            connection.abandon()
        return outcome

    def _send(self, connection: Connection) -> None:
        connection.send(next(self._requests), time.perf_counter())

    def answered(self, connection: Connection, since_s: float, status: int) -> None:
        """Goes on with the next."""
        now_s = time.perf_counter()
        self._latencies.add(now_s - since_s)
        self._ended += 1
        self._errors += not is_good(status)
        if now_s < self._until_s:
            self._send(connection)
        else:
            self._end()

    def lost(self, _: Connection, since_s: float | None) -> None:
        """The others go on."""
        if since_s is not None:
            self._ended += 1
            self._errors += 1
            self._end()

    def _end(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._all_ended.set()


def main(
    url: str,
    requests: Path,
    *,
    offset: int = 0,
    connections: PositiveInt = 16,
    seconds: PositiveFloat = 10.0,
) -> None:
    """Send requests as fast as they are answered, and print how many that were.

    Parameters
    ----------
    url
        The server; of its address only host and port count.
    requests
        A file of requests, sent over and over.
    offset
        Where in the file to begin.
    connections
        Connections, each with one request at a time.
    seconds
        How long new requests are sent.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    sending = ClosedLoop(read_forever(requests, offset), seconds)
    gc.disable()  # a request leaves no cycles behind
    outcome = uvloop.run(sending.run(address.hostname, address.port or 80, connections))
    print(msgspec.json.encode(outcome).decode())


if __name__ == "__main__":
    cyclopts.run(main)
