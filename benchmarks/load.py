"""Load on a subject, from a process of its own: as fast as it answers, or at a fixed rate."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import closed_loop, open_loop
from benchmarks.request_file import RequestFile

SCRIPT = Path(__file__).parent / "wrk" / "requests.lua"
#: Longer is an error; a server that is merely busy answers within.
TIMEOUT_S = 10
#: A load that takes so much longer than it should hangs.
HUNG_S = 120


class Throughput(msgspec.Struct, frozen=True):
    """What wrk says: `errors` are answers other than 2xx and 3xx, none, and lost connections."""

    requests: int
    duration_us: int
    errors: int
    p50_us: int
    p99_us: int
    p999_us: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_us * 1e6


def wrk(
    url: str, requests: RequestFile, connections: int, seconds: int, first: int = 0
) -> Throughput:
    """The next request on each connection when the last was answered, from number `first` on."""
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{TIMEOUT_S}s"]
    command += ["--script", str(SCRIPT), url, "--"]
    command += [str(requests.path), str(requests.offset(first))]
    return msgspec.json.decode(_last_line(command, seconds), type=Throughput)


def until_answered(
    url: str, requests: RequestFile, connections: int, seconds: int, first: int = 0
) -> closed_loop.Outcome:
    """As `wrk`, for few and large requests: also the last on each connection count."""
    command = [sys.executable, "-m", closed_loop.__name__, url, str(requests.path)]
    command += ["--offset", str(requests.offset(first)), "--connections", str(connections)]
    command += ["--seconds", str(seconds)]
    return msgspec.json.decode(_last_line(command, seconds), type=closed_loop.Outcome)


def at_rate(
    url: str, requests: RequestFile, rate: float, seconds: int, first: int = 0
) -> open_loop.Outcome:
    """So many requests a second, on as many connections as it takes."""
    command = [*_open_loop(url, requests, rate, first), "--seconds", str(seconds)]
    return msgspec.json.decode(_last_line(command, seconds), type=open_loop.Outcome)


@contextlib.contextmanager
def beside(url: str, requests: RequestFile, rate: float, first: int = 0) -> Iterator[None]:
    """So many requests a second from the beginning of the context to its end."""
    command = [*_open_loop(url, requests, rate, first), "--seconds", "3600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def _last_line(command: list[str], seconds: int) -> str:
    timeout_s = seconds + HUNG_S
    ran = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_s
    )
    return ran.stdout.splitlines()[-1]


def _open_loop(url: str, requests: RequestFile, rate: float, first: int) -> list[str]:
    command = [sys.executable, "-m", open_loop.__name__, url, str(requests.path)]
    return [*command, str(rate), "--offset", str(requests.offset(first))]
