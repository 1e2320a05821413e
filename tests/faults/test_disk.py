"""A disk and a clock that fail under a real server: nothing acknowledged is lost, and it heals."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import requests

from aggregator.audit import check
from aggregator.shard import EXIT_CANNOT_WRITE
from api.settings import Settings
from benchmarks.player import Heartbeat
from persistence.directory import DataDirectory
from tests.faults.clients import Account, Fleet, users_of
from tests.faults.conftest import rounds
from tests.faults.failing_disk import FailingDisk, Happening, Rule
from tests.faults.small_disk import SmallDisk, small_disk
from tests.playhead import Playhead, eventually, refused

SHARDS = 2
QUEUE_EVENTS_MAX = 200
#: Of a checkpoint that met a full disk.
NO_CHECKPOINT = r"no checkpoint of shard \d: .*[Nn]o space left"
#: Of a stalled fdatasync.
SLOW_SYNC = r"fdatasync .*shard-0000.* takes longer than"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    return FailingDisk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def fragile(disk: FailingDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One on a disk that can fail, for all tests that leave it whole; use movies of your own."""
    playhead = Playhead(
        tmp_path_factory.mktemp("fragile"),
        *("--shards", str(SHARDS)),
        *("--queue-events-max", str(QUEUE_EVENTS_MAX)),
        *("--snapshot-log-bytes", "20000"),
        environment=disk.environment,
    )
    playhead.start()
    yield playhead
    playhead.kill()


def event(user: str, slug: str, at: int) -> dict[str, Any]:
    return {"user": user, "slug": slug, "at": at, "id": f"{slug}-{at}"}


def of_shard_0(*calls: str, **what: Any) -> Rule:
    return Rule(calls, "*/shard-0000/log/*", **what)


def is_ready(playhead: Playhead) -> bool:
    return playhead.get("/readyz").status_code == 200


def newest_segment(playhead: Playhead, shard: int) -> Path:
    return max((playhead.data_dir / f"shard-{shard:04}" / "log").glob("*.log"))


# A write that fails


@pytest.mark.parametrize(
    ("error", "reason"), [("ENOSPC", "no space left for"), ("EIO", "Input/output error")]
)
def test_a_write_that_fails_is_refused_and_heals(
    disk: FailingDisk, fragile: Playhead, error: str, reason: str
) -> None:
    (mine,), (other,) = users_of(0, SHARDS, 1, error), users_of(1, SHARDS, 1, error)
    for at in (0, 10):
        assert fragile.post("/", json=event(mine, error, at)).json()["accepted"] == 1
    segment = newest_segment(fragile, 0)
    before = segment.read_bytes()
    half = of_shard_0("write", bytes=30, times=1)
    with disk.failing(half, of_shard_0("write", "fsync", error=error)):
        for _ in range(2):
            refusal = fragile.post("/", json=event(mine, error, 20))
            assert refusal.status_code == 503
            assert reason in refusal.json()["detail"]
            assert refusal.headers["retry-after"] == "1"
        assert half.id in [each.rule for each in disk.happened()]
        assert segment.read_bytes() == before
        by_hand = fragile.session.put(
            f"{fragile.url}/v1/users/{mine}/movies/{error}/position", json={"at": 5}
        )
        assert by_hand.status_code == 503
        unready = fragile.get("/readyz")
        assert unready.status_code == 503
        assert "shard 0" in unready.json()["detail"]
        assert reason in unready.json()["detail"]
        assert fragile.get(f"/v1/users/{mine}").json()["watch_seconds"] == 10
        assert fragile.get(f"/v1/movies/{error}").json()["events"] == 2
        assert fragile.post("/", json=event(other, error, 0)).json()["accepted"] == 1
    if error == "ENOSPC":  # the next question finds out, else the next event
        eventually(lambda: is_ready(fragile), "ready")
    for accepted in (1, 0):
        answer = fragile.post("/", json=event(mine, error, 20)).json()
        assert (answer["accepted"], answer["duplicates"]) == (accepted, 1 - accepted)
    assert is_ready(fragile)
    assert fragile.get(f"/v1/users/{mine}").json()["watch_seconds"] == 20


# An fdatasync that fails or stalls


def test_an_fdatasync_that_fails_is_never_tried_again_and_nothing_is_acknowledged(
    disk: FailingDisk, fragile: Playhead
) -> None:
    def failed() -> list[Happening]:
        return [each for each in disk.happened() if each.rule == rule.id]

    users = users_of(0, SHARDS, 4, "sync")
    (other,) = users_of(1, SHARDS, 1, "sync")
    rule = of_shard_0("fdatasync", "fsync", error="EIO")
    with ThreadPoolExecutor(len(users)) as pool:
        with disk.failing(rule):
            sent = [pool.submit(fragile_post, fragile, event(user, "sync", 0)) for user in users]
            eventually(lambda: len({each.pid for each in failed()}) >= 2, "tried by the next one")
            assert fragile_post(fragile, event(other, "sync", 0)).status_code == 200
            assert [each for each in sent if is_acknowledged(each)] == []
        answers = [each.result() for each in sent]
    assert set(ends(disk)) == {str(EXIT_CANNOT_WRITE)}
    tried = [each.pid for each in failed() if each.call == "fdatasync"]
    assert len(tried) == len(set(tried)), "a process tried again"
    eventually(lambda: is_ready(fragile), "ready")
    for user, answer in zip(users, answers, strict=True):
        assert answer.status_code in (200, 503)
        again = fragile_post(fragile, event(user, "sync", 0)).json()
        assert answer.status_code == 503 or again["duplicates"] == 1
        assert fragile.get(f"/v1/users/{user}").json()["events"] == 1
    assert re.search(r"shard 0 ends: fdatasync .* failed", fragile.log)


def test_what_a_killed_process_wrote_is_synced_before_it_is_acknowledged(
    disk: FailingDisk, fragile: Playhead
) -> None:
    (user,) = users_of(0, SHARDS, 1, "written")
    stalled = of_shard_0("fdatasync", stall=True, times=1)
    failing = of_shard_0("fdatasync", "fsync", error="EIO")

    def pids_of(rule: Rule) -> set[int]:
        return {each.pid for each in disk.happened() if each.rule == rule.id}

    with ThreadPoolExecutor() as pool:
        with disk.failing(stalled, failing):
            sent = pool.submit(fragile_post, fragile, event(user, "written", 0))
            eventually(lambda: len(pids_of(stalled)) == 1, "written and not synced")
            psutil.Process(*pids_of(stalled)).kill()
            eventually(lambda: sent.done() or bool(pids_of(failing)), "tried by the next one")
            assert not is_acknowledged(sent)
        assert sent.result().status_code in (200, 503)
    eventually(lambda: is_ready(fragile), "ready")
    assert fragile_post(fragile, event(user, "written", 0)).json()["duplicates"] == 1
    assert fragile.get(f"/v1/users/{user}").json()["events"] == 1


def fragile_post(playhead: Playhead, body: Any) -> requests.Response:
    """From any thread."""
    return requests.post(playhead.url, json=body, timeout=60)


def ends(disk: FailingDisk) -> list[str]:
    """The exit codes of shards that ended themselves."""
    return [each.path for each in disk.happened() if each.call == "exit"]


def is_acknowledged(answer: "Future[requests.Response]") -> bool:
    return answer.done() and answer.result().status_code == 200


def test_while_an_fdatasync_stalls_the_queue_is_bounded_and_others_go_on(
    disk: FailingDisk, fragile: Playhead
) -> None:
    users = users_of(0, SHARDS, 4, "stall")
    (other,) = users_of(1, SHARDS, 1, "stall")
    stalled = of_shard_0("fdatasync", stall=True)
    many = [[event(user, "stall", at) for at in range(0, 900, 10)] for user in users]
    with ThreadPoolExecutor(len(users)) as pool:
        with disk.failing(stalled):
            first = pool.submit(fragile_post, fragile, many[0][:1])
            eventually(lambda: stalled.id in [e.rule for e in disk.happened()], "a stall")
            waiting = [pool.submit(fragile_post, fragile, events) for events in many[1:]]
            eventually(lambda: any(each.done() for each in waiting), "a full queue")
            (refusal,) = [each.result() for each in waiting if each.done()]
            assert refusal.status_code == 503
            assert refusal.headers["retry-after"] == "1"
            assert "send slower" in refusal.json()["detail"]
            for at in (0, 10, 20):
                assert fragile.post("/", json=event(other, "stall", at)).status_code == 200
            assert fragile.get("/v1/movies/stall").json()["events"] == 3
            eventually(lambda: re.search(SLOW_SYNC, fragile.log) is not None, "a warning")
        assert first.result().status_code == 200
        assert [each.result().status_code for each in waiting].count(200) == 2
    for events in many:
        fragile.post("/", json=events)
    assert fragile.get("/v1/movies/stall").json()["events"] == 3 + sum(map(len, many))


# A clock that jumps


def test_a_clock_that_jumps_takes_no_one_back(
    disk: FailingDisk, fragile: Playhead, seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - traffic, no secrets
    account, slug = Account(), f"clock-{seed}"
    users = [users_of(shard, SHARDS, 2, "clock") for shard in range(SHARDS)]
    received: list[tuple[int, str, str]] = []
    for hours in (0, -1, 24, 0, 25, -24):
        disk.shift_clock(hours * 3600)
        for _ in range(6):
            shard, at = random.randrange(SHARDS), len(received) * 10
            user = random.choice(users[shard])
            answer = fragile.post("/", json=event(user, slug, at)).json()
            assert answer["accepted"] == 1
            received.append((shard, user, answer["now"]))
            account.record(
                [Heartbeat(user, slug, float(at), None, None, None, None)], answer["now"]
            )
    disk.shift_clock(0)
    for shard in range(SHARDS):
        times = [now for of, _, now in received if of == shard]
        assert times == sorted(times)
    assert account.differences(fragile.url) == []
    for process in fragile.children("ShardActor"):
        process.kill()
    assert account.differences(fragile.url) == []
    for user in {user for _, user, _ in received}:
        lines = map(json.loads, fragile.get(f"/v1/users/{user}/export").text.splitlines())
        exported = [line["received"] for line in lines if line["type"] == "event"]
        assert exported == [now for _, of, now in received if of == user]


# A disk that is really full


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "3m") as tiny:
        yield tiny


@pytest.mark.timeout(300)  # two starts, and checkpoints by processes of low priority
def test_a_full_disk_under_load(tiny: SmallDisk, playhead: Playhead, seed: int) -> None:
    """Log, rotation, stored events and snapshots run out of space, wherever each is just then."""
    random = Random(seed)  # noqa: S311 - traffic, no secrets
    playhead.data_dir = tiny.path / "data"
    flags = ["--shards", "2", "--snapshot-interval-s", "2", "--segment-bytes", "20000"]
    playhead.start(*flags)
    users = [users_of(shard, SHARDS, 3, f"full-{n}") for n in range(2) for shard in range(SHARDS)]
    with Fleet(seed, lambda: playhead.url, users, "full") as fleet:
        for left_bytes in [random.randrange(200_000), 0] * rounds(1):
            fleet.wait_until_all_get_on()
            tiny.fill(left_bytes)
            eventually(lambda: re.search(NO_CHECKPOINT, playhead.log) is not None, "no checkpoint")
            # A checkpoint that fails leaves room for a while, so not every look finds it full.
            eventually(lambda: "no space left" in playhead.get("/readyz").text, "full")
            assert playhead.get("/v1/movies").status_code == 200
            tiny.free()
            eventually(lambda: is_ready(playhead), "ready again")
        fleet.wait_until_all_get_on()
    assert fleet.account.outcomes["503"] > 0
    assert fleet.account.surprises == []
    assert fleet.account.differences(playhead.url) == []
    playhead.kill()
    segment = newest_segment(playhead, 0)
    with segment.open("ab") as file:
        file.write(random.randbytes(10_000))  # an append that a crash cut short
    before = segment.read_bytes()
    tiny.fill()
    playhead.start(*flags)
    unready = playhead.get("/readyz").json()["detail"]
    assert "shard 0" in unready
    assert "No space left" in unready
    assert segment.read_bytes() == before
    erased = fleet.account.erased_users()  # a client may have done so last
    for user in users[1] + users[3]:  # of the other shard
        assert playhead.get(f"/v1/users/{user}").status_code == (404 if user in erased else 200)
    tiny.free()
    eventually(lambda: is_ready(playhead), "ready again")
    assert fleet.account.differences(playhead.url) == []
    assert check(playhead.data_dir).is_clean
    assert "Traceback" not in playhead.log


# A disk that cannot be used


def test_a_folder_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as tiny:
        used = tiny.path / "used"
        DataDirectory.open(used, Settings().rules().as_dict()).close()
        tiny.make_read_only()
        for path in (used, tiny.path / "new"):
            said = refused("--data-dir", path)
            assert said.startswith(f"playhead: cannot keep data in {path}: Read-only file system")
            assert "--data-dir" in said


def test_a_path_that_is_no_folder_is_said_plainly(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("something else")
    for path in (file, file / "data"):
        said = refused("--data-dir", path)
        assert said.startswith(f"playhead: cannot keep data in {path}: {file} is not a folder")
        assert "--data-dir" in said
    assert file.read_text() == "something else"
