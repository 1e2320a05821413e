"""What each operation costs in core seconds, memory and disk, measured in a few minutes."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import psutil
import requests

from benchmarks import load, queries, request_file, shard_costs, subjects, traffic
from benchmarks.bench import FILL_EVENTS, fill
from benchmarks.demand import Costs
from benchmarks.load import Throughput
from benchmarks.request_file import RequestFile
from benchmarks.shard_costs import FrameCost
from benchmarks.subjects import Subject

#: Of single events and questions, and of requests of many events.
CONNECTIONS, BATCH_CONNECTIONS = 64, 4
LOAD_S, ALONE_S = 5, 3
#: Format, and events a request.
BATCHES = {"json_event_s": ("JSON", 1_000), "arrow_event_s": ("Arrow", 10_000)}
SINGLES_MAX = 300_000
#: Files that are synced at the same time, as by the shards of a machine.
SYNCED_FILES, SYNCED_BYTES, SYNC_S = 8, 4_096, 1.0
WORKER_MODULE = "api.worker"
#: What is measured, one after the other, and about how many seconds each takes.
DISK, WORKERS, FRAMES, KEPT = "the disk", "an HTTP worker", "frames of a shard", "what is kept"
SECONDS = {DISK: 3.0, WORKERS: 50.0, FRAMES: 30.0, KEPT: 40.0}


#: Is told what begins now, and about how many seconds it takes.
Begin = Callable[[str, float], None]


class Measured(msgspec.Struct, frozen=True):
    """All that was measured; `syncs_alone_per_s` are of one file."""

    costs: Costs
    frames: list[FrameCost]
    syncs_alone_per_s: float


def measure(folder: Path, begin: Begin) -> Measured:
    """Measures everything."""
    begin(DISK, SECONDS[DISK])
    alone, together = syncs_per_second(folder, 1), syncs_per_second(folder, SYNCED_FILES)
    begin(WORKERS, SECONDS[WORKERS])
    found = worker_costs(folder)
    begin(FRAMES, SECONDS[FRAMES])
    of_frames, frames = shard_costs.frame_costs(folder / "frames")
    begin(KEPT, SECONDS[KEPT])
    found |= of_frames | shard_costs.kept_costs(folder / "kept") | {"syncs_per_s": together}
    return Measured(Costs(**found), frames, alone)


# The disk


def syncs_per_second(folder: Path, files: int) -> float:
    """fdatasyncs a second of so many files at the same time, each after a small write."""
    until_s = time.monotonic() + SYNC_S
    with ThreadPoolExecutor(files) as pool:
        paths = [folder / f"synced-{number}" for number in range(files)]
        return sum(pool.map(partial(_syncs, until_s), paths)) / SYNC_S


def _syncs(until_s: float, path: Path) -> int:
    count, block = 0, os.urandom(SYNCED_BYTES)
    with path.open("wb", buffering=0) as file:
        while time.monotonic() < until_s:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count


# The HTTP worker


def worker_costs(folder: Path) -> dict[str, float]:
    """The `Costs` of a worker, and of a process that has nothing yet."""
    data = folder / "data"
    data.mkdir()
    with subjects.playhead(data, *subjects.ONE_OF_EACH) as subject:
        (worker,) = workers_of(subject)
        process_bytes = subjects.memory_of([worker, *subject.shards()]) / 2
        fill(subject.url, traffic.players(1), FILL_EVENTS)
        measuring = _Worker(subject, worker, folder)
        return {
            "process_bytes": process_bytes,
            **measuring.singles(),
            "read_s": measuring.reads(),
            **{name: measuring.batches(*batch) for name, batch in BATCHES.items()},
        }


def workers_of(subject: Subject) -> list[psutil.Process]:
    """The HTTP workers of a playhead."""
    return [each for each in subject.processes() if WORKER_MODULE in " ".join(each.cmdline())]


def cpu_seconds(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


class _Worker:
    """A server's one HTTP worker, and what it uses."""

    def __init__(self, subject: Subject, process: psutil.Process, folder: Path) -> None:
        self._subject = subject
        self._process = process
        self._folder = folder

    def singles(self) -> dict[str, float]:
        """From requests that have a frame each, and from such that share them."""
        events = traffic.players()[:SINGLES_MAX]
        sent = self._file("singles", map(request_file.post, traffic.singles(events)))
        measured = [self._single_events(sent, 1, ALONE_S)]
        measured.append(self._single_events(sent, CONNECTIONS, LOAD_S))
        counts = [[count, frames] for count, frames, _ in measured]
        request_s, frame_s = shard_costs.shares(counts, [cpu_s for _, _, cpu_s in measured])
        return {"request_s": request_s, "worker_frame_s": frame_s}

    def _single_events(
        self, sent: RequestFile, connections: int, seconds: int
    ) -> tuple[int, int, float]:
        """Requests, frames, and core seconds."""
        frames, cpu_s = self._frames(), cpu_seconds(self._process)
        result = _checked(load.wrk(self._subject.url, sent, connections, seconds))
        return result.requests, self._frames() - frames, cpu_seconds(self._process) - cpu_s

    def reads(self) -> float:
        """Core seconds of a question about a pair."""
        sent = self._file("reads", islice(queries.QUERIES["progress"](), SINGLES_MAX))
        cpu_s = cpu_seconds(self._process)
        result = _checked(load.wrk(self._subject.url, sent, CONNECTIONS, LOAD_S))
        return (cpu_seconds(self._process) - cpu_s) / result.requests

    def batches(self, format: str, size: int) -> float:
        """Core seconds of an event."""
        bodies = traffic.bodies(traffic.players(), format, size)
        content_type = traffic.FORMATS[format]
        sent = self._file(format, (request_file.post(body, content_type) for body in bodies))
        cpu_s = cpu_seconds(self._process)
        result = load.until_answered(self._subject.url, sent, BATCH_CONNECTIONS, LOAD_S)
        if result.errors:
            raise RuntimeError(f"{result.errors} requests of {format} failed")
        return (cpu_seconds(self._process) - cpu_s) / (result.requests * size)

    def _file(self, name: str, requests: Iterable[bytes]) -> RequestFile:
        return request_file.write(self._folder / f"{name}.requests", requests)

    def _frames(self) -> int:
        """That the shard has had."""
        stats = requests.get(f"{self._subject.url}/v1/stats", timeout=10).json()
        return int(stats["shards"][0]["log_sequence"])


def _checked(result: Throughput) -> Throughput:
    if result.errors:
        raise RuntimeError(f"{result.errors} requests failed")
    return result
