"""What the model says of a shard, of a server, and of a question to many shards, tried out.

One machine is not many: of a size that takes many, one shard is tried, with what comes to it
from all workers of its machine, and with as many pairs as memory allows here.
"""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from aggregator.event import Event, Part
from aggregator.lane import Lane
from aggregator.messages import EVENTS, MoviesQuery, ProgressQuery, Query
from aggregator.router import Router
from aggregator.wire import Connection
from benchmarks import bench, frames, recorded, request_file, shard_costs, subjects, traffic
from benchmarks.costs import SINGLES_MAX, cpu_seconds, workers_of
from benchmarks.demand import Costs, MachineType
from benchmarks.load import at_rate
from benchmarks.open_loop import WARM_UP_S as LOAD_WARM_UP_S
from benchmarks.recorded import Due
from benchmarks.shard_process import ShardProcess, Usage, lanes_to, shard_process
from benchmarks.sizing import Size, size_with

#: Nothing is counted of it: whoever watches is new at first.
WARM_UP_S = 10.0
#: Between looks at what is due.
TICK_S = 0.001
#: About the bytes of an event, for the limits of a lane.
EVENT_BYTES = 100
#: How long a server gets events over HTTP.
SERVER_S = 10
#: Shards that are asked together, of viewers with so many events a second for so long.
ASKED_SHARDS, ASKED_EVENTS_PER_S, ASKED_RECORDED_S = 8, 500.0, 10.0
#: Questions are as many as take so many cores, for so long.
ASKED_CORES, ASKED_S = 0.8, 8.0


class Check(msgspec.Struct, frozen=True):
    """A figure: what the model says, if it does, and what was measured."""

    of: str
    figure: str
    predicted: float | None
    measured: float


def _checks(of: str, **figures: tuple[float | None, float]) -> list[Check]:
    return [Check(of, name.replace("_", " "), *values) for name, values in figures.items()]


# A shard


def of_shard(
    folder: Path, size: Size, machine: MachineType, costs: Costs, pairs_max: int, seconds: float
) -> list[Check]:
    """One shard of this size, for so many seconds at the rate of its peak.

    What is predicted is for appends that take as long as they did: disks are not always
    as fast as when their costs were measured.
    """
    pairs = min(round(size.pairs), pairs_max)
    recording = recorded.record(WARM_UP_S + seconds)
    with shard_process(folder) as process:
        frames.fill(process, pairs)
        playing = _Playing(process, size, recording.copies(size.usual.events))
        used = uvloop.run(playing.play())
    took_s, append_s = playing.seconds, used.disk_s / used.commits
    load = _as_recorded(size, machine, replace(costs, append_s=append_s)).usual
    return _checks(
        f"{size.demand.users:,} users: a shard with {pairs / 1e6:.1f} of {size.pairs / 1e6:.1f}"
        " million pairs",
        events_per_second=(load.events, playing.events / took_s),
        append_mean_ms=(costs.append_s * 1000, append_s * 1000),
        frames_per_second=(load.frames, len(playing.frame_waits) / took_s),
        commits_per_second=(load.commits, used.commits / took_s),
        share_of_a_core=(load.shard_busy, used.cpu_s / took_s),
        frame_mean_ms=(load.frame_wait_s * 1000, 1000 * float(np.mean(playing.frame_waits))),
        frame_p99_ms=(None, 1000 * float(np.percentile(playing.frame_waits, 99))),
        event_mean_ms=(load.event_wait_s * 1000, 1000 * float(np.mean(playing.event_waits))),
        event_p99_ms=(None, 1000 * float(np.percentile(playing.event_waits, 99))),
    )


def _as_recorded(size: Size, machine: MachineType, costs: Costs) -> Size:
    """With as many events of fewer viewers: those who were recorded send more often."""
    heartbeat_s, demand = recorded.HEARTBEAT_S, size.demand
    share = demand.share_watching * heartbeat_s / demand.heartbeat_s
    demand = replace(demand, heartbeat_s=heartbeat_s, share_watching=share)
    return size_with(demand, machine, costs, size.machines, size.workers, size.shards)


class _Playing:
    """Sends recorded events to a shard when they are due, through a lane for each worker.

    Questions come among them. `frame_waits` and `event_waits` are seconds.
    """

    def __init__(self, process: ShardProcess, size: Size, due: Sequence[Due]) -> None:
        self._process = process
        self._workers = size.workers
        self._due = due
        demand = size.demand
        self._reads_an_event = demand.reads_a_heartbeat
        all_movie_reads = demand.events_per_s * demand.movie_reads_a_heartbeat
        self._movie_reads_an_event = all_movie_reads / size.usual.events
        self._is_counting = False
        self.events = 0
        self.seconds = 0.0
        self.frame_waits: list[float] = []
        self.event_waits: list[float] = []

    async def play(self) -> Usage:
        """What the shard used after the warm-up."""
        async with lanes_to([self._process] * self._workers, self._call) as lanes:
            gc.freeze()
            gc.disable()  # a cycle found late is none lost, and a pause would count as a wait
            async with asyncio.TaskGroup() as group:
                before = await self._send_all(lanes, group)
            gc.enable()
            gc.unfreeze()
            return (await self._process.usage()).since(before)

    async def _send_all(self, lanes: Sequence[Lane], group: asyncio.TaskGroup) -> Usage:
        before = await self._process.usage()
        began_s = counted_s = time.perf_counter()
        sent = 0
        while sent < len(self._due):
            now_s = time.perf_counter()
            if not self._is_counting and now_s - began_s >= WARM_UP_S:
                before = await self._process.usage()
                self._is_counting, counted_s = True, now_s
            while sent < len(self._due) and self._due[sent][0] <= now_s - began_s:
                _, event = self._due[sent]
                lane = lanes[hash(event.user) % len(lanes)]
                group.create_task(self._send(lane, event))
                for query in self._questions(event, sent):
                    group.create_task(self._ask(lane, query))
                sent += 1
                self.events += self._is_counting
            await asyncio.sleep(0)  # on a core of its own: at ticks, frames would gather
        self.seconds = time.perf_counter() - counted_s
        return before

    async def _send(self, lane: Lane, event: Event) -> None:
        is_counted, began_s = self._is_counting, time.perf_counter()
        await lane.submit(Part([event]), EVENT_BYTES)
        if is_counted:
            self.event_waits.append(time.perf_counter() - began_s)

    async def _ask(self, lane: Lane, query: Query) -> None:
        await lane.ask(query)

    def _questions(self, event: Event, number: int) -> Iterator[Query]:
        """Those that come with this event: of the first `number` so many, now one more."""
        for query, an_event in (
            (ProgressQuery(event.user, event.slug), self._reads_an_event),
            (MoviesQuery([event.slug]), self._movie_reads_an_event),
        ):
            for _ in range(int((number + 1) * an_event) - int(number * an_event)):
                yield query

    async def _call(self, connection: Connection, frame: bytes) -> bytes:
        is_counted = self._is_counting and frame[:1] == EVENTS
        began_s = time.perf_counter()
        reply = await connection.call(frame)
        if is_counted:
            self.frame_waits.append(time.perf_counter() - began_s)
        return reply


# A server


def of_server(folder: Path, size: Size, machine: MachineType, costs: Costs) -> list[Check]:
    """A whole server, over HTTP, with all events of a size that one machine takes."""
    demand = replace(size.demand, reads_a_heartbeat=0, movie_reads_a_heartbeat=0)
    expected = size_with(demand, machine, costs, 1, size.workers, size.shards)
    rate = demand.events_per_s
    events = traffic.players()[:SINGLES_MAX]
    sent = request_file.write(
        folder / "events.requests", map(request_file.post, traffic.singles(events))
    )
    data = folder / "server"
    data.mkdir()
    flags = ("--workers", str(size.workers), "--shards", str(size.shards))
    with subjects.playhead(data, *flags) as subject:
        bench.fill(subject.url, traffic.players(1), bench.FILL_EVENTS)
        processes = workers_of(subject), subject.shards()
        before_s = [sum(map(cpu_seconds, each)) for each in processes]
        outcome = at_rate(subject.url, sent, rate, SERVER_S)
        after_s = [sum(map(cpu_seconds, each)) for each in processes]
    took_s = SERVER_S + LOAD_WARM_UP_S
    of_workers, of_shards = (b - a for a, b in zip(before_s, after_s, strict=True))
    return _checks(
        f"{demand.users:,} users: over HTTP",
        events_per_second=(rate, (outcome.requests - outcome.errors) / SERVER_S),
        cores_of_workers=(expected.workers * expected.usual.worker_busy, of_workers / took_s),
        cores_of_shards=(expected.shards * expected.usual.shard_busy, of_shards / took_s),
        answer_p50_ms=(None, outcome.p50_ms),
        answer_p99_ms=(None, outcome.p99_ms),
    )


# A question to many shards


def of_fan_out(folder: Path, costs: Costs) -> list[Check]:
    """Questions about movies that several shards answer together."""
    recording = recorded.record(ASKED_RECORDED_S)
    events = [event for _, event in recording.copies(ASKED_EVENTS_PER_S)]
    encoded = frames.frames_of(events, shard_costs.FIRST_FRAME_EVENTS)
    with ExitStack() as stack:
        numbers = range(ASKED_SHARDS)
        processes = [stack.enter_context(shard_process(folder / f"asked-{n}")) for n in numbers]
        for process in processes:
            frames.append(process, encoded, producers=1)
        shard_s = costs.movie_frame_s + costs.movie_query_s
        rate = ASKED_CORES / (ASKED_SHARDS * (shard_s + costs.fan_out_s))
        asking = _Asking(processes, [event.slug for event in events], rate)
        uvloop.run(asking.ask())
    return _checks(
        f"a movie, asked of {ASKED_SHARDS} shards",
        questions_per_second=(rate, asking.questions / asking.seconds),
        worker_ms_a_question=(
            1000 * ASKED_SHARDS * costs.fan_out_s,
            1000 * asking.worker_s / asking.questions,
        ),
        shard_ms_a_question=(
            1000 * shard_s,
            1000 * asking.shards_s / asking.questions / ASKED_SHARDS,
        ),
        answer_mean_ms=(None, 1000 * float(np.mean(asking.waits))),
    )


class _Asking:
    """Asks all shards so many times a second; `worker_s` and `shards_s` are core seconds."""

    def __init__(self, processes: list[ShardProcess], slugs: list[str], rate: float) -> None:
        self._processes = processes
        self._slugs = slugs
        self._rate = rate
        self.questions = 0
        self.seconds = self.worker_s = self.shards_s = 0.0
        self.waits: list[float] = []

    async def ask(self) -> None:
        async with lanes_to(self._processes) as lanes:
            router, before_s = Router(lanes), await self._used_s()
            began_s, cpu_s = time.perf_counter(), time.process_time()
            async with asyncio.TaskGroup() as group:
                while (now_s := time.perf_counter() - began_s) < ASKED_S:
                    while self.questions < now_s * self._rate:
                        group.create_task(self._ask(router, began_s + self.questions / self._rate))
                        self.questions += 1
                    await asyncio.sleep(TICK_S)
            self.seconds = time.perf_counter() - began_s
            self.worker_s = time.process_time() - cpu_s
            self.shards_s = await self._used_s() - before_s

    async def _ask(self, router: Router, due_s: float) -> None:
        await router.movies([self._slugs[self.questions % len(self._slugs)]])
        self.waits.append(time.perf_counter() - due_s)

    async def _used_s(self) -> float:
        return sum([(await process.usage()).cpu_s for process in self._processes])
