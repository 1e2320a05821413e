"""Copies of the data of a running server, and its log for people."""

import asyncio
import subprocess
import threading
import time
from pathlib import Path

import pytest

from aggregator.commands import SetPosition
from aggregator.event import Event
from aggregator.shard import Shard
from tests.command import command
from tests.playhead import COMMAND, Playhead
from tests.shards import crash, order, send, settings_of


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As people do, in a process of its own."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def test_a_backup_made_while_events_come_in_is_whole(playhead: Playhead, tmp_path: Path) -> None:
    playhead.start("--shards", "2", "--snapshot-log-bytes", "8192")
    counted = {"before": 0, "all": 0}
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.is_set():
            users = [f"user{number}" for number in range(20)]
            at = counted["all"] // 20
            events = [{"user": user, "slug": "m", "at": at} for user in users]
            assert playhead.post("/", json=events).json()["accepted"] == 20
            counted["all"] += 20
            time.sleep(0.02)  # or the server would leave the copy no time

    sender = threading.Thread(target=keep_sending)
    sender.start()
    while counted["all"] < 1000:
        assert sender.is_alive()
        time.sleep(0.05)
    counted["before"] = counted["all"]
    copied = run("backup", tmp_path / "copy", "--data-dir", playhead.data_dir)
    assert copied.returncode == 0, copied.stderr
    stop.set()
    sender.join()
    assert not list(playhead.data_dir.glob("*.tmp"))
    again = command("backup", tmp_path / "copy", "--data-dir", playhead.data_dir)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    playhead.kill()

    checked = command("check", "--data-dir", tmp_path / "copy")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    restored = Playhead(tmp_path)
    done = run("restore", tmp_path / "copy", "--data-dir", restored.data_dir)
    assert done.returncode == 0, done.stderr
    try:
        restored.start()
        events = restored.get("/v1/movies/m").json()["events"]
        assert counted["before"] <= events <= counted["all"]
    finally:
        restored.kill()


def test_a_backup_of_nothing_says_so(tmp_path: Path) -> None:
    failed = run("backup", tmp_path / "copy", "--data-dir", tmp_path)
    assert failed.returncode == 1
    assert "holds no data of playhead's" in failed.stderr
    assert not (tmp_path / "copy").exists()


def test_a_restore_of_nothing_names_the_backup(tmp_path: Path) -> None:
    failed = command("restore", tmp_path / "nope", "--data-dir", tmp_path / "data")
    assert failed.returncode == 1
    [said] = failed.stderr.strip().splitlines()[-1:]
    assert said.startswith(f"playhead: {tmp_path / 'nope'} is no backup")
    assert "--data-dir" not in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nofile", "there is no file {}"),
        (f"{1:020}.log", "there is no file {}"),
        ("shard-0000", "{} is no log segment: name a file such as …/shard-0000/log/"),
        ("README.md", "{} is no log segment: name a file such as …/shard-0000/log/"),
    ],
)
def test_what_is_no_segment_is_not_called_damaged(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "shard-0000").mkdir()
    (tmp_path / "README.md").write_text("no segment")
    failed = command("log", "dump", tmp_path / name)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"playhead: {said.format(tmp_path / name)}")
    assert "damaged" not in failed.stderr


def test_the_log_can_be_read_by_people(tmp_path: Path) -> None:
    async def live() -> None:
        shard = Shard(settings_of(tmp_path))
        event = Event("ann", "m", 1.5, session="tv", duration=60.0)
        await send(shard, 1, [event, Event("bob", "m", 2.0)])
        await order(shard, 1, SetPosition("ann", "m", 30_000))
        crash(shard)

    asyncio.run(live())
    segment = tmp_path / "shard-0000" / "log" / f"{1:020}.log"
    shown = command("log", "dump", segment)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines if not line.startswith(" ")] == ["1", "2"]
    assert '{"user":"ann","slug":"m","session":"tv","at_ms":1500,"duration_ms":60000}' in lines[1]
    assert '{"user":"bob","slug":"m","at_ms":2000}' in lines[2]
    assert '"SetPosition"' in lines[4]
    assert len(command("log", "dump", segment, "--no-events").stdout.splitlines()) == 2
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(bytes(content))
    damaged = run("log", "dump", segment)
    assert damaged.returncode == 1
    assert "is damaged at byte 32" in damaged.stderr
