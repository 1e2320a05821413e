"""Sends events to the server at a given pace, and keeps count of what becomes of them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import msgspec

from benchmarks.client import Client, NoAnswerError, RefusedError
from benchmarks.latencies import Latencies
from benchmarks.outbox import Bundle, Outbox
from benchmarks.player import Heartbeat

#: Events this much ahead of their time are sent at once: a timer is no more precise.
EARLY_MAX_S = 0.001
#: Without a pace, the senders get their turn after so many events.
TURN_EVENTS = 64
#: Events that may wait for a connection, or for the answer to their user's last ones.
WAITING_EVENTS_MAX = 20_000

#: An event, and the simulated second in which it happens.
Timed = tuple[float, Heartbeat]
#: Told of the events of each request that was answered, and of the answer's `now`.
OnCounted = Callable[[list[Heartbeat], str], None]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Pace:
    """Events a second and simulated seconds a second, at most; 0 is no limit."""

    rate: float = 0.0
    speedup: float = 0.0

    @property
    def is_limited(self) -> bool:
        return self.rate > 0 or self.speedup > 0

    def due_s(self, number: int, simulated_s: float) -> float:
        """When an event is due, in seconds from the start."""
        by_rate = number / self.rate if self.rate else 0.0
        return max(by_rate, simulated_s / self.speedup if self.speedup else 0.0)

    async def keep(self, timed: Iterable[Timed]) -> AsyncIterator[Timed]:
        """The same, each when it is due: an open loop, which slow answers do not slow down."""
        start_s = time.monotonic()
        for number, (simulated_s, event) in enumerate(timed):
            early_s = start_s + self.due_s(number, simulated_s) - time.monotonic()
            if early_s > EARLY_MAX_S:
                await asyncio.sleep(early_s)
            elif number % TURN_EVENTS == 0:
                await asyncio.sleep(0)
            yield simulated_s, event


@dataclass(slots=True)
class Tally:
    """What became of the events sent so far."""

    sent: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    #: Events of which nobody knows whether they were counted.
    lost: int = 0
    simulated_s: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    #: The last reason for a rejected or lost event.
    problem: str = ""


class Sender:
    """Sends with `connections` requests at once, `batch` events in each.

    Requests of which an event has no id carry an Idempotency-Key, with
    `always_keyed` all do; so trying again is always safe.
    """

    def __init__(
        self,
        client: Client,
        connections: int,
        batch: int,
        pace: Pace,
        always_keyed: bool,
        on_counted: OnCounted | None = None,
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._connections = connections
        self._batch = batch
        self._pace = pace
        self._always_keyed = always_keyed
        self._on_counted = on_counted
        self._outbox = Outbox(batch, max(WAITING_EVENTS_MAX, 2 * batch * connections))
        # Keys are new in each run: the same seed again is not the same request again.
        self._keys: Iterator[str] = map(f"{secrets.token_hex(8)}-{{}}".format, count())
        self._feeding: asyncio.Task[None] | None = None

    async def send(self, timed: Iterable[Timed]) -> None:
        """Returns when all have an answer, or after `stop` those that were on their way."""
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(self._send_forever()) for _ in range(self._connections)]
            self._feeding = group.create_task(self._feed(timed))
            await asyncio.wait([self._feeding])
            await self._outbox.close()
            for sender in senders:
                sender.cancel()

    def stop(self) -> None:
        """Sends nothing more."""
        if self._feeding is not None:
            self._feeding.cancel()
        self._outbox.discard()
        self._client.is_ending.set()

    async def _feed(self, timed: Iterable[Timed]) -> None:
        async for simulated_s, event in self._pace.keep(timed):
            await self._outbox.put(event)
            self.tally.simulated_s = simulated_s

    async def _send_forever(self) -> None:
        while True:
            bundle = await self._outbox.get()
            await self._send(bundle)
            self._outbox.answered(bundle.events)

    async def _send(self, bundle: Bundle) -> None:
        tally, events = self.tally, bundle.events
        # Without a pace everything waits for a connection, which says nothing about the server.
        start_s = bundle.ready_s if self._pace.is_limited else time.monotonic()
        is_keyed = self._always_keyed or any(event.id is None for event in events)
        body = _encode(events[0] if self._batch == 1 else events)
        tally.sent += len(events)
        try:
            counted = await self._client.post(body, next(self._keys) if is_keyed else None)
        except RefusedError as error:
            tally.rejected += len(events)
            tally.problem = str(error)
            return
        except NoAnswerError as error:
            tally.lost += len(events)
            tally.problem = str(error)
            return
        tally.latencies.add(time.monotonic() - start_s)
        tally.accepted += counted.accepted
        tally.duplicates += counted.duplicates
        tally.rejected += counted.rejected
        if self._on_counted is not None:
            self._on_counted(events, counted.now)
