"""The queue in front of one shard.

Batching is natural: one frame of events and one of queries are under way, and
what comes in meanwhile makes up the next. Alone, an event leaves at once; under
load, frames grow by themselves. Every caller awaits a future of its own, so one
that goes away takes nothing from the others.
"""

import asyncio
import secrets
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from aggregator.errors import NoAnswerError, OverloadedError, ShardsUnavailableError
from aggregator.event import Part, to_batch
from aggregator.messages import (
    Answers,
    Applied,
    Query,
    Refused,
    decode_reply,
    encode_events,
    encode_queries,
)

#: Frames this large have nothing to gain from growing.
FRAME_EVENTS_MAX = 50_000
FRAME_QUERIES_MAX = 10_000

R = TypeVar("R", Applied, Answers)

#: Sends a frame to the shard until there is a reply, or raises `NoAnswerError`.
Send = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for one shard; past it callers are told to come back later."""

    events_max: int = 200_000
    bytes_max: int = 64 << 20
    queries_max: int = 50_000


@dataclass(slots=True)
class Outcome:
    """What became of events: all on disk, `duplicates` of them were so before."""

    received_ms: int
    duplicates: int


@dataclass(slots=True)
class _WaitingPart:
    part: Part
    size: int
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class _WaitingQuery:
    query: Query
    answer: asyncio.Future[msgspec.Raw]


class Lane:
    """Events and queries for one shard. Use from one event loop; `close` ends its tasks."""

    def __init__(self, shard: int, send: Send, limits: QueueLimits) -> None:
        self.shard = shard
        self._send = send
        self._limits = limits
        self._producer = secrets.randbits(63)
        self._sequence = 0
        self._parts: deque[_WaitingPart] = deque()
        self._queries: deque[_WaitingQuery] = deque()
        self._queued_events = self._queued_bytes = 0
        self._parts_came, self._queries_came = asyncio.Event(), asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._send_parts_forever()),
            asyncio.create_task(self._send_queries_forever()),
        ]

    async def submit(self, part: Part, size: int) -> Outcome:
        """Has the events counted; `size` is about how many bytes they hold. `NoAnswerError`."""
        events = len(part.events)
        if self._queued_events and (
            self._queued_events + events > self._limits.events_max
            or self._queued_bytes + size > self._limits.bytes_max
        ):
            raise OverloadedError(
                f"{self._queued_events} events wait for shard {self.shard}: send slower"
            )
        waiting = _WaitingPart(part, size, asyncio.get_running_loop().create_future())
        self._parts.append(waiting)
        self._queued_events += events
        self._queued_bytes += size
        self._parts_came.set()
        return await waiting.outcome

    async def ask(self, query: Query) -> msgspec.Raw:
        """The encoded answer. Raises `NoAnswerError`."""
        if len(self._queries) >= self._limits.queries_max:
            raise OverloadedError(f"{len(self._queries)} queries wait for shard {self.shard}")
        waiting = _WaitingQuery(query, asyncio.get_running_loop().create_future())
        self._queries.append(waiting)
        self._queries_came.set()
        return await waiting.answer

    async def _exchange(self, frame: bytes, expected: type[R]) -> R:
        reply = decode_reply(await self._send(frame))
        if not isinstance(reply, expected):
            reason = reply.reason if isinstance(reply, Refused) else f"an unexpected {reply}"
            raise ShardsUnavailableError({self.shard: reason})
        return reply

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Events

    async def _send_parts_forever(self) -> None:
        while True:
            await self._parts_came.wait()
            taken = self._take_parts()
            self._sequence += 1
            try:
                batch = to_batch([waiting.part for waiting in taken])
                frame = encode_events(self._producer, self._sequence, batch.encode())
                reply = await self._exchange(frame, Applied)
            except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
                if isinstance(error, NoAnswerError):
                    taken += self._parts  # what waits for a shard that is away has waited enough
                    self._parts.clear()
                    self._parts_came.clear()
                for waiting in taken:
                    _fail(waiting.outcome, error)
            else:
                _share_out(taken, reply)
            self._queued_events -= sum(len(waiting.part.events) for waiting in taken)
            self._queued_bytes -= sum(waiting.size for waiting in taken)

    def _take_parts(self) -> list[_WaitingPart]:
        """The next frame's: a request that repeats a key waits for the next one."""
        taken: list[_WaitingPart] = []
        keys: set[str] = set()
        events = 0
        while self._parts:
            part = self._parts[0].part
            if part.key is not None and part.key in keys:
                break
            if taken and events + len(part.events) > FRAME_EVENTS_MAX:
                break
            if part.key is not None:
                keys.add(part.key)
            events += len(part.events)
            taken.append(self._parts.popleft())
        if not self._parts:
            self._parts_came.clear()
        return taken

    # Queries

    async def _send_queries_forever(self) -> None:
        while True:
            await self._queries_came.wait()
            count = min(len(self._queries), FRAME_QUERIES_MAX)
            taken = [self._queries.popleft() for _ in range(count)]
            if not self._queries:
                self._queries_came.clear()
            try:
                frame = encode_queries([waiting.query for waiting in taken])
                reply = await self._exchange(frame, Answers)
            except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
                if isinstance(error, NoAnswerError):
                    taken += self._queries
                    self._queries.clear()
                    self._queries_came.clear()
                for waiting in taken:
                    _fail(waiting.answer, error)
            else:
                for waiting, answer in zip(taken, reply.answers, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(answer)


def _fail(future: asyncio.Future[Outcome] | asyncio.Future[msgspec.Raw], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _share_out(taken: list[_WaitingPart], reply: Applied) -> None:
    start = 0
    for waiting in taken:
        end = start + len(waiting.part.events)
        duplicates = bisect_left(reply.duplicates, end) - bisect_left(reply.duplicates, start)
        if not waiting.outcome.done():
            waiting.outcome.set_result(Outcome(reply.received_ms, duplicates))
        start = end
