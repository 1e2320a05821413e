"""A shard in a process of its own, on the socket that it has in a server, without Ray.

`python -m benchmarks.shard_process FOLDER` says "ready", and ends when its standard
input closes: at once, as if it was killed.
"""

import asyncio
import contextlib
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cyclopts
import msgspec
import psutil
import uvloop

from aggregator import shard as shard_module
from aggregator import warm_up, wire
from aggregator.lane import Lane, QueueLimits
from aggregator.messages import QUERIES
from aggregator.rules import HOURS_KEPT_DAYS, Rules
from aggregator.shard import Shard
from aggregator.shard_settings import ShardSettings
from persistence.log import Log
from persistence.records import Record

#: Besides the frames of a shard: what it used, answered by a `Usage`; and a checkpoint, now.
USAGE, CHECKPOINT = b"?", b"!"
SEGMENT_BYTES = 64 << 20
#: None is made but on demand.
NEVER_BYTES, NEVER_S = 1 << 40, 1e9


class Usage(msgspec.Struct, frozen=True):
    """Since the process began. `peak_bytes` is the most memory since the last time asked."""

    cpu_s: float
    #: Of that, until it had recovered.
    recovery_cpu_s: float
    rss_bytes: int
    peak_bytes: int
    #: Groups written and synced, and how long that took on the clock.
    commits: int
    disk_s: float

    def since(self, before: "Usage") -> "Usage":
        """What was used after `before`; of memory, what there is."""
        return msgspec.structs.replace(
            self,
            cpu_s=self.cpu_s - before.cpu_s,
            commits=self.commits - before.commits,
            disk_s=self.disk_s - before.disk_s,
        )


@dataclass(frozen=True, slots=True)
class ShardProcess:
    """One that runs."""

    folder: Path

    async def connect(self) -> wire.Connection:
        return await wire.connect(str(_socket(self.folder)))

    async def usage(self) -> Usage:
        return msgspec.msgpack.decode(await self._ask(USAGE), type=Usage)

    async def checkpoint(self) -> None:
        await self._ask(CHECKPOINT)

    async def _ask(self, what: bytes) -> bytes:
        connection = await self.connect()
        try:
            return await connection.call(what)
        finally:
            connection.close()


@contextlib.contextmanager
def shard_process(folder: Path) -> Iterator[ShardProcess]:
    """Recovers what is in `folder`; it is killed at the end, and leaves its log."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __name__, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603
        try:
            if not process.stdout.readline():
                sys.exit("a shard did not start")
            yield ShardProcess(folder)
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def lanes_to(
    processes: Sequence[ShardProcess],
    call: Callable[[wire.Connection, bytes], Awaitable[bytes]] = wire.Connection.call,
) -> AsyncIterator[list[Lane]]:
    """A lane to each, on a connection of its own; `call` has each frame answered."""
    connections = [await process.connect() for process in processes]
    lanes = [
        Lane(number, partial(call, connection), QueueLimits())
        for number, connection in enumerate(connections)
    ]
    try:
        yield lanes
    finally:
        for lane, connection in zip(lanes, connections, strict=True):
            await lane.close()
            connection.close()


class _CountedLog(Log):
    """Knows how often it was written to, and how long that took."""

    commits = 0
    disk_s = 0.0

    def append(self, records: Sequence[Record]) -> None:
        started_s = time.perf_counter()
        super().append(records)
        _CountedLog.disk_s += time.perf_counter() - started_s
        _CountedLog.commits += 1


def main(folder: Path) -> None:
    """Serve a shard until standard input closes.

    Parameters
    ----------
    folder
        Where it keeps its data, and has its socket.
    """
    uvloop.run(_serve(folder))


async def _serve(folder: Path) -> None:
    warm_up.warm_up()
    began_s = time.process_time()
    with patch.object(shard_module, "Log", _CountedLog):
        shard = Shard(_settings(folder))
    recovery_cpu_s = time.process_time() - began_s
    gc.freeze()

    async def checkpoint(respond: wire.Respond) -> None:
        await shard.checkpoint()
        respond(_usage(recovery_cpu_s))

    tasks: list[asyncio.Task[None]] = []

    def receive(frame: bytes, respond: wire.Respond) -> None:
        if frame == USAGE:
            respond(_usage(recovery_cpu_s))
        elif frame == CHECKPOINT:
            tasks.append(asyncio.create_task(checkpoint(respond)))
        elif frame[:1] == QUERIES:
            respond(shard.answer(frame))
        else:
            shard.receive(frame, respond)

    server = await wire.serve(_socket(folder), receive)
    print("ready", flush=True)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), os._exit, 0)
    await server.serve_forever()


def _settings(folder: Path) -> ShardSettings:
    """As those of a server, but for checkpoints."""
    return ShardSettings(
        number=0,
        folder=folder / "shard-0000",
        owner="benchmark/1/0",
        rules=Rules(),
        hours_kept_days=HOURS_KEPT_DAYS,
        snapshot_log_bytes=NEVER_BYTES,
        snapshot_interval_s=NEVER_S,
        segment_bytes=SEGMENT_BYTES,
        erase_delay_s=NEVER_S,
    )


def _usage(recovery_cpu_s: float) -> bytes:
    status = Path("/proc/self/status").read_text()
    peak_kib = re.findall(r"VmHWM:\s+(\d+) kB", status)[0]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    usage = Usage(
        cpu_s=time.process_time(),
        recovery_cpu_s=recovery_cpu_s,
        rss_bytes=psutil.Process().memory_info().rss,
        peak_bytes=int(peak_kib) * 1024,
        commits=_CountedLog.commits,
        disk_s=_CountedLog.disk_s,
    )
    return msgspec.msgpack.encode(usage)


def _socket(folder: Path) -> Path:
    return folder / "socket"


if __name__ == "__main__":
    cyclopts.run(main)
