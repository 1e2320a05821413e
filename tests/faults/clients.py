"""Clients that send everything again until it is acknowledged, and what that must add up to.

Each has users of its own and does one thing after the other, so the order of a
user's events and commands is that of the acknowledgements. Every event says when
it happened, so no total depends on which of several attempts was the one that
counted.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import msgspec
import requests

from aggregator.reference import Reference
from aggregator.router import shard_of
from benchmarks.client import Client as AskingClient
from benchmarks.player import Heartbeat
from benchmarks.verification import Difference, Facts, Verification, differences, user_path

MOVIES_PER_FLEET = 4
MOVIE_S = 3600
BATCH_MAX = 20
USERS_PER_CLIENT = 5
#: Longer than a server may take to start anew, during which connections wait.
ANSWER_TIMEOUT_S = 60.0
#: Between attempts, at most.
PAUSE_MAX_S = 0.2
#: Between one thing and the next, at most, so that servers of other tests get their turn.
REST_MAX_S = 0.2
#: For a server that was killed to be back, and all clients to get on, on a busy machine.
PROGRESS_TIMEOUT_S = 90.0
#: An upload of what was played so long ago.
LATE_MS = 3_600_000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Order:
    """A request, and what its acknowledgement means."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    acknowledge: Callable[[Facts], None]
    #: Whether a repeated attempt may find that nothing is left to do.
    erases: bool = False


class Account:
    """What was acknowledged, counted by the reference of the rules; `surprises` must stay empty."""

    def __init__(self) -> None:
        self.surprises: list[str] = []
        #: Attempts by what became of them: a status, or the kind of error.
        self.outcomes: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._verification = Verification()
        self._users: set[str] = set()

    @property
    def reference(self) -> Reference:
        """With `lock` held."""
        return self._verification._reference

    def record(self, events: Sequence[Heartbeat], now: str) -> None:
        with self.lock:
            self._verification.record(events, now)
            self._users |= {event.user for event in events}

    def expected(self) -> dict[str, Facts]:
        with self.lock:
            return self._verification.expected()

    def erased_users(self) -> list[str]:
        """Of whom nothing may be known."""
        with self.lock:
            return sorted(self._users - {user for user, _ in self.reference.pairs})

    def differences(self, url: str) -> list[Difference]:
        """What the server says otherwise, of all movies, users and pairs."""

        async def compare() -> list[Difference]:
            async with AskingClient(url, connections=8) as client:
                found = [
                    difference
                    async for part in differences(self.expected(), client.get)
                    for difference in part
                ]
                found += [
                    Difference(user_path(user), "known", expected=False, found=True)
                    for user in self.erased_users()
                    if await client.get(user_path(user)) is not None
                ]
                return found

        return asyncio.run(compare())


@dataclass(slots=True)
class _Playback:
    """Where a user is in a movie, and on which device."""

    at_s: int = 0
    session: str | None = None


@dataclass(slots=True)
class _User:
    name: str
    playbacks: dict[str, _Playback] = field(default_factory=dict)


class Client(threading.Thread):
    """Does one thing after the other for its users until `stop`, each until it is acknowledged."""

    def __init__(
        self,
        name: str,
        rng: Random,
        url: Callable[[], str],
        account: Account,
        users: Sequence[str],
        movies: Sequence[str],
        told: Callable[[], None],
    ) -> None:
        """`url` gives "" while there is no server; `told` is called after each attempt."""
        super().__init__(name=name, daemon=True)
        self.done = 0
        self._rng = rng
        self._url = url
        self._account = account
        self._users = [_User(user) for user in users]
        self._movies = movies
        self._told = told
        self._stopping = threading.Event()
        self._numbers = 0
        self._session = self._new_session()

    def stop(self) -> None:
        """What is under way is still sent until it is acknowledged."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            order = self._next_order()
            order.acknowledge(self._send(order))
            self.done += 1
            self._told()
            time.sleep(self._rng.random() * REST_MAX_S)

    # What to do

    def _next_order(self) -> Order:
        draw = self._rng.random()
        if draw < 0.12 and (order := self._command()) is not None:
            return order
        if draw < 0.5:
            return self._events([self._event(with_id=True)], key=None, bare=True)
        number = self._rng.randint(2, BATCH_MAX)
        if draw < 0.75:
            return self._events([self._event(with_id=True) for _ in range(number)], key=None)
        events = [self._event(with_id=False) for _ in range(number)]
        return self._events(events, key=self._new_name())

    def _event(self, with_id: bool) -> Heartbeat:
        rng = self._rng
        user = rng.choice(self._users)
        slug = rng.choice(self._movies)
        playback = user.playbacks.setdefault(slug, _Playback())
        if rng.random() < 0.1:
            playback.at_s = rng.randrange(MOVIE_S)
            playback.session = rng.choice([None, "tv", "phone"])
        playback.at_s = min(playback.at_s + 10, MOVIE_S)
        now_ms = time.time_ns() // 10**6
        return Heartbeat(
            user.name,
            slug,
            float(playback.at_s),
            playback.session,
            self._new_name() if with_id else None,
            now_ms - LATE_MS if rng.random() < 0.05 else now_ms,
            float(MOVIE_S) if rng.random() < 0.5 else None,
        )

    def _events(self, events: list[Heartbeat], key: str | None, bare: bool = False) -> Order:
        def acknowledge(answer: Facts) -> None:
            if answer["accepted"] + answer["duplicates"] != len(events) or answer["rejected"]:
                self._account.surprises.append(f"{len(events)} events: {answer}")
            if answer["duplicates"] and answer["attempts"] == 1:
                self._account.surprises.append(f"sent once and a duplicate: {answer}")
            self._account.record(events, answer["now"])

        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        body = _encode(events[0] if bare else events)
        return Order("POST", "/v1/events", body, headers, acknowledge)

    def _command(self) -> Order | None:
        """A change by hand to a pair that is known; None when there is none yet."""
        with self._account.lock:
            known = [
                (user.name, slug)
                for user in self._users
                for slug in self._movies
                if (user.name, slug) in self._account.reference.pairs
            ]
        if not known:
            return None
        user, slug = self._rng.choice(known)
        path = f"/{user_path(user)}/movies/{slug}"
        reference = self._account.reference

        def hide(_: Facts) -> None:
            reference.hide(user, slug)

        def complete(answer: Facts) -> None:
            reference.mark_completed(user, slug, _unix_ms(answer["completed_at"]))

        def uncomplete(_: Facts) -> None:
            reference.unmark_completed(user, slug)

        at_s = self._rng.randrange(MOVIE_S)

        def set_position(answer: Facts) -> None:
            reference.set_position(user, slug, at_s * 1000, _unix_ms(answer["latest"]["time"]))

        def erase(_: Facts) -> None:
            reference.erase(user, slug)

        def erase_user(_: Facts) -> None:
            reference.erase(user)

        number = self._rng.choices(range(6), [3, 3, 2, 6, 1, 1])[0]
        return [
            self._by_hand("PUT", f"{path}/hidden", hide),
            self._by_hand("PUT", f"{path}/completed", complete),
            self._by_hand("DELETE", f"{path}/completed", uncomplete),
            self._by_hand("PUT", f"{path}/position", set_position, _encode({"at": at_s})),
            self._by_hand("DELETE", path, erase, erases=True),
            self._by_hand("DELETE", f"/{user_path(user)}", erase_user, erases=True),
        ][number]

    def _by_hand(
        self,
        method: str,
        path: str,
        change: Callable[[Facts], None],
        body: bytes = b"",
        erases: bool = False,
    ) -> Order:
        def acknowledge(answer: Facts) -> None:
            with self._account.lock:
                change(answer)

        return Order(method, path, body, {}, acknowledge, erases)

    def _new_name(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    # Sending

    def _send(self, order: Order) -> Facts:
        """The answer that acknowledges it, and after how many `attempts` it came."""
        attempts = 0
        while True:
            attempts += 1
            answer = self._try(order, is_first=attempts == 1)
            if answer is not None:
                return answer | {"attempts": attempts}
            self._told()
            if self._rng.random() < 0.5:  # the next attempt may go to another worker
                self._session.close()
                self._session = self._new_session()
            time.sleep(self._rng.random() * PAUSE_MAX_S)

    def _try(self, order: Order, is_first: bool) -> Facts | None:
        url = self._url()
        if not url:
            return None
        try:
            answer = self._session.request(
                order.method,
                url + order.path,
                data=order.body,
                headers=order.headers,
                timeout=ANSWER_TIMEOUT_S,
            )
        except requests.Timeout as error:
            self._surprise(order, f"no answer within {ANSWER_TIMEOUT_S} s: {error!r}")
            return None
        except requests.RequestException as error:
            self._account.outcomes[type(error).__name__] += 1
            return None
        self._account.outcomes[str(answer.status_code)] += 1
        return self._judge(order, answer, is_first)

    def _judge(self, order: Order, answer: requests.Response, is_first: bool) -> Facts | None:
        match answer.status_code:
            case 200:
                acknowledged: Facts = answer.json()
                return acknowledged
            case 204:
                return {}
            case 404 if order.erases and not is_first:
                return {}
            case 503 if "retry-after" in answer.headers:
                return None
        self._surprise(order, f"{answer.status_code} {answer.headers} {answer.text}")
        return None

    def _surprise(self, order: Order, what: str) -> None:
        moment = f"{datetime.now():%H:%M:%S.%f}"  # noqa: DTZ005 - as in the server's log
        self._account.surprises.append(f"{moment} {order.method} {order.path}: {what}")

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        return session


class Fleet:
    """Clients at work: `with Fleet(...)` starts them; at the end each finishes what it has."""

    def __init__(
        self, seed: int, url: Callable[[], str], users: Sequence[Sequence[str]], name: str
    ) -> None:
        """A client for each of `users`, which no two have in common, and movies of their own."""
        self.account = Account()
        movies = [f"{name}-movie-{n}" for n in range(MOVIES_PER_FLEET)]
        self._changed = threading.Condition()
        self._clients = [
            Client(
                f"{name}{seed}-{n}",
                Random(f"{seed} {n}"),  # noqa: S311 - no secret
                url,
                self.account,
                of_client,
                movies,
                self._tell,
            )
            for n, of_client in enumerate(users)
        ]

    def __enter__(self) -> "Fleet":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *failure: Any) -> None:
        for client in self._clients:
            client.stop()
        if failure[0] is None:
            for client in self._clients:
                client.join(PROGRESS_TIMEOUT_S)
                assert not client.is_alive(), f"{client.name} is never answered"

    def wait_until_all_get_on(self, times: int = 3) -> None:
        """Returns when each client has had so many more acknowledgements."""
        goals = [client.done + times for client in self._clients]
        with self._changed:
            reached = self._changed.wait_for(
                lambda: all(c.done >= goal for c, goal in zip(self._clients, goals, strict=True)),
                PROGRESS_TIMEOUT_S,
            )
        left = [c.name for c, goal in zip(self._clients, goals, strict=True) if c.done < goal]
        assert reached, f"no longer answered: {left}; {self.account.outcomes}"

    def wait_for_outcome(self, outcome: str, times: int) -> None:
        """Returns when so many attempts in all have ended so."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self.account.outcomes[outcome] >= times, PROGRESS_TIMEOUT_S
            ), self.account.outcomes

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


def users_of(shard: int, shards: int, number: int, name: str) -> list[str]:
    """Users that one shard owns."""
    found: list[str] = []
    n = 0
    while len(found) < number:
        user = f"{name}-{n}"
        n += 1
        if shard_of(user, shards) == shard:
            found.append(user)
    return found


def users_anywhere(clients: int, name: str) -> list[list[str]]:
    """For so many clients."""
    return [[f"{name}-{c}-{n}" for n in range(USERS_PER_CLIENT)] for c in range(clients)]


def _unix_ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
