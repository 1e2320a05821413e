"""What a large state costs: throughput and memory by pairs, and time to start."""

import contextlib
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import psutil

from benchmarks import recovery, request_file, subjects, traffic
from benchmarks.bench import Bench, Group, Plan, Step, fill_library
from benchmarks.measurements import Figures
from benchmarks.request_file import RequestFile
from benchmarks.subjects import PLAYHEAD, Subject

PAIRS, PAIRS_QUICK = (100_000, 1_000_000, 10_000_000), (100_000, 1_000_000)
#: How single events and batches of a round are sent: events a request, and connections.
SENT = {"singles": (1, 64), "batches": (1_000, 16)}
#: As many as singles can be at the most.
SINGLES_MAX = 400_000
#: Of the server that is started again.
RECOVERED_PAIRS = 1_000_000
#: In the log that is replayed.
REPLAYED_EVENTS, REPLAYED_EVENTS_QUICK = 1_000_000, 200_000
#: About: filling a million pairs, a start, and all replays of a million events.
FILL_SECONDS, START_SECONDS, REPLAY_SECONDS = 6.0, 8.0, 60.0
#: A checkpoint's process has the state once more for a while; memory is looked at after it.
CHECKPOINT_MODULE, CHECKPOINT_TIMEOUT_S, LOOK_EVERY_S = "aggregator.checkpointer", 300.0, 0.5
MIB = 1 << 20


def pairs(bench: Bench) -> Plan:
    """Playheads with ever more pairs, side by side."""
    sizes = PAIRS_QUICK if bench.is_quick else PAIRS
    libraries = {size: _Library(bench, size) for size in sizes}
    filling = [
        Step(PLAYHEAD, {"sent": "fill", "pairs": size}, seconds, library.fill)
        for size, library in libraries.items()
        if (seconds := START_SECONDS + FILL_SECONDS * size / 1_000_000)
    ]
    return [
        Group(filling, rounds=1),
        *(
            bench.rounds_of(
                bench.step(PLAYHEAD, {"sent": sent, "pairs": size}, partial(library.load, sent))
                for size, library in libraries.items()
            )
            for sent in SENT
        ),
    ]


class _Library:
    """A playhead of its own with so many pairs, from `fill` on."""

    def __init__(self, bench: Bench, size: int) -> None:
        self._bench = bench
        self._size = size

    def fill(self) -> Figures:
        """Its memory afterwards, of all processes and of the shard alone."""
        self._subject = self._bench.own_playhead()
        empty = self._subject.memory_bytes()
        empty_shard = subjects.memory_of(self._subject.shards())
        started_s = time.monotonic()
        fill_library(self._subject.url, self._size)
        seconds = time.monotonic() - started_s
        _await_checkpoint(self._subject)
        full = self._subject.memory_bytes()
        shard = subjects.memory_of(self._subject.shards())
        return {
            "events_per_second": 2 * self._size / seconds,
            "memory_mib": full / MIB,
            "shard_mib": shard / MIB,
            "bytes_a_pair": full / self._size,
            "shard_bytes_a_pair": shard / self._size,
            "added_bytes_a_pair": (full - empty) / self._size,
            "shard_added_bytes_a_pair": (shard - empty_shard) / self._size,
        }

    def load(self, sent: str) -> Figures:
        size, connections = SENT[sent]
        load = self._bench.loaded if size == 1 else self._bench.loaded_in_batches
        return load(self._subject, self._requests(sent), connections)

    def _requests(self, sent: str) -> RequestFile:
        size, _ = SENT[sent]

        def make() -> Iterator[bytes]:
            events = traffic.library_traffic(self._size)
            if size == 1:
                return map(request_file.post, traffic.singles(events[:SINGLES_MAX]))
            return map(request_file.post, traffic.bodies(events, "JSON", size))

        return self._bench.file(f"library-{self._size}-{sent}", make, size)


def _await_checkpoint(subject: Subject) -> None:
    """Returns when none is being made."""
    deadline = time.monotonic() + CHECKPOINT_TIMEOUT_S
    while any(map(_makes_checkpoint, subject.processes())) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)


def _makes_checkpoint(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return CHECKPOINT_MODULE in " ".join(process.cmdline())
    return False


def start(bench: Bench) -> Plan:
    """Until it is ready: without data, with a snapshot; and replaying a log, on one core."""
    pairs = PAIRS_QUICK[0] if bench.is_quick else RECOVERED_PAIRS
    events = REPLAYED_EVENTS_QUICK if bench.is_quick else REPLAYED_EVENTS

    @cache
    def filled() -> Path:
        folder = bench.new_folder()
        with subjects.playhead(folder) as subject:
            fill_library(subject.url, pairs)
        return folder

    @cache
    def replays() -> dict[int, float]:
        measured = recovery.measure_replay(bench.new_folder(), events, False, bench.rounds)
        return {replay.record_events: replay.events_per_cpu_second for replay in measured}

    def replayed(size: int) -> Figures:
        return {"events_per_second": replays()[size]}

    def started(folder: Path) -> Figures:
        began_s = time.monotonic()
        with subjects.playhead(folder):
            return {"seconds": time.monotonic() - began_s}

    starts = (
        ("start, empty", lambda: started(bench.new_folder())),
        (f"start, {pairs:,} pairs", lambda: started(filled())),
    )
    replaying = [
        Step(
            PLAYHEAD,
            {"of": f"replay, records of {size:,}"},
            REPLAY_SECONDS * events / REPLAYED_EVENTS / len(recovery.BATCH_SIZES),
            partial(replayed, size),
        )
        for size in recovery.BATCH_SIZES
    ]
    return [
        bench.rounds_of(Step(PLAYHEAD, {"of": of}, START_SECONDS, go) for of, go in starts),
        Group(replaying, rounds=1),
    ]
