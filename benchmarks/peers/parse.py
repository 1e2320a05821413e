"""What parsing alone would allow: `orjson.loads` of the same bodies, in a loop, on one core."""

import subprocess
import sys
import time
from itertools import cycle

import msgspec
import orjson


class Work(msgspec.Struct, frozen=True):
    """What the process that parses gets on its standard input, as MessagePack."""

    bodies: list[bytes]
    seconds: float


def events_per_second(bodies: list[bytes], events_each: int, seconds: float) -> float:
    """Of JSON bodies with `events_each` events, parsed in a process of its own for `seconds`."""
    command = [sys.executable, "-m", "benchmarks.peers.parse"]
    work = msgspec.msgpack.encode(Work(bodies, seconds))
    said = subprocess.run(command, input=work, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603
    return float(said) * events_each


def parsed_per_second(work: Work) -> float:
    bodies, parsed, elapsed_s = cycle(work.bodies), 0, 0.0
    started_s = time.perf_counter()
    while elapsed_s < work.seconds:
        orjson.loads(next(bodies))
        parsed += 1
        elapsed_s = time.perf_counter() - started_s
    return parsed / elapsed_s


if __name__ == "__main__":
    print(parsed_per_second(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Work)))
