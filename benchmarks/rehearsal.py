"""What the model says of a shard, of a server, and of a question to many shards, tried out.

One machine is not many: of a size that takes many, one shard is tried, with what comes to it
from all workers of its machine, and with as many pairs as memory allows here.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from aggregator.event import Event, Part
from aggregator.lane import Lane, QueueLimits
from aggregator.messages import MoviesQuery, ProgressQuery
from aggregator.router import Router
from benchmarks import load, recorded, request_file, shard_costs, subjects, traffic
from benchmarks.bench import FILL_EVENTS, fill
from benchmarks.costs import SINGLES_MAX, cpu_seconds, worker_of
from benchmarks.open_loop import WARM_UP_S as LOAD_WARM_UP_S
from benchmarks.recorded import Due
from benchmarks.shard_process import ShardProcess, Usage, shard_process
from benchmarks.sizing import Costs, MachineType, Size, size_with

#: Nothing is counted of it: whoever watches is new at first.
WARM_UP_S = 10.0
#: Between looks at what is due.
TICK_S = 0.001
#: About the bytes of an event, for the limits of a lane.
EVENT_BYTES = 100
#: Of a server behind HTTP.
SERVER_S = 10
#: Shards that are asked together, after so many events a second each for so long.
ASKED_SHARDS, ASKED_EVENTS_PER_S, ASKED_WATCHED_S = 8, 1_000.0, 10.0
#: Questions are as many as take so many cores, for so long.
ASKED_CORES, ASKED_S = 0.8, 10.0


class Check(msgspec.Struct, frozen=True):
    """What the model says of something, and what it was."""

    of: str
    figure: str
    predicted: float
    measured: float


def checks(of: str, **figures: tuple[float, float]) -> list[Check]:
    """Of figures, by name: predicted and measured."""
    return [Check(of, name.replace("_", " "), *values) for name, values in figures.items()]


# A shard


def of_shard(
    folder: Path, size: Size, machine: MachineType, costs: Costs, pairs_max: int, seconds: float
) -> list[Check]:
    """One shard of this size, for so many seconds at the rate of its peak."""
    expected = _as_recorded(size, machine, costs)
    shard = expected.shard
    pairs = min(round(shard.pairs), pairs_max)
    recording = recorded.record(WARM_UP_S + seconds)
    with shard_process(folder) as process:
        shard_costs.fill(process, pairs)
        playing = _Playing(process, expected, recording.copies(shard.events))
        used = uvloop.run(playing.play())
    took_s = playing.seconds
    return checks(
        f"{size.demand.users:,} users, a shard",
        pairs=(shard.pairs, pairs),
        events_per_second=(shard.events, playing.events / took_s),
        frames_per_second=(shard.frames, len(playing.frame_waits) / took_s),
        commits_per_second=(shard.commits, used.commits / took_s),
        share_of_a_core=(shard.busy, used.cpu_s / took_s),
        frame_mean_ms=(shard.frame_wait_s * 1000, 1000 * float(np.mean(playing.frame_waits))),
        event_mean_ms=(shard.event_wait_s * 1000, 1000 * float(np.mean(playing.event_waits))),
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
        demand, shard = size.demand, size.shard
        self._reads_an_event = demand.reads_a_heartbeat
        all_movie_reads = demand.events_per_s * demand.movie_reads_a_heartbeat
        self._movie_reads_an_event = all_movie_reads / shard.events
        self._is_counting = False
        self.events = 0
        self.seconds = 0.0
        self.frame_waits: list[float] = []
        self.event_waits: list[float] = []

    async def play(self) -> Usage:
        """What the shard used after the warm-up."""
        async with _lanes([self._process] * self._workers, self._timed) as lanes:
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
                due_s, event = self._due[sent]
                lane = lanes[hash(event.user) % len(lanes)]
                group.create_task(self._send(lane, event, began_s + due_s))
                for question in self._questions(lane, event, sent):
                    group.create_task(question)
                sent += 1
                self.events += self._is_counting
            await asyncio.sleep(TICK_S)
        self.seconds = time.perf_counter() - counted_s
        return before

    async def _send(self, lane: Lane, event: Event, due_s: float) -> None:
        is_counted = self._is_counting
        await lane.submit(Part([event]), EVENT_BYTES)
        if is_counted:
            self.event_waits.append(time.perf_counter() - due_s)

    def _questions(
        self, lane: Lane, event: Event, number: int
    ) -> Iterator[Coroutine[Any, Any, msgspec.Raw]]:
        """Those that come with this event: of the first `number` so many, now one more."""
        for query, an_event in (
            (ProgressQuery(event.user, event.slug), self._reads_an_event),
            (MoviesQuery([event.slug]), self._movie_reads_an_event),
        ):
            for _ in range(int((number + 1) * an_event) - int(number * an_event)):
                yield lane.ask(query)

    async def _timed(self, exchange: Coroutine[Any, Any, bytes], is_events: bool) -> bytes:
        began_s = time.perf_counter()
        reply = await exchange
        if self._is_counting and is_events:
            self.frame_waits.append(time.perf_counter() - began_s)
        return reply
