"""The queues in front of one shard.

Batching is natural: one frame each of events, commands and queries is under way,
and what comes in meanwhile makes up the next. Alone, an event leaves at once;
under load, frames grow by themselves. Every caller awaits a future of its own, so
one that goes away takes nothing from the others.
"""

import asyncio
import secrets
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from aggregator.commands import Command
from aggregator.errors import NoAnswerError, OverloadedError, ShardsUnavailableError
from aggregator.event import Part, encode
from aggregator.gatherer import Gatherer
from aggregator.linger import Linger
from aggregator.messages import (
    Answers,
    Applied,
    Done,
    Exported,
    ExportRequest,
    Outcome,
    Query,
    Refused,
    decode_reply,
    encode_commands,
    encode_events,
    encode_export,
    encode_queries,
)

#: Frames this large gain little from growing, and questions wait until they are counted.
FRAME_EVENTS_MAX = 20_000
FRAME_QUERIES_MAX = 10_000
FRAME_COMMANDS_MAX = 1_000
#: Where so many events have come one by one, each so soon after the reply to the one before, they
#: are of one sender, and the next reply is waited for awake, at most so long.
ALONE_MIN = 8
ALONE_WITHIN_S = 0.002
LINGER_S = 0.0005

R = TypeVar("R", Applied, Done, Answers, Exported)

#: Sends a frame to the shard until there is a reply, or raises `NoAnswerError`.
Send = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for one shard; past it callers are told to come back later."""

    events_max: int = 200_000
    bytes_max: int = 64 << 20
    queries_max: int = 50_000


@dataclass(slots=True)
class Receipt:
    """What became of events: all on disk, `duplicates` of them were so before."""

    received_ms: int
    duplicates: int


@dataclass(slots=True)
class _WaitingPart:
    part: Part
    size: int
    receipt: asyncio.Future[Receipt]


class Lane:
    """What goes to one shard. Use from one event loop; `close` ends its tasks."""

    def __init__(self, shard: int, send: Send, limits: QueueLimits) -> None:
        self.shard = shard
        self._send = send
        self._limits = limits
        self._producer = secrets.randbits(63)
        self._sequence = 0
        self._parts: deque[_WaitingPart] = deque()
        # Commands have numbers of their own, as a frame of them does not wait for one of events.
        self._hand = secrets.randbits(63)
        self._hand_sequence = 0
        self._commands = Gatherer[Command, Outcome](
            self._send_commands, FRAME_COMMANDS_MAX, limits.queries_max
        )
        self._queries = Gatherer[Query, msgspec.Raw](
            self._send_queries, FRAME_QUERIES_MAX, limits.queries_max
        )
        self._queued_events = self._queued_bytes = 0
        self._parts_came = asyncio.Event()
        self._linger = Linger(LINGER_S)
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._send_parts_forever())

    def submit(self, part: Part, size: int) -> asyncio.Future[Receipt]:
        """Has the events counted; `size` is about how many bytes they hold.

        The future gets the receipt, or `NoAnswerError`.
        """
        events = len(part.events)
        receipt: asyncio.Future[Receipt] = self._loop.create_future()
        if self._queued_events and (
            self._queued_events + events > self._limits.events_max
            or self._queued_bytes + size > self._limits.bytes_max
        ):
            receipt.set_exception(
                OverloadedError(
                    f"{self._queued_events} events wait for shard {self.shard}: send slower"
                )
            )
            return receipt
        self._parts.append(_WaitingPart(part, size, receipt))
        self._queued_events += events
        self._queued_bytes += size
        self._parts_came.set()
        return receipt

    def ask(self, query: Query) -> asyncio.Future[msgspec.Raw]:
        """Gets the encoded answer, or `NoAnswerError`."""
        return self._queries.ask(query)

    async def command(self, command: Command) -> Outcome:
        """Has the command carried out, durably. Raises `NoAnswerError`."""
        return await self._commands.ask(command)

    async def export(self, request: ExportRequest) -> Exported:
        """A part of what is stored of a user. Raises `NoAnswerError`."""
        return await self._exchange(encode_export(request), Exported)

    async def _exchange(self, frame: bytes, expected: type[R]) -> R:
        reply = decode_reply(await self._send(frame))
        if not isinstance(reply, expected):
            reason = reply.reason if isinstance(reply, Refused) else f"an unexpected {reply}"
            raise ShardsUnavailableError({self.shard: reason})
        return reply

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._commands.close()
        await self._queries.close()

    # Events

    async def _send_parts_forever(self) -> None:
        alone, replied_s = 0, 0.0  # events of one sender so far, and when the last was answered
        while True:
            await self._parts_came.wait()
            taken = self._take_parts()
            self._sequence += 1
            alone += 1
            if time.monotonic() - replied_s > ALONE_WITHIN_S:
                alone = 0
            elif alone >= ALONE_MIN:
                self._linger.begin()
            try:
                batch = encode([waiting.part for waiting in taken])
                frame = encode_events(self._producer, self._sequence, batch)
                reply = await self._exchange(frame, Applied)
                self._linger.end()
                replied_s = time.monotonic()
                if self._parts or len(taken) > 1 or len(taken[0].part.events) > 1:
                    alone = 0
            except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
                if isinstance(error, NoAnswerError):
                    taken += self._parts  # what waits for a shard that is away has waited enough
                    self._parts.clear()
                    self._parts_came.clear()
                for waiting in taken:
                    if not waiting.receipt.done():
                        waiting.receipt.set_exception(error)
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

    # Commands and queries

    async def _send_commands(self, commands: list[Command]) -> list[Outcome]:
        self._hand_sequence += 1
        frame = encode_commands(self._hand, self._hand_sequence, commands)
        return (await self._exchange(frame, Done)).outcomes

    async def _send_queries(self, queries: list[Query]) -> list[msgspec.Raw]:
        return (await self._exchange(encode_queries(queries), Answers)).answers


def _share_out(taken: list[_WaitingPart], reply: Applied) -> None:
    if not reply.duplicates:
        everything = Receipt(reply.received_ms, 0)
        for waiting in taken:
            if not waiting.receipt.done():
                waiting.receipt.set_result(everything)
        return
    start = 0
    for waiting in taken:
        end = start + len(waiting.part.events)
        duplicates = bisect_left(reply.duplicates, end) - bisect_left(reply.duplicates, start)
        if not waiting.receipt.done():
            waiting.receipt.set_result(Receipt(reply.received_ms, duplicates))
        start = end
