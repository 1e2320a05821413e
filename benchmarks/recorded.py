"""Viewers recorded for a while, to be played again as many times over as are wanted.

They are those of `playhead generate`: with sessions, ids and times, with pauses, seeks,
seconds without a network and uploads of what was watched then.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from aggregator.event import Event
from benchmarks.player import HEARTBEAT_MAX_S, HEARTBEAT_MIN_S, Heartbeat
from benchmarks.viewers import ARRIVAL_S, Viewers

VIEWERS, MOVIES = 1_000, 1_000
#: What a viewer's player sends on average, while it plays.
HEARTBEAT_S = (HEARTBEAT_MIN_S + HEARTBEAT_MAX_S) / 2
#: Copies begin within so long of each other, so that they do not send at the same moments.
SPREAD_S = 10.0

#: The second in which an event is to be sent, and the event.
Due = tuple[float, Event]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was sent in `SPREAD_S` and the `seconds` after, by the second in which it was."""

    seconds: float
    beats: list[tuple[float, Heartbeat]]
    #: Of the clock in `ts`, when it began.
    began_ms: int

    @property
    def rate(self) -> float:
        """Events a second."""
        return len(self.beats) / (SPREAD_S + self.seconds)

    def copies(self, rate: float) -> list[Due]:
        """About so many events a second from now on, in order; each copy has its own users."""
        shift_ms = time.time_ns() // 10**6 - self.began_ms
        due: list[Due] = []
        for number in range(max(round(rate / self.rate), 1)):
            due += self._copy(number, shift_ms)
        due.sort(key=lambda each: each[0])
        return due

    def _copy(self, number: int, shift_ms: int) -> Iterator[Due]:
        begins_s = Random(number).uniform(0, SPREAD_S)  # noqa: S311 - nothing here is secret
        for sent_s, beat in self.beats:
            if 0 <= sent_s - begins_s < self.seconds:
                yield (
                    sent_s - begins_s,
                    Event(
                        f"{beat.user}-{number}",
                        beat.slug,
                        beat.at,
                        beat.session and f"{beat.session}-{number}",
                        beat.id and f"{beat.id}-{number}",
                        beat.ts and float(beat.ts + shift_ms),
                        beat.duration,
                    ),
                )


def record(seconds: float) -> Recording:
    """Lets viewers live until all have come, and so much longer."""
    began_ms = time.time_ns() // 10**6

    def clock_ms() -> int:
        return began_ms + round((viewers.now_s - ARRIVAL_S) * 1000)

    viewers = Viewers(1, VIEWERS, MOVIES, clock_ms=clock_ms)
    beats: list[tuple[float, Heartbeat]] = []
    for now_s, beat in viewers:
        if now_s >= ARRIVAL_S + SPREAD_S + seconds:
            return Recording(seconds, beats, began_ms)
        if now_s >= ARRIVAL_S:
            beats.append((now_s - ARRIVAL_S, beat))
    raise AssertionError("viewers never end")
