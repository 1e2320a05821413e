"""What a single event waits for while a checkpoint of a million pairs is made, and while none is.

Events come at a fixed rate, whether or not earlier ones were answered, and wait from
the moment at which they were due: so a stall counts for all that come in it.
`python -m benchmarks.checkpoints` prints a table, of one run on one machine.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import orjson
import psutil
import requests
from cyclopts import run
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.latencies import Latencies
from benchmarks.server import running

BATCH = 20_000
MOVIES = 1_000
#: Between looks at whether a checkpoint is being made.
LOOK_EVERY_S = 0.1
#: Not measured: connections open, caches fill.
WARM_UP_S = 3.0
TARGET = 2.0


@dataclass(slots=True)
class _Waits:
    """Of events that were due while none was made, and while one was."""

    quiet: Latencies = field(default_factory=Latencies)
    busy: Latencies = field(default_factory=Latencies)
    checkpoints: int = 0
    busy_s: float = 0.0


def checkpoints(
    *, pairs: int = 1_000_000, rate: int = 300, seconds: float = 60.0, interval_s: float = 10.0
) -> None:
    """Measure single events during checkpoints and between them.

    Parameters
    ----------
    pairs
        (user, movie) pairs in the state.
    rate
        Events a second.
    seconds
        How long events come.
    interval_s
        Between the checkpoints.
    """
    flags = ["--shards", "1", "--workers", "1", "--snapshot-interval-s", str(interval_s)]
    with (
        tempfile.TemporaryDirectory(prefix="playhead-bench-") as data,
        running("api", "serve", *flags, "--data-dir", data, "--port") as (url, pid),
    ):
        for body in track(_fill(pairs), "filling", total=-(-pairs // BATCH), transient=True):
            requests.post(url, data=body, timeout=60).raise_for_status()
        waits = asyncio.run(_measure(url, pid, rate, seconds))
    _report(waits, pairs, rate)


def _fill(pairs: int) -> Iterator[bytes]:
    for start in range(0, pairs, BATCH):
        yield orjson.dumps(
            [
                {"user": f"user-{pair // 10:08}", "slug": f"movie-{pair % MOVIES:05}", "at": at}
                for pair in range(start, min(start + BATCH, pairs))
                for at in (10,)
            ]
        )


async def _measure(url: str, pid: int, rate: int, seconds: float) -> _Waits:
    waits = _Waits()
    is_busy = asyncio.Event()
    watching = asyncio.create_task(_watch(pid, is_busy, waits))
    random = np.random.default_rng(1)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        started = time.monotonic()
        for number in track(range(int(rate * seconds)), "measuring", transient=True):
            due_s = started + number / rate
            await asyncio.sleep(max(due_s - time.monotonic(), 0))
            event = {"user": f"user-{random.integers(100_000):08}", "slug": "movie-00007", "at": 20}
            is_counted = due_s > started + WARM_UP_S
            group.create_task(_send(session, url, event, due_s, is_busy, waits, is_counted))
    watching.cancel()
    return waits


async def _send(
    session: aiohttp.ClientSession,
    url: str,
    event: dict[str, object],
    due_s: float,
    is_busy: asyncio.Event,
    waits: _Waits,
    is_counted: bool,
) -> None:
    latencies = waits.busy if is_busy.is_set() else waits.quiet
    async with session.post(url, json=event) as response:
        response.raise_for_status()
        await response.read()
    if is_counted:
        latencies.add(time.monotonic() - due_s)


async def _watch(pid: int, is_busy: asyncio.Event, waits: _Waits) -> None:
    """A checkpoint is made as long as the process that makes it lives."""
    while True:
        makers = [p for p in _family(pid) if "aggregator.checkpointer" in p]
        if makers and not is_busy.is_set():
            waits.checkpoints += 1
        is_busy.set() if makers else is_busy.clear()
        waits.busy_s += LOOK_EVERY_S * bool(makers)
        await asyncio.sleep(LOOK_EVERY_S)


def _family(pid: int) -> list[str]:
    """The command lines of the processes of a server."""
    lines = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return lines


def _report(waits: _Waits, pairs: int, rate: int) -> None:
    title = f"single events, {rate} a second, {pairs:,} pairs, {waits.checkpoints} checkpoints"
    table = Table(title=title, title_justify="left")
    for heading in ("percentile", "between checkpoints, ms", "during one, ms", "ratio", "target"):
        table.add_column(heading, justify="right")
    for percent in (50.0, 90.0, 99.0, 99.9):
        quiet, busy = (each.percentile_s(percent) for each in (waits.quiet, waits.busy))
        target = f"≤ {TARGET:.0f}" if percent == 99.0 else ""
        table.add_row(
            f"{percent:g}", f"{quiet * 1e3:.1f}", f"{busy * 1e3:.1f}", f"{busy / quiet:.1f}", target
        )
    Console().print(table)


if __name__ == "__main__":
    run(checkpoints)
