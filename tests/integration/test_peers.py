"""What playhead is measured against counts as it does: the peers, and how they are started."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
import psutil
import pytest
import requests
from redis import Redis

from aggregator.reference import Reference
from benchmarks import packages, positions, subjects
from benchmarks.bench import Bench
from benchmarks.peers import POSTGRES_USER, parse, stores
from benchmarks.peers.positions import install
from benchmarks.server import running
from benchmarks.subjects import CEILING, POSTGRES, REDIS_ALWAYS, Subject
from tests.playhead import eventually

SEED = int(os.environ.get("PLAYHEAD_SEED", "1"))
TIMEOUT_S = 30
IDLE_MS = 1_800_000
#: A Redis service that counts several events of a batch with one run of its script.
REDIS_BY_TENS = "redis by tens"
PEERS = (REDIS_ALWAYS, REDIS_BY_TENS, POSTGRES)
NDJSON = {"Content-Type": "application/x-ndjson"}

Json = dict[str, Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name, for sockets, that PostgreSQL's user can be let through to."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest) -> Iterator["Peer"]:
    """A running peer; use names of your own."""
    name = request.param
    _skip_without(name)
    with tempfile.TemporaryDirectory() as made, _started(name, Path(made)) as subject:
        yield Peer(subject, Path(made))


def _skip_without(name: str) -> None:
    needed = "initdb" if name == POSTGRES else "redis-server"
    if stores.program(needed) is None:
        pytest.skip(f"{needed} is not installed")


@contextmanager
def _started(name: str, folder: Path) -> Iterator[Subject]:
    with ExitStack() as stack:
        if name != REDIS_BY_TENS:
            yield stack.enter_context(subjects.started([name], folder))[name]
            return
        socket, store_pid = stack.enter_context(stores.redis(folder, "everysec"))
        flags = ("--events-a-run", "10", "--redis-socket", str(socket))
        url, pid = stack.enter_context(running("benchmarks.peers.redis_service", *flags))
        yield Subject(name, url, pid, store_pid)


class Peer:
    """A peer as its clients know it, and the way behind its back."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject = subject
        self._folder = folder

    def post(self, body: Any, path: str = "/v1/events") -> requests.Response:
        return requests.post(self.subject.url + path, json=body, timeout=TIMEOUT_S)

    def watch(self, user: str, slug: str, *positions: float) -> None:
        for at in positions:
            self.post({"user": user, "slug": slug, "at": at}, "/").raise_for_status()

    def get(self, path: str) -> requests.Response:
        return requests.get(self.subject.url + path, timeout=TIMEOUT_S)

    def progress(self, user: str, slug: str) -> Json:
        progress: Json = self.get(f"/v1/users/{quote(user, '')}/movies/{quote(slug, '')}").json()
        return progress

    def watch_seconds(self, kind: str, name: str) -> float:
        return float(self.get(f"/v1/{kind}/{quote(name, '')}").json()["watch_seconds"])

    def age(self, user: str, slug: str, by_ms: int) -> None:
        """Has the pair's last event be so long ago."""
        if self.subject.name == POSTGRES:
            asyncio.run(self._age_row(user, slug, by_ms))
            return
        (socket,) = self._folder.rglob("redis.sock")
        with Redis(unix_socket_path=str(socket)) as redis:
            redis.hincrby(f"pair:{user}\n{slug}", "time_ms", -by_ms)

    async def _age_row(self, user: str, slug: str, by_ms: int) -> None:
        host = str(self._folder / "postgres")
        connection = await asyncpg.connect(host=host, user=POSTGRES_USER, database="postgres")
        await connection.execute(
            "UPDATE pairs SET time_ms = time_ms - $3 WHERE name = $1 AND slug = $2",
            *(user, slug, by_ms),
        )
        await connection.close()


# Counting


def test_steps_of_a_minute_or_less_count_and_seeks_do_not(peer: Peer) -> None:
    peer.watch("ana", "steps", 5, 15.5, 75.5, 500, 490, 490, 550.001)
    progress = peer.progress("ana", "steps")
    assert progress["watch_seconds"] == 10.5 + 60
    assert progress["latest"]["at"] == 550.001
    assert progress["events"] == 7
    assert peer.watch_seconds("users", "ana") == 70.5
    assert peer.watch_seconds("movies", "steps") == 70.5


@pytest.mark.parametrize(("away_ms", "counted"), [(IDLE_MS - 10_000, 10), (IDLE_MS + 1, 0)])
def test_nothing_counts_across_a_break_of_half_an_hour(
    peer: Peer, away_ms: int, counted: int
) -> None:
    user = f"away-{away_ms}"
    peer.watch(user, "break", 10)
    peer.age(user, "break", away_ms)
    peer.watch(user, "break", 20)
    assert peer.watch_seconds("users", user) == counted


def test_an_event_before_the_last_one_is_counted_as_if_it_were_now(peer: Peer) -> None:
    peer.watch("early", "clock", 10)
    peer.age("early", "clock", -60_000)  # as when the clock was set back
    before = peer.progress("early", "clock")["latest"]["time"]
    peer.watch("early", "clock", 20)
    progress = peer.progress("early", "clock")
    assert progress["watch_seconds"] == 10
    assert progress["latest"]["time"] == before


def test_one_event_an_array_and_lines_add_up_to_what_playhead_says(peer: Peer) -> None:
    random, reference = Random(SEED), Reference()  # noqa: S311 - nothing here is secret
    at = {(f"user-{u}", f"film-{m}"): 0.0 for u in range(5) for m in range(4)}
    for number in range(60):
        events = []
        for _ in range(random.choice([1, 1, 3, 40])):
            user, slug = random.choice(list(at))
            step_s = random.choice([0, 0.25, 10, 60, 60.001, -5, 900])
            at[user, slug] = round(max(0, at[user, slug] + step_s), 3)
            events.append({"user": user, "slug": slug, "at": at[user, slug]})
            reference.apply(user, slug, round(at[user, slug] * 1000), number)
        if len(events) == 1:
            answer = peer.post(events[0], "/")
        elif number % 2:
            answer = peer.post(events)
        else:
            lines = b"\n".join(map(orjson.dumps, events))
            url = f"{peer.subject.url}/v1/events"
            answer = requests.post(url, data=lines, headers=NDJSON, timeout=TIMEOUT_S)
        assert answer.json()["accepted"] == len(events)
    for (user, slug), pair in reference.pairs.items():
        progress = peer.progress(user, slug)
        assert progress["watch_seconds"] == pair.watch_ms / 1000, f"seed {SEED}"
        assert progress["latest"]["at"] == pair.latest_ms / 1000, f"seed {SEED}"
        assert progress["events"] == pair.events, f"seed {SEED}"
        assert peer.watch_seconds("users", user) == reference.user(user).watch_ms / 1000
        assert peer.watch_seconds("movies", slug) == reference.movie(slug).watch_ms / 1000


def test_requests_at_the_same_time_neither_lose_anything_nor_block_each_other(peer: Peer) -> None:
    clients, rounds, movies = 8, 12, 30
    users = [f"busy-{number}" for number in range(10)]

    def send(client: int) -> None:
        """Pairs of its own and pairs that all have, in an order of its own."""
        random = Random(SEED + client)  # noqa: S311
        pairs = [(u, f"same-{m}") for u in users for m in range(client, movies, clients)]
        for step in range(rounds):
            random.shuffle(pairs)
            batch = [{"user": u, "slug": slug, "at": step * 2} for u, slug in pairs]
            crowd = [{"user": user, "slug": "crowd", "at": 0} for user in users]
            assert peer.post(batch + random.sample(crowd, len(crowd))).ok
            user, slug = pairs[0]
            assert peer.post({"user": user, "slug": slug, "at": step * 2 + 1}, "/").ok

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, range(clients)))
    watched_s = (rounds - 1) * 2
    by_movie = [peer.watch_seconds("movies", f"same-{movie}") for movie in range(movies)]
    by_user = [peer.watch_seconds("users", user) for user in users]
    by_pair = [
        peer.progress(user, f"same-{movie}")["watch_seconds"]
        for user in users
        for movie in range(movies)
    ]
    crowd = [peer.progress(user, "crowd")["events"] for user in users]
    assert crowd == [clients * rounds] * len(users)
    # A single event after the last batch adds a second.
    assert all(watched_s <= seconds <= watched_s + 1 for seconds in by_pair)
    assert sum(by_movie) == sum(by_user) == sum(by_pair) == watched_s * len(by_pair) + clients


# Asking


def test_what_was_never_seen_is_not_there(peer: Peer) -> None:
    for path in ("/v1/users/nobody", "/v1/movies/nothing", "/v1/users/nobody/movies/nothing"):
        assert peer.get(path).status_code == 404


def test_who_has_not_watched_anything_yet_is_there(peer: Peer) -> None:
    peer.watch("new", "begun", 0)
    assert peer.watch_seconds("users", "new") == peer.watch_seconds("movies", "begun") == 0


def test_names_are_taken_as_they_are(peer: Peer) -> None:
    peer.watch("a/ü:%2F", "b c", 1, 2)
    assert peer.progress("a/ü:%2F", "b c")["watch_seconds"] == 1
    assert peer.watch_seconds("users", "a/ü:%2F") == 1


@pytest.mark.parametrize("body", [{"user": "ana"}, [{"user": "ana", "slug": "m", "at": -1}], "no"])
def test_what_is_no_event_is_refused(peer: Peer, body: Any) -> None:
    assert peer.post(body).status_code == 400


def test_no_events_are_no_fault(peer: Peer) -> None:
    assert peer.post([]).json() == {"accepted": 0}


@pytest.mark.parametrize("peer", [REDIS_ALWAYS], indirect=True, scope="module")
def test_redis_has_plain_strings_that_count_nothing(peer: Peer) -> None:
    events = [{"user": "str/ing", "slug": f"film-{n}", "at": float(n)} for n in range(3)]
    assert peer.post(events, "/get").ok
    assert peer.get("/get/str%2Fing/film-2").json() == events[2]
    assert peer.get("/get/str%2Fing/film-3").status_code == 404
    assert peer.get("/v1/users/str%2Fing").status_code == 404


# Subjects


def test_a_subject_is_all_of_its_processes(peer: Peer) -> None:
    subject = peer.subject
    pids = {process.pid for process in subject.processes()}
    assert {subject.pid, subject.store_pid} < pids if subject.name == POSTGRES else len(pids) == 2
    assert subject.memory_bytes() > psutil.Process(subject.pid).memory_full_info().uss
    before_s = subject.cpu_seconds()
    while subject.cpu_seconds() == before_s:  # a clock tick is 10 ms
        assert peer.post([{"user": "cpu", "slug": "m", "at": n} for n in range(1000)]).ok


@pytest.mark.parametrize("name", [REDIS_ALWAYS, POSTGRES])
def test_a_subject_goes_on_with_what_it_had_and_leaves_nothing_running(
    folder: Path, name: str
) -> None:
    _skip_without(name)
    with subjects.started([name], folder) as running:
        Peer(running[name], folder).watch("ana", "film", 10, 20)
        processes = running[name].processes()
    assert processes
    assert not any(process.is_running() for process in processes)
    with subjects.started([name], folder) as running:
        peer = Peer(running[name], folder)
        peer.watch("ana", "film", 30)
        assert peer.watch_seconds("users", "ana") == 20


def test_the_ceiling_takes_everything_and_says_nothing(folder: Path) -> None:
    with subjects.started([CEILING], folder) as running:
        url = running[CEILING].url
        for answer in (
            requests.post(url, data=b"{", timeout=TIMEOUT_S),
            requests.post(f"{url}/v1/events", data=b"x" * (1 << 20), timeout=TIMEOUT_S),
            requests.get(f"{url}/v1/users/ana%2F/movies/film?limit=1", timeout=TIMEOUT_S),
        ):
            assert (answer.status_code, answer.content) == (204, b"")


def test_the_others_stand_still_while_one_is_measured() -> None:
    with (
        running("benchmarks.peers.ceiling") as (url, pid),
        running("benchmarks.peers.ceiling") as (other_url, other_pid),
    ):
        one, other = Subject("one", url, pid), Subject("other", other_url, other_pid)
        with subjects.alone(one, [one, other]):
            eventually(
                lambda: psutil.Process(other_pid).status() == psutil.STATUS_STOPPED, "standing"
            )
            assert requests.get(url, timeout=TIMEOUT_S).ok
        assert requests.get(other_url, timeout=TIMEOUT_S).ok


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(SystemExit, match="Unknown option"),
        running("benchmarks.peers.ceiling", "--nonsense"),
    ):
        raise AssertionError("unreachable")


# Parsing, and the programs


def test_parsing_is_measured_in_events() -> None:
    bodies = [orjson.dumps([{"at": n}] * 10) for n in range(3)]
    one = parse.events_per_second(bodies, 1, 0.05)
    assert one > 0
    with pytest.raises(subprocess.CalledProcessError):
        parse.events_per_second([b"["], 1, 0.05)


def test_without_the_programs_the_rest_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "program", lambda _: None)
    found = packages.prepare(install=False)
    assert found.subjects == (subjects.PLAYHEAD, CEILING)
    assert not found.has_wrk
    assert [sentence.split()[0] for sentence in found.missing] == ["wrk", "redis-server", "initdb"]
    assert packages.versions() == {}


@pytest.mark.parametrize("missing", ["npm", "node", None])
def test_where_there_is_no_npm_positions_are_not_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    monkeypatch.setattr(stores, "program", lambda name: None if name == missing else name)
    with closing(Bench(folder, subjects.NAMES, 1, 1, True)) as bench:
        assert bool(positions.plan(bench)) == (missing is None)
    assert not [*folder.iterdir()]
    missed = packages.prepare(install=False).missing
    assert any(each.startswith("positions") for each in missed) == (missing is not None)


def test_where_npm_fails_its_reason_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = folder / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o700)
    monkeypatch.setattr(stores, "program", lambda _: str(npm))
    with pytest.raises(SystemExit, match="npm failed:\nno network"):
        install(folder)
    assert {"package.json", "service.js"} <= {path.name for path in folder.iterdir()}
