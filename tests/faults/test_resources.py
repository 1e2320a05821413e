"""A real server short of descriptors, capacity or a shard: clear answers, flat memory, recovery."""

import asyncio
import contextlib
import gzip
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import requests

from api.protocol import DESCRIPTORS_KEPT
from api.settings import Settings
from persistence.directory import DataDirectory
from tests.faults.clients import users_of
from tests.faults.conftest import rounds
from tests.playhead import Playhead, eventually, refused

SHARDS = 2
QUEUE_EVENTS_MAX = 2000
SHARD_TIMEOUT_S = 2
#: A sender has so many events in each request.
BATCH = 500
SENDERS = 48
OVERLOADED_S = 3
IDLE_CONNECTIONS = 1500
MIB = 1 << 20


@pytest.fixture(scope="module")
def strained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One with small bounds, for all tests that leave it whole; use movies of your own."""
    playhead = Playhead(
        tmp_path_factory.mktemp("strained"),
        *("--shards", str(SHARDS)),
        *("--queue-events-max", str(QUEUE_EVENTS_MAX)),
        *("--shard-timeout-s", str(SHARD_TIMEOUT_S)),
        *("--segment-bytes", "20000"),
        *("--snapshot-log-bytes", "1000000"),
    )
    playhead.start()
    yield playhead
    playhead.kill()


def event(user: str, slug: str, at: int) -> dict[str, Any]:
    return {"user": user, "slug": slug, "at": at, "id": f"{slug}-{at}"}


def address_of(playhead: Playhead) -> tuple[str, int]:
    host, port = re.findall(r"//(.+):(\d+)", playhead.url)[0]
    return host, int(port)


def shard_process(playhead: Playhead, shard: int) -> psutil.Process:
    """The one that has the shard's log open."""
    folder = str(playhead.data_dir / f"shard-{shard:04}")
    (process,) = [
        each
        for each in playhead.children("ShardActor")
        if any(file.path.startswith(folder) for file in each.open_files())
    ]
    return process


def is_ready(playhead: Playhead) -> bool:
    return playhead.get("/readyz").status_code == 200


# Descriptors


@contextlib.contextmanager
def descriptors_left(process: psutil.Process, left: int) -> Iterator[None]:
    """What is open stays open, and `left` more can be opened meanwhile."""
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path(f"/proc/{process.pid}/fd").iterdir()}
    free = (number for number in count() if number not in taken)
    limit = next(islice(free, left, None))  # a new one gets the lowest number that is free
    process.rlimit(psutil.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, before)


def test_a_worker_without_descriptors_says_so_and_keeps_those_it_has(strained: Playhead) -> None:
    (worker,) = strained.children("api.worker")
    user = "worker descriptors"
    assert strained.post("/", json=event(user, "few", 0)).status_code == 200
    answers = []
    with descriptors_left(worker, DESCRIPTORS_KEPT + 8), contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS_KEPT):
            client = stack.enter_context(socket.create_connection(address_of(strained), 10))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(4096))
        assert strained.post("/", json=event(user, "few", 10)).status_code == 200
    statuses = {answer[:12] for answer in answers}
    assert b"HTTP/1.1 200" in statuses
    assert b"HTTP/1.1 503" in statuses
    assert statuses <= {b"HTTP/1.1 200", b"HTTP/1.1 503", b""}
    assert requests.get(f"{strained.url}/v1/users/{user}", timeout=30).json()["watch_seconds"] == 10
    assert strained.children("api.worker") == [worker]


def test_a_shard_without_descriptors_says_so_and_heals(strained: Playhead) -> None:
    (user,) = users_of(0, SHARDS, 1, "shard-descriptors")
    shard = shard_process(strained, 0)
    at = 10
    assert strained.post("/", json=event(user, "none", 0)).status_code == 200
    with descriptors_left(shard, 0):
        while (answer := strained.post("/", json=event(user, "none", at))).status_code == 200:
            at += 10
        assert answer.status_code == 503
        assert "Too many open files" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"
        unready = strained.get("/readyz")
        assert unready.status_code == 503
        assert "shard 0" in unready.json()["detail"]
        assert "Too many open files" in unready.json()["detail"]
        assert strained.get(f"/v1/users/{user}").json()["watch_seconds"] == at - 10
    eventually(lambda: is_ready(strained), "ready")
    assert strained.post("/", json=event(user, "none", at)).json()["accepted"] == 1
    assert strained.get(f"/v1/users/{user}").json()["watch_seconds"] == at
    assert shard_process(strained, 0) == shard
    assert "Traceback" not in strained.log


def test_too_few_descriptors_for_a_start_are_said_plainly(tmp_path: Path) -> None:
    said = refused("--data-dir", tmp_path, files_max=100)
    assert "a process may open no more than 100 files" in said
    assert "ulimit -n" in said


# A shard that hangs


def test_a_shard_that_hangs_is_named_and_the_other_goes_on(strained: Playhead) -> None:
    (mine,), (other,) = users_of(0, SHARDS, 1, "hangs"), users_of(1, SHARDS, 1, "hangs")
    for user in (mine, other):
        assert strained.post("/", json=event(user, "hangs", 0)).status_code == 200
    shard = shard_process(strained, 0)
    shard.suspend()
    try:
        with ThreadPoolExecutor() as pool:
            paths = ("/v1/movies/hangs", "/v1/movies", f"/v1/users/{mine}", "/readyz")
            asked = [pool.submit(requests.get, strained.url + path) for path in paths]
            asked.append(pool.submit(requests.post, strained.url, json=event(mine, "hangs", 10)))
        for answer in (each.result() for each in asked):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "shard 0 not available: no reply within 2 s" in answer.json()["detail"]
        for at in (10, 20):
            assert strained.post("/", json=event(other, "hangs", at)).json()["accepted"] == 1
        assert strained.get(f"/v1/users/{other}").json()["watch_seconds"] == 20
    finally:
        shard.resume()
    eventually(lambda: is_ready(strained), "ready")
    assert strained.post("/", json=event(mine, "hangs", 10)).status_code == 200
    assert strained.get("/v1/movies/hangs").json()["events"] == 5


# More than it can take


def test_twice_the_capacity(strained: Playhead) -> None:
    processes = [*strained.children("api.worker"), *strained.children("ShardActor")]
    overload = Overload(strained.url, processes)
    asyncio.run(overload.run())
    assert overload.refused > 0
    assert overload.retry_after == {"1"}
    assert overload.peak_bytes < overload.early_bytes + 200 * MIB
    movie = strained.get("/v1/movies/overload").json()
    assert movie["events"] == overload.acknowledged
    assert strained.post("/", json=event("afterwards", "m", 0)).status_code == 200
    assert is_ready(strained)


class Overload:
    """Senders that send as fast as they can, and each request until it is acknowledged."""

    def __init__(self, url: str, processes: list[psutil.Process]) -> None:
        self.acknowledged = self.refused = 0
        self.retry_after: set[str] = set()
        self.early_bytes = self.peak_bytes = 0
        self._url = url
        self._processes = processes
        self._has_ended = False

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            sending = [asyncio.create_task(self._send(session, n)) for n in range(SENDERS)]
            watching = asyncio.create_task(self._watch())
            await asyncio.sleep(rounds(OVERLOADED_S))
            self._has_ended = True
            await asyncio.gather(*sending, watching)

    async def _send(self, session: aiohttp.ClientSession, sender: int) -> None:
        number = 0
        while not self._has_ended:
            number += 1
            events = [
                {"user": f"overload-{sender}-{n % 10}", "slug": "overload", "at": n}
                for n in range(BATCH)
            ]
            headers = {"Idempotency-Key": f"{sender}-{number}"}
            while not await self._try(session, events, headers):
                pass

    async def _try(
        self, session: aiohttp.ClientSession, events: list[Any], headers: dict[str, str]
    ) -> bool:
        async with session.post(self._url, json=events, headers=headers) as answer:
            if answer.status == 503:
                self.refused += 1
                self.retry_after.add(answer.headers["Retry-After"])
                return False
            counted = await answer.json()
            self.acknowledged += counted["accepted"] + counted["duplicates"]
            return True

    async def _watch(self) -> None:
        """Memory once all are at it, and at most."""
        await asyncio.sleep(1)
        self.early_bytes = self._rss()
        while not self._has_ended:
            self.peak_bytes = max(self._rss(), self.peak_bytes)
            await asyncio.sleep(0.1)

    def _rss(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)


def test_many_idle_connections_keep_no_one_away(strained: Playhead) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection(address_of(strained), 10))
        answer = requests.post(strained.url, json=event("idle", "m", 0), timeout=30)
        assert answer.status_code == 200


def test_bodies_that_are_too_large_take_no_memory(strained: Playhead) -> None:
    (worker,) = strained.children("api.worker")
    before = worker.memory_info().rss
    bomb = gzip.compress(bytes(512 * MIB), 1)
    for _ in range(3):
        answer = strained.post("/", data=bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 413
    for head, body in (
        (b"Content-Length: 99999999999\r\n\r\n", b""),
        (b"Content-Length: 99999999999999999999999999\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n", (b"100000\r\n" + bytes(MIB) + b"\r\n") * 20),
    ):
        with socket.create_connection(address_of(strained), 30) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
            with contextlib.suppress(ConnectionError):
                client.sendall(body)
            with contextlib.suppress(ConnectionError):
                assert client.recv(4096).startswith(b"HTTP/1.1 4")
    assert worker.memory_info().rss < before + 100 * MIB
    assert strained.children("api.worker") == [worker]


# Data of a newer version


def test_a_newer_manifest_is_refused(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, Settings().rules().as_dict()).close()
    manifest = tmp_path / "MANIFEST.json"
    write_newer_format(manifest)
    said = refused("--data-dir", tmp_path)
    assert f"{manifest} has format 99" in said
    assert "start it with the version that wrote it, or a newer one" in said


def test_newer_segments_and_snapshots_are_refused(strained: Playhead) -> None:
    folders = [strained.data_dir / f"shard-{shard:04}" for shard in range(SHARDS)]
    users = users_of(1, SHARDS, BATCH, "newer")

    def is_saved() -> bool:
        strained.post("/", json=[event(user, "newer", 0) for user in users])
        return any((folders[1] / "snapshots").glob("[0-9]*[0-9]"))

    eventually(is_saved, "a snapshot")
    segment = max((folders[0] / "log").glob("*.log"))
    snapshot = max((folders[1] / "snapshots").glob("[0-9]*[0-9]")) / "MANIFEST.json"
    whole = {path: path.read_bytes() for path in (segment, snapshot)}
    with segment.open("r+b") as file:
        file.seek(len(b"PHLOG\0"))
        file.write((99).to_bytes(2, "little"))
    write_newer_format(snapshot)
    for process in strained.children("ShardActor"):
        process.kill()
    reasons = [f"{path} has format 99" for path in whole]
    eventually(lambda: all(each in strained.get("/readyz").text for each in reasons), "refused")
    for path, content in whole.items():
        path.write_bytes(content)
    eventually(lambda: is_ready(strained), "ready")


def write_newer_format(path: Path) -> None:
    path.write_text(re.sub(r'"format": *\d+', '"format": 99', path.read_text(), count=1))
