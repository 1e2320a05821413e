"""Single events a second, each answered after fsync, beside an empty handler in the same run.

`make bench` prints a table and writes benchmarks/results/throughput.json. Rounds
of the subjects are interleaved, and medians and ratios of them compared, because
machines are shared and noisy. Needs wrk (https://github.com/wg/wrk).
"""

import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter, run
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.server import running

FOLDER = Path(__file__).parent
#: Not measured: caches fill, wrk's connections open.
WARM_UP_S = 2


class Measurement(msgspec.Struct, frozen=True):
    """One round of one subject."""

    subject: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def throughput(
    *,
    connections: Annotated[list[int], Parameter(consume_multiple=True)] | None = None,
    rounds: int = 3,
    seconds: int = 5,
) -> None:
    """Measure POST / with one event a request.

    Parameters
    ----------
    connections
        Open connections, a column of the table each; 1, 16, 64 and 256 if not given.
    rounds
        Rounds of each subject; their median counts.
    seconds
        How long a round lasts.
    """
    if shutil.which("wrk") is None:
        sys.exit("throughput: wrk is missing; install it (Debian: apt install wrk)")
    connections = connections or [1, 16, 64, 256]
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="playhead-bench-"))
        urls = {
            "ceiling": stack.enter_context(running("benchmarks.ceiling"))[0],
            "playhead": stack.enter_context(running("api", "serve", "--data-dir", data, "--port"))[
                0
            ],
        }
        for url in urls.values():
            _wrk(url, 64, WARM_UP_S)
        plan = [(c, subject) for c in connections for _ in range(rounds) for subject in urls]
        measured = [
            _measure(subject, urls[subject], count, seconds)
            for count, subject in track(plan, "measuring", transient=True)
        ]
    _report(measured, connections)


def _measure(subject: str, url: str, connections: int, seconds: int) -> Measurement:
    said = _wrk(url, connections, seconds)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return Measurement(
        subject,
        connections,
        float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]),
        _milliseconds(re.findall(r"50%\s+([\d.]+)(us|ms|s)", said)[0]),
        _milliseconds(re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)[0]),
        int(failed[1]) if failed else 0,
    )


def _wrk(url: str, connections: int, seconds: int) -> str:
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--latency"]
    command += ["--duration", f"{seconds}s", "--script", str(FOLDER / "event.lua"), url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def _milliseconds(latency: tuple[str, str]) -> float:
    number, unit = latency
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _report(measured: list[Measurement], connections: list[int]) -> None:
    table = Table(title="single events, requests/s (median)", title_justify="left")
    for heading in (
        "connections",
        "empty handler",
        "playhead",
        "ratio",
        "p50 ms",
        "p99 ms",
        "errors",
    ):
        table.add_column(heading, justify="right")
    for count in connections:
        rounds = [m for m in measured if m.connections == count]
        ceiling = [m for m in rounds if m.subject == "ceiling"]
        playhead = [m for m in rounds if m.subject == "playhead"]
        most = statistics.median(m.requests_per_second for m in ceiling)
        reached = statistics.median(m.requests_per_second for m in playhead)
        table.add_row(
            f"{count:,}",
            f"{most:,.0f}",
            f"{reached:,.0f}",
            f"{reached / most:.2f}",
            f"{statistics.median(m.p50_ms for m in playhead):.2f}",
            f"{statistics.median(m.p99_ms for m in playhead):.2f}",
            str(sum(m.errors for m in playhead)),
        )
    Console().print(table)
    results = FOLDER / "results" / "throughput.json"
    results.parent.mkdir(exist_ok=True)
    results.write_bytes(msgspec.json.format(msgspec.json.encode(measured)) + b"\n")


if __name__ == "__main__":
    run(throughput)
