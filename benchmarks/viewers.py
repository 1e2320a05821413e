"""People who watch: a simulation that runs from one thing that happens to the next.

Everybody is a process on one heap, by simulated time. The same seed gives the
same people doing the same things; only `ts` comes from a real clock.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from random import Random

from benchmarks.catalogue import Catalogue, Movie, new_name
from benchmarks.player import App, Heartbeat, Player, Process, in_any_order

#: All have come by then.
ARRIVAL_S = 3_600.0
#: The mean time between two movies.
AWAY_S = 4 * 3_600.0
SHARE_ON_TWO_DEVICES = 0.10
#: Of these, how many have the same movie on both.
SHARE_OF_THE_SAME = 0.5
#: Of those whose app has a memory, how many come from a flight.
SHARE_OFF_FLIGHTS = 0.06
#: Of those who left something unfinished, how many go on with it.
SHARE_OF_GOING_ON = 0.6
SHARE_OF_REWATCHING = 0.2

#: As the known event source: user, slug and at, and nothing else.
PLAIN = App(has_session=False, has_memory=False)
BROWSER = App(has_session=True, has_memory=False)
PHONE = App(has_session=True, has_memory=True)
SHARE_OF_PHONES = 0.6

Spawn = Callable[[Process], None]


def wall_clock_ms() -> int:
    return time.time_ns() // 10**6


class Viewers:
    """Endless heartbeats of `users` people, each with the simulated second in which it is sent.

    Memory grows with the number of users, not with time. `with_sessions` off
    leaves user, slug and at.
    """

    def __init__(
        self,
        seed: int,
        users: int,
        movies: int,
        with_sessions: bool = True,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        rng = Random(seed)  # noqa: S311 - nothing here is secret
        names = [new_name(rng) for _ in range(users)]
        self.catalogue = Catalogue(rng, movies)
        self._sent: deque[Heartbeat] = deque()
        self._processes: list[tuple[float, int, Process]] = []
        self._started = 0
        self.now_s = 0.0
        self.viewers = [
            Viewer(name, with_sessions, rng, self.catalogue, clock_ms, self._sent.append)
            for name in names
        ]
        for viewer in self.viewers:
            self._start(viewer.live(self._start))

    @property
    def users(self) -> list[str]:
        return [viewer.name for viewer in self.viewers]

    def __iter__(self) -> Iterator[tuple[float, Heartbeat]]:
        processes, sent = self._processes, self._sent
        while True:
            self.now_s, number, process = processes[0]
            sleep_s = next(process, None)
            if sleep_s is None:
                heapq.heappop(processes)
            else:
                heapq.heapreplace(processes, (self.now_s + sleep_s, number, process))
            while sent:
                yield self.now_s, sent.popleft()

    def _start(self, process: Process) -> None:
        # The number decides between two at the same time, so that the order is always the same.
        self._started += 1
        heapq.heappush(self._processes, (self.now_s, self._started, process))


class Viewer:
    """One person: their app, and what they left unfinished or saw to the end."""

    def __init__(
        self,
        name: str,
        with_sessions: bool,
        rng: Random,
        catalogue: Catalogue,
        clock_ms: Callable[[], int],
        send: Callable[[Heartbeat], None],
    ) -> None:
        self.name = name
        self._rng = rng
        self._catalogue = catalogue
        self._clock_ms = clock_ms
        self._send = send
        # One app a person: were stamped and unstamped events of one movie to mix, the latest
        # would depend on the exact `received`, which the answer to a large batch rounds up.
        self._app = PLAIN
        if with_sessions:
            self._app = PHONE if rng.random() < SHARE_OF_PHONES else BROWSER
        self._unfinished: tuple[Movie, float] | None = None
        self._finished: Movie | None = None
        self._has_second_device_on = False

    def live(self, spawn: Spawn) -> Process:
        """Movie after movie, and what lies between them."""
        yield self._rng.uniform(0, ARRIVAL_S)
        while True:
            if self._app.has_memory and self._rng.random() < SHARE_OFF_FLIGHTS:
                self._land()
            yield from self._watch(spawn)
            yield self._rng.expovariate(1 / AWAY_S)

    def _watch(self, spawn: Spawn) -> Process:
        movie, at_s = self._pick()
        if not self._has_second_device_on and self._rng.random() < SHARE_ON_TWO_DEVICES:
            is_same = self._rng.random() < SHARE_OF_THE_SAME
            other = movie if is_same else self._catalogue.choose(self._rng)
            spawn(self._watch_beside(self._player(other, at_s if is_same else 0)))
        player = self._player(movie, at_s)
        yield from player.play()
        self._remember(player)

    def _watch_beside(self, player: Player) -> Process:
        self._has_second_device_on = True
        yield from player.play()
        self._has_second_device_on = False

    def _land(self) -> None:
        """Uploads a movie that was downloaded and watched on a flight, with all that happened.

        Its `ts` are as far apart as the heartbeats were, however fast the
        viewers live; so this is where breaks of more than 30 minutes show.
        """
        elapsed_s = 0.0
        kept: list[Heartbeat] = []
        player = Player(
            self._rng,
            lambda: round(elapsed_s * 1000),
            kept.append,
            self.name,
            self._app,
            *self._pick(),
        )
        for sleep_s in player.play():
            elapsed_s += sleep_s
        departure_ms = self._clock_ms() - round(elapsed_s * 1000)
        for beat in kept:
            assert beat.ts is not None
            beat.ts += departure_ms
        for beat in in_any_order(self._rng, kept):
            self._send(beat)
        self._remember(player)

    def _player(self, movie: Movie, at_s: float) -> Player:
        return Player(self._rng, self._clock_ms, self._send, self.name, self._app, movie, at_s)

    def _pick(self) -> tuple[Movie, float]:
        """What to watch, and where to start."""
        chance = self._rng.random()
        if self._unfinished is not None and chance < SHARE_OF_GOING_ON:
            return self._unfinished
        if self._finished is not None and chance > 1 - SHARE_OF_REWATCHING:
            return self._finished, 0.0
        return self._catalogue.choose(self._rng), 0.0

    def _remember(self, player: Player) -> None:
        if player.is_at_end:
            self._finished, self._unfinished = player.movie, None
        else:
            self._unfinished = player.movie, player.at_s
