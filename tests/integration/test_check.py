"""`playhead check` on the data of real servers: while they run, after, and when it is tampered."""

import random
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persistence import manifest
from persistence.facts import Origin, encode, in_order
from persistence.snapshot import FORMAT, Manifest, TableFile
from persistence.store import Store, StoredFile
from tests.command import Ended, command
from tests.playhead import COMMAND, Playhead, eventually

#: Facts are stored and erases made final while it is checked, every few seconds: a checkpoint takes
#: a second of the processor.
BUSY = (
    *("--snapshot-log-bytes", "16384", "--snapshot-interval-s", "3"),
    *("--erase-delay-s", "2", "--segment-bytes", "4096"),
)


def check(data_dir: Path) -> Ended:
    return command("check", "--data-dir", data_dir)


class Traffic:
    """Random viewers who use everything that there is."""

    def __init__(self, server: Playhead, seed: int = 1, refusal: int = 200) -> None:
        """`refusal` is the status of changes that the server does not carry out."""
        self._server = server
        self._refusal = refusal
        self._random = random.Random(seed)  # noqa: S311 - traffic, not keys
        self._at: dict[tuple[str, str], int] = {}

    def go_on(self, requests: int) -> None:
        for _ in range(requests):
            answer = self._server.post("/", json=[self._event() for _ in range(30)])
            assert answer.status_code == 200, answer.text
            self._change()

    def _names(self) -> tuple[str, str]:
        return f"user {self._random.randrange(40)}", f"movie {self._random.randrange(8)}"

    def _event(self) -> dict[str, Any]:
        user, slug = self._names()
        step = self._random.choice([10, 10, 10, 30, 400, -50])
        at = self._at[user, slug] = max(0, self._at.get((user, slug), 0) + step) % 3_000
        event: dict[str, Any] = {"user": user, "slug": slug, "at": at}
        if self._random.random() < 0.2:
            event["session"] = self._random.choice(["tv", "phone"])
        if self._random.random() < 0.2:
            event["id"] = str(self._random.randrange(20))
        if self._random.random() < 0.2:
            event["duration"] = self._random.choice([3_000, 3_600])
        if self._random.random() < 0.2:
            event["ts"] = int(time.time() * 1000) - self._random.randrange(5 * 10**9)
        return event

    def _change(self) -> None:
        user, slug = self._names()
        pair = f"/v1/users/{user}/movies/{slug}"
        catalogue = {"duration": self._random.randrange(100, 3_000), "title": slug.title()}
        method, path, body = self._random.choice(
            [
                ("PUT", f"{pair}/position", {"at": self._random.randrange(2_000)}),
                ("PUT", f"{pair}/completed", None),
                ("DELETE", f"{pair}/completed", None),
                ("PUT", f"{pair}/hidden", None),
                ("PUT", f"/v1/movies/{slug}", catalogue),
                ("DELETE", pair, None),
                ("DELETE", f"/v1/users/{user}", None),
            ]
        )
        url = self._server.url + path
        answer = self._server.session.request(method, url, json=body, timeout=30)
        assert answer.status_code in (200, 204, 404, self._refusal), answer.text


def agreeing(result: Ended, shards: int) -> list[str]:
    """What each shard's line says, of a check that found nothing."""
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("shard")]
    assert len(lines) == shards
    assert all(" agree after record " in line for line in lines)
    assert result.stdout.splitlines()[-1].endswith(": nothing found")
    return lines


def shards_of(playhead: Playhead) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = playhead.get("/v1/stats").json()["shards"]
    return shards


def test_a_server_under_load_agrees_with_its_disk(playhead: Playhead) -> None:
    playhead.start("--shards", "2", *BUSY)
    traffic = Traffic(playhead)
    traffic.go_on(20)
    eventually(lambda: all(each["snapshot_sequence"] for each in shards_of(playhead)), "saved")
    stop = threading.Event()

    def keep_going() -> None:
        while not stop.is_set():
            traffic.go_on(1)
            time.sleep(0.1)  # or the server would leave the check no time

    load = threading.Thread(target=keep_going)
    load.start()
    try:
        results = [check(playhead.data_dir) for _ in range(2)]
    finally:
        stop.set()
        load.join()
    for line in agreeing(results[0], 2) + agreeing(results[1], 2):
        assert ": memory, snapshot " in line
        assert ", stored events agree" in line
    assert playhead.stop() == 0
    for line, memory in zip(*[iter(check_stopped(playhead.data_dir))] * 2, strict=True):
        assert ": snapshot " in line
        assert memory == "  left out: memory: no server of this data was found here"


def check_stopped(data_dir: Path) -> list[str]:
    result = check(data_dir)
    agreeing(result, 2)
    return result.stdout.splitlines()[:-1]


def test_a_server_that_was_killed_agrees_with_its_disk(playhead: Playhead) -> None:
    playhead.start("--shards", "1", "--erase-delay-s", "3600")
    Traffic(playhead).go_on(20)
    agreeing(check(playhead.data_dir), 1)
    playhead.kill()
    lines = agreeing(check(playhead.data_dir), 1)
    assert all(": the log, stored events agree" in line for line in lines)
    playhead.start()
    Traffic(playhead, 2).go_on(5)
    agreeing(check(playhead.data_dir), 1)


def test_amounts_instead_of_positions(amounts: Playhead) -> None:
    Traffic(amounts, refusal=409).go_on(10)
    agreeing(check(amounts.data_dir), 1)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One whose data has two snapshots and several stored files."""
    flags = ("--shards", "1", "--snapshot-log-bytes", "16384", "--erase-delay-s", "0.1")
    with Playhead(tmp_path_factory.mktemp("used"), *flags).running() as playhead:
        Traffic(playhead).go_on(30)
        eventually(lambda: not shards_of(playhead)[0]["erasing"], "erased")
        playhead.post("/", json=[{"user": "calm", "slug": "movie", "at": at} for at in (1, 2)])
        yield playhead


@pytest.fixture
def running(used: Playhead) -> Playhead:
    """With its data as it made it, which a test may harm if it puts that right."""
    return used.running_again()


@pytest.fixture
def stopped(used: Playhead) -> Path:
    """Its data, once it has been stopped."""
    if used.is_running:
        assert used.stop() == 0
    return used.data_dir


@pytest.fixture
def data_dir(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stopped, tmp_path / "data"))


def tamper_with_facts(file: StoredFile) -> str:
    """Moves an event to the very end, with checksums as they must be; whose it was."""
    with file.open() as opened:
        facts = in_order(opened.read())
    rows = facts.to_pylist()
    row = next(row for row in rows if row["kind"] == "event")
    row["at_ms"] = 9_999_999_999  # so the furthest moment moves, also by an event that came late
    tampered = pa.Table.from_pylist(rows, facts.schema)
    file.path.write_bytes(encode(tampered, Origin(file.shard, file.first, file.last)))
    return str(row["user"])


def tamper_with_snapshot(snapshot: Path) -> None:
    """Gives a pair more watch time, with checksums as they must be."""
    path = snapshot / "pairs.parquet"
    pairs = pq.read_table(path)
    more = pa.array(pairs["watch_ms"].to_numpy() + (pairs["user"].to_numpy() == 0))
    number = pairs.column_names.index("watch_ms")
    pq.write_table(pairs.set_column(number, "watch_ms", more), path)
    content = path.read_bytes()
    written = manifest.read(snapshot, Manifest, FORMAT)
    files = written.tables | {"pairs": TableFile(len(content), zlib.crc32(content))}
    manifest.write(snapshot, msgspec.structs.replace(written, tables=files))


@contextmanager
def put_right(path: Path, untouched: Path) -> Iterator[None]:
    """Keeps a file or a folder as `untouched` meanwhile."""
    copy = shutil.copytree if path.is_dir() else shutil.copy
    copy(path, untouched)
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        untouched.rename(path)


def test_with_memory_it_is_known_which_one_is_wrong(running: Playhead, tmp_path: Path) -> None:
    newest = max(running.data_dir.glob("shard-0000/snapshots/*"))
    with put_right(newest, tmp_path / "snapshot"):
        tamper_with_snapshot(newest)
        result = check(running.data_dir)
    assert result.returncode == 1
    assert "progress: watch_ms of user " in result.stdout
    assert f". Most agree with memory: look at {newest}\n" in result.stdout
    file = Store(running.data_dir / "events", 0).files()[-1]
    with put_right(file.path, tmp_path / "file"):
        tamper_with_facts(file)
        result = check(running.data_dir)
    assert result.returncode == 1
    name = f"{running.data_dir / 'events'}: {file.path.parent.name}/{file.path.name}"
    assert f". Most agree with memory: look at {name}\n" in result.stdout
    agreeing(check(running.data_dir), 1)


def test_a_tampered_stored_file_is_found_and_named(data_dir: Path) -> None:
    agreeing(check(data_dir), 1)
    file = Store(data_dir / "events", 0).files()[1]
    user = tamper_with_facts(file)
    result = check(data_dir)
    assert result.returncode == 1
    assert "shard 0: DIFFERENT OR DAMAGED" in result.stdout
    assert f" of user {user!r}" in result.stdout
    assert f"{data_dir / 'events'}: " in result.stdout
    assert f"{file.path.parent.name}/{file.path.name}" in result.stdout
    assert "1 found" in result.stdout.splitlines()[-1]


def test_a_tampered_snapshot_is_found_and_named(data_dir: Path) -> None:
    newest = max(data_dir.glob("shard-0000/snapshots/*"))
    tamper_with_snapshot(newest)
    result = check(data_dir)
    assert result.returncode == 1
    assert "progress: watch_ms of user " in result.stdout
    assert str(newest) in result.stdout


def test_a_damaged_file_is_named(data_dir: Path) -> None:
    path = Store(data_dir / "events", 0).files()[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = check(data_dir)
    assert result.returncode == 1
    assert f"{path} is damaged at byte" in result.stdout
    path.unlink()
    after = Store(data_dir / "events", 0).folder.glob("*/*")
    result = check(data_dir)
    assert result.returncode == 1
    assert f"{min(after)} is damaged at byte 0: " in result.stdout
    assert "1 found" in result.stdout.splitlines()[-1]


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        [COMMAND, "check", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 1
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith(f"playhead: {tmp_path} holds no data of playhead's")
    )
    assert list(tmp_path.iterdir()) == []
