"""One movie on one device, and everything that happens to it between play and stop."""

from collections.abc import Callable, Generator
from copy import copy
from random import Random

import msgspec

from benchmarks.catalogue import Movie, new_name

HEARTBEAT_MIN_S, HEARTBEAT_MAX_S = 5.0, 10.0
#: How long someone who pauses, or is off the net, stays so, in heartbeats.
PAUSE_BEATS = (2, 40)
OUTAGE_BEATS = (3, 60)
#: Someone falls asleep: longer than the 30 minutes that end a view.
BREAK_S = (1_900.0, 10_800.0)
#: The buttons of a player; the others drag the slider to anywhere.
SKIPS_S = (-30.0, -10.0, 10.0, 30.0)
SHARE_OF_SKIPS = 0.7
#: Uploads that a player sends in any order.
SHARE_OF_SHUFFLED = 0.3
#: A player that hears nothing sends its last heartbeat again after so long.
RESEND_S = (1.0, 4.0)

#: Processes yield the seconds until they want to go on.
Process = Generator[float, None, None]


class Heartbeat(msgspec.Struct, omit_defaults=True, gc=False):
    """An event as it is sent. `at` and `duration` are seconds, `ts` Unix milliseconds."""

    user: str
    slug: str
    at: float
    session: str | None = None
    id: str | None = None
    ts: int | None = None
    duration: float | None = None


class App(msgspec.Struct, frozen=True):
    """What a user's players put into a heartbeat besides user, slug and at."""

    has_session: bool
    #: `id` and `ts`: it can send again, and later.
    has_memory: bool


class Player:
    """A playback. `play` is its process; what it sends goes to `send`, in order."""

    def __init__(
        self,
        rng: Random,
        clock_ms: Callable[[], int],
        send: Callable[[Heartbeat], None],
        user: str,
        app: App,
        movie: Movie,
        at_s: float,
    ) -> None:
        self.movie = movie
        self.at_s = at_s
        self._rng = rng
        self._clock_ms = clock_ms
        self._send = send
        self._user = user
        self._app = app
        self._session = new_name(rng) if app.has_session else None
        self._duration_s = movie.length_s if app.has_session and movie.is_length_known else None
        self._has_left = False

    @property
    def is_at_end(self) -> bool:
        return self.at_s >= self.movie.length_s

    def play(self) -> Process:
        """To the end of the movie, or until the viewer has had enough."""
        last = self._beat()
        self._send(last)
        while not (self.is_at_end or self._has_left):
            yield from self._go_on()
            last = self._beat()
            self._send(last)
            if self._rng.random() < SHARE_OF_INCIDENTS:
                yield from self._rng.choices(_INCIDENTS, _WEIGHTS)[0](self, last)

    def _go_on(self) -> Process:
        gap_s = self._gap_s()
        yield gap_s
        self.at_s = min(self.at_s + gap_s, self.movie.length_s)

    def _gap_s(self) -> float:
        return self._rng.uniform(HEARTBEAT_MIN_S, HEARTBEAT_MAX_S)

    def _beat(self) -> Heartbeat:
        beat = Heartbeat(self._user, self.movie.slug, round(self.at_s, 3), self._session)
        if self._app.has_memory:
            beat.id, beat.ts = new_name(self._rng), self._clock_ms()
        # Said once a playback, as players do that learn it when they load the movie.
        beat.duration, self._duration_s = self._duration_s, None
        return beat

    # Incidents

    def _pause(self, _: Heartbeat) -> Process:
        for _beats in range(self._rng.randint(*PAUSE_BEATS)):
            yield self._gap_s()
            self._send(self._beat())

    def _seek(self, _: Heartbeat) -> Process:
        to_s = self._rng.uniform(0, self.movie.length_s)
        if self._rng.random() < SHARE_OF_SKIPS:
            to_s = self.at_s + self._rng.choice(SKIPS_S)
        self.at_s = min(max(to_s, 0), self.movie.length_s)
        yield from ()

    def _fall_asleep(self, _: Heartbeat) -> Process:
        yield self._rng.uniform(*BREAK_S)

    def _lose_connection(self, _: Heartbeat) -> Process:
        """Plays on, keeps what it cannot send, and uploads it later."""
        kept: list[Heartbeat] = []
        for _beats in range(self._rng.randint(*OUTAGE_BEATS)):
            if not self.is_at_end:
                yield from self._go_on()
                kept.append(self._beat())
        yield self._gap_s()
        for beat in in_any_order(self._rng, kept):
            self._send(beat)

    def _send_again(self, last: Heartbeat) -> Process:
        if last.id is not None:
            yield self._rng.uniform(*RESEND_S)
            self._send(copy(last))

    def _leave(self, _: Heartbeat) -> Process:
        self._has_left = True
        yield from ()


Incident = Callable[[Player, Heartbeat], Process]

#: What may come after a heartbeat, and how likely.
_CHANCES: dict[Incident, float] = {
    Player._pause: 0.008,
    Player._seek: 0.012,
    Player._fall_asleep: 0.002,
    Player._lose_connection: 0.003,
    Player._send_again: 0.010,
    Player._leave: 0.002,
}
_INCIDENTS, _WEIGHTS = list(_CHANCES), list(_CHANCES.values())
SHARE_OF_INCIDENTS = sum(_WEIGHTS)


def in_any_order(rng: Random, beats: list[Heartbeat]) -> list[Heartbeat]:
    """As they happened, or, with some players, not."""
    return rng.sample(beats, len(beats)) if rng.random() < SHARE_OF_SHUFFLED else beats
