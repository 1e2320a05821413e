"""How long a shard takes from what is on disk to ready: replay, snapshots, kill -9.

`python -m benchmarks.recovery` prints tables and writes benchmarks/results/recovery.json.
Replay and loading are measured in a process of their own each, on one core, with
seconds of the processor beside those of the clock, because machines are shared and
noisy. With `--no-servers` no server is started and killed.
"""

import contextlib
import gc
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
import psutil
import pyarrow as pa
import requests
from cyclopts import Parameter, run
from rich.console import Console
from rich.progress import track
from rich.table import Table

from aggregator import recovery
from aggregator.checkpoint import Folders
from aggregator.event import Event, Part, to_batch
from aggregator.recovery import Recovered
from aggregator.rules import Rules
from aggregator.state import State
from aggregator.warm_up import warm_up
from benchmarks.server import running
from benchmarks.viewers import Viewers
from persistence import log, snapshot
from persistence.batch import NO_SESSIONS, Batch
from persistence.epoch import Epoch
from persistence.files import make_folder
from persistence.log import Log
from persistence.records import Record
from persistence.strings import Strings

RESULTS = Path(__file__).parent / "results" / "recovery.json"
OWNER = "benchmark/1/0"
#: Early in a UTC day.
START_MS = 1_789_963_200_000
USERS, MOVIES = 10_000, 1_000
#: Of a shard with many pairs.
PAIRS_OF_A_USER, PAIRS_MOVIES = 10, 20_000
BATCH_SIZES = (1, 64, 1_000, 10_000)
#: Records that are written with one fsync.
GROUP_RECORDS = 1_000
SEGMENT_BYTES = 64 << 20
#: Events in the log of a server that is killed, and in a request.
SERVER_EVENTS, REQUEST_EVENTS = 200_000, 20_000
RETRY_EVERY_S = 0.02

REPLAY_TARGET = 3_000_000
PAIR_BYTES_TARGET = 128
#: Of ten million pairs.
LOAD_TARGET_S, LOAD_TARGET_PAIRS = 10.0, 10_000_000


class Replay(msgspec.Struct, frozen=True, tag=True):
    """Of a log that has nothing but events, without a snapshot; medians."""

    traffic: str
    events: int
    record_events: int
    event_bytes: float
    events_per_cpu_second: float
    events_per_second: float
    peak_mib: float


class Load(msgspec.Struct, frozen=True, tag=True):
    """Of a snapshot; medians."""

    pairs: int
    cpu_s: float
    wall_s: float
    pair_bytes: float
    pair_bytes_peak: float
    pair_bytes_on_disk: float


class Kill(msgspec.Struct, frozen=True, tag=True):
    """From kill -9 to the next event that is answered with 200; medians."""

    of: str
    seconds: float


class _Cost(msgspec.Struct, frozen=True):
    """What a process of its own took."""

    wall_s: float
    cpu_s: float
    held_bytes: int
    peak_bytes: int


def main(
    *,
    events: int = 1_000_000,
    pairs: Annotated[list[int], Parameter(consume_multiple=True)] | None = None,
    full: bool = False,
    rounds: int = 3,
    servers: bool = True,
) -> None:
    """Measure recovery.

    Parameters
    ----------
    events
        Events in a log; a tenth of it with one event a record.
    pairs
        (user, movie) pairs in a snapshot, once for each to measure; 1,000,000 if not given.
    full
        Also 10,000,000 pairs, for which 10 GB of memory should be free.
    rounds
        Runs of each; their median counts.
    servers
        Whether servers are started and killed.
    """
    results: list[Replay | Load | Kill] = []
    sizes = [*(pairs or [1_000_000]), *([LOAD_TARGET_PAIRS] if full else [])]
    with tempfile.TemporaryDirectory(prefix="playhead-bench-") as folder:
        for has_sessions in (True, False):
            results += measure_replay(Path(folder), events, has_sessions, rounds)
        for size in sizes:
            results.append(_measure_load(Path(folder) / f"pairs-{size}", size, rounds))
        if servers:
            results += _measure_kills(Path(folder) / "data", rounds)
    _report(results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")


# Replay


def measure_replay(folder: Path, events: int, has_sessions: bool, rounds: int) -> Iterator[Replay]:
    name = "with sessions, ids, ts" if has_sessions else "plain"
    received_ms, sent = _traffic(events, has_sessions)
    for size in track(BATCH_SIZES, name, transient=True):
        count = events if size > 1 else events // 10
        logged = folder / f"log-{has_sessions}-{size}"
        _write_log(logged, received_ms[:count], sent[:count], size)
        costs = [_alone(_replay, logged) for _ in range(rounds)]
        file_bytes = sum(path.stat().st_size for path in log.segments(logged / "log"))
        yield Replay(
            name,
            count,
            size,
            file_bytes / count,
            count / statistics.median(cost.cpu_s for cost in costs),
            count / statistics.median(cost.wall_s for cost in costs),
            statistics.median(cost.peak_bytes for cost in costs) / (1 << 20),
        )


def _traffic(events: int, has_sessions: bool) -> tuple[list[int], list[Event]]:
    """What the viewers of `playhead generate` send in real time, and when."""

    def clock_ms() -> int:
        return START_MS + round(viewers.now_s * 1000)

    viewers = Viewers(1, USERS, MOVIES, has_sessions, clock_ms)
    received_ms, sent = [], []
    simulated = islice(viewers, events)
    for _, beat in track(simulated, "simulating viewers", total=events, transient=True):
        received_ms.append(clock_ms())
        sent.append(
            Event(beat.user, beat.slug, beat.at, beat.session, beat.id, beat.ts, beat.duration)
        )
    return received_ms, sent


def _write_log(folder: Path, received_ms: list[int], sent: list[Event], size: int) -> None:
    make_folder(folder)
    epoch = Epoch(folder)
    written = Log(folder / "log", OWNER, epoch, 1, SEGMENT_BYTES)
    group: list[Record] = []
    for number, start in enumerate(range(0, len(sent), size), start=1):
        part = sent[start : start + size]
        payload = to_batch([Part(part)]).encode()
        group.append(Record(number, received_ms[start + len(part) - 1], 1, number, payload))
        if len(group) == GROUP_RECORDS or start + size >= len(sent):
            written.append(group)
            group = []
    written.close()
    epoch.close()


def _replay(folder: Path) -> Recovered:
    return recovery.replayed(Folders.of(folder, 0, OWNER), None, State(Rules()))


# Snapshots


def _measure_load(folder: Path, pairs: int, rounds: int) -> Load:
    with Console().status(f"making {pairs:,} pairs"):
        _alone(_write_snapshot, folder, pairs)
    costs = [
        _alone(_load, folder)
        for _ in track(range(rounds), f"loading {pairs:,} pairs", transient=True)
    ]
    file_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Load(
        pairs,
        statistics.median(cost.cpu_s for cost in costs),
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.held_bytes for cost in costs) / pairs,
        statistics.median(cost.peak_bytes for cost in costs) / pairs,
        file_bytes / pairs,
    )


def _write_snapshot(folder: Path, pairs: int) -> None:
    """Users with so many movies each, three events a pair."""
    random, state, received_ms = np.random.default_rng(1), State(Rules()), START_MS
    slugs = Strings.of([f"movie-{number:05}" for number in range(PAIRS_MOVIES)])
    users = -(-pairs // PAIRS_OF_A_USER)
    stride = PAIRS_MOVIES // PAIRS_OF_A_USER
    for first in range(0, users, 10_000):
        numbers = range(first, min(first + 10_000, users))
        names = Strings.of([f"user-{number:08}" for number in numbers])
        user = np.arange(len(names), dtype=np.int32).repeat(PAIRS_OF_A_USER)
        # One movie of each tenth of them, so that no two are the same.
        tenth = np.tile(np.arange(PAIRS_OF_A_USER), len(names))
        slug = (tenth * stride + random.integers(0, stride, len(user))).astype(np.int32)
        at_ms = random.integers(0, 5_000_000, len(user))
        for _ in range(3):
            batch = Batch(names, slugs, NO_SESSIONS, user, slug, np.zeros_like(user), at_ms)
            state.apply(batch, received_ms)
            at_ms, received_ms = at_ms + 8_000, received_ms + 8_000
    extra = {"state": state.extra(), "received_ms": received_ms, "producers": []}
    snapshot.write(folder, OWNER, 1, state.to_arrow(), extra)


def _load(folder: Path) -> Recovered:
    newest, _ = snapshot.load_newest(folder, OWNER)
    return recovery.load(State(Rules()), newest)


# A process of its own


def _alone(work: Callable[..., Any], *arguments: Any) -> _Cost:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_cost, work, *arguments).result()


def _cost(work: Callable[..., Any], *arguments: Any) -> _Cost:
    warm_up()  # as a shard does before it recovers
    process = psutil.Process()
    before = process.memory_info().rss
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    kept = work(*arguments)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    gc.collect()
    pa.default_memory_pool().release_unused()
    held = process.memory_info().rss - before
    del kept
    return _Cost(wall_s, cpu_s, held, _peak_bytes() - before)


def _peak_bytes() -> int:
    """The most memory that this process had; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


# kill -9


def _measure_kills(data: Path, rounds: int) -> Iterator[Kill]:
    flags = ("serve", "--shards", "1", "--workers", "1", "--data-dir", str(data), "--port")
    of_all = []
    with running("api", *flags) as (url, pid):
        _fill(url)
        rounds_shown = track(range(rounds), "killing the shard", transient=True)
        of_shard = [_kill_shard(url, pid) for _ in rounds_shown]
        _kill_family(pid)
    yield Kill("the shard actor", statistics.median(of_shard))
    for _ in track(range(rounds), "killing everything", transient=True):
        started = time.perf_counter()
        with running("api", *flags) as (url, pid):
            _send_until_taken(url)
            of_all.append(time.perf_counter() - started)
            _kill_family(pid)
    yield Kill("everything, then a start", statistics.median(of_all))


def _fill(url: str) -> None:
    for start in track(range(0, SERVER_EVENTS, REQUEST_EVENTS), "filling", transient=True):
        body = orjson.dumps(
            [
                {"user": f"user-{number % 10_000}", "slug": f"movie-{number % 97}", "at": number}
                for number in range(start, start + REQUEST_EVENTS)
            ]
        )
        requests.post(url, data=body, timeout=60).raise_for_status()


def _kill_shard(url: str, pid: int) -> float:
    started = time.perf_counter()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::ShardActor" in " ".join(process.cmdline()):
                process.kill()
    _send_until_taken(url)
    return time.perf_counter() - started


def _send_until_taken(url: str) -> None:
    event = {"user": "ana", "slug": "film", "at": 10, "id": os.urandom(8).hex()}
    while not requests.post(url, json=event, timeout=60).ok:
        time.sleep(RETRY_EVERY_S)


def _kill_family(pid: int) -> None:
    main_process = psutil.Process(pid)
    family = [*main_process.children(recursive=True), main_process]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family[:-1], timeout=20)


# The tables


def _report(results: list[Replay | Load | Kill]) -> None:
    replays = _headed(
        f"replay of the log, target {REPLAY_TARGET:,} events a second of one core (median)",
        *("events", "a record", "bytes each", "events/s", "of target", "peak MiB"),
    )
    loads = _headed(
        "loading a snapshot (median)",
        *("pairs", "seconds", "target", "bytes a pair", "target", "at peak", "on disk"),
    )
    kills = _headed("kill -9 to the next event taken (median)", "of", "seconds")
    for result in results:
        match result:
            case Replay():
                replays.add_row(
                    result.traffic,
                    f"{result.record_events:,}",
                    f"{result.event_bytes:.1f}",
                    f"{result.events_per_cpu_second:,.0f}",
                    f"{result.events_per_cpu_second / REPLAY_TARGET:.0%}",
                    f"{result.peak_mib:,.0f}",
                )
            case Load():
                loads.add_row(
                    f"{result.pairs:,}",
                    f"{result.wall_s:.2f}",
                    f"≤ {LOAD_TARGET_S * result.pairs / LOAD_TARGET_PAIRS:.1f}",
                    f"{result.pair_bytes:.0f}",
                    f"≤ {PAIR_BYTES_TARGET}",
                    f"{result.pair_bytes_peak:.0f}",
                    f"{result.pair_bytes_on_disk:.1f}",
                )
            case Kill():
                kills.add_row(result.of, f"{result.seconds:.2f}")
    for table in (replays, loads, kills):
        if table.row_count:
            Console().print(table)


def _headed(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    run(main)
