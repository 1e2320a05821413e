"""Events on their way: made up to requests so that no user is in two at once."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.player import Heartbeat


@dataclass(frozen=True, slots=True)
class Bundle:
    """The events of one request, and the monotonic time at which they could have been sent."""

    events: list[Heartbeat]
    ready_s: float


@dataclass(slots=True)
class _Line:
    """A user's events that are not in a bundle yet, in order."""

    events: deque[Heartbeat] = field(default_factory=deque)
    is_under_way: bool = False


class Outbox:
    """`put` events, `get` bundles of up to `batch`, and say when each has been `answered`.

    A user whose events are under way waits for the answer, so that the server
    gets every user's events in order. Use from one event loop.
    """

    def __init__(self, batch: int, events_max: int) -> None:
        self._batch = batch
        self._events_max = events_max
        self._bundles: asyncio.Queue[Bundle] = asyncio.Queue()
        self._lines: dict[str, _Line] = {}
        self._ready: deque[_Line] = deque()
        self._ready_events = 0
        self._events = 0
        self._changed = asyncio.Event()
        self._is_closing = False

    async def put(self, event: Heartbeat) -> None:
        """Waits while there are `events_max` unanswered events."""
        while self._events >= self._events_max:
            await self._change()
        line = self._lines.get(event.user)
        if line is None:
            line = self._lines[event.user] = _Line()
        line.events.append(event)
        self._events += 1
        if not line.is_under_way:
            self._ready_events += 1
            if len(line.events) == 1:
                self._ready.append(line)
            self._make_bundles()

    async def get(self) -> Bundle:
        return await self._bundles.get()

    def answered(self, events: Sequence[Heartbeat]) -> None:
        """Lets the users of these events go on."""
        for user in {event.user for event in events}:
            line = self._lines[user]
            line.is_under_way = False
            if line.events:
                self._ready.append(line)
                self._ready_events += len(line.events)
            else:
                del self._lines[user]
        self._events -= len(events)
        self._changed.set()
        self._make_bundles()

    def discard(self) -> None:
        """Forgets all that has not been taken out."""
        while not self._bundles.empty():
            self.answered(self._bundles.get_nowait().events)
        for line in self._lines.values():
            self._events -= len(line.events)
            line.events.clear()
        self._ready.clear()
        self._ready_events = 0
        self._changed.set()

    async def close(self) -> None:
        """Sends what is left, in smaller bundles too; returns when all is answered."""
        self._is_closing = True
        self._make_bundles()
        while self._events:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _make_bundles(self) -> None:
        least = 1 if self._is_closing else self._batch
        while self._ready_events >= least:
            self._bundles.put_nowait(Bundle(self._take_ready(), time.monotonic()))

    def _take_ready(self) -> list[Heartbeat]:
        taken: list[Heartbeat] = []
        while self._ready and len(taken) < self._batch:
            line = self._ready.popleft()
            line.is_under_way = True
            self._ready_events -= len(line.events)
            room = min(len(line.events), self._batch - len(taken))
            taken.extend(line.events.popleft() for _ in range(room))
        return taken
