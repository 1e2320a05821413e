"""Starting, stopping, and being killed: nothing acknowledged is lost."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from api.server import BIND_WAIT_S, StartError, bind
from persistence.directory import DataDirectory
from tests.integration.conftest import CONNECTIONS_MAX, connections_of
from tests.playhead import COMMAND, START_TIMEOUT_S, STOP_TIMEOUT_S, Playhead, eventually


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    playhead = Playhead(tmp_path_factory.mktemp("lasting"), "--shards", "1")
    yield playhead
    playhead.kill()


@pytest.fixture
def mortal(lasting: Playhead) -> Playhead:
    """One that a test may end in any way: the next one starts it. Use movies of your own."""
    return lasting.running_again()


def post(playhead: Playhead, user: str, start: int, stop: int, slug: str = "m") -> None:
    events = [{"user": user, "slug": slug, "at": at} for at in range(start, stop, 10)]
    assert playhead.post("/", json=events).json()["accepted"] == len(events)


def totals(playhead: Playhead, slug: str = "m") -> dict[str, Any]:
    movie: dict[str, Any] = playhead.get(f"/v1/movies/{slug}").json()
    del movie["watching_now"]  # moves with the clock
    return movie


def recovered(playhead: Playhead) -> tuple[int, int]:
    """How many events its shard had from the snapshot and from the log when it started."""
    found = re.search(r"(\d+) events from the snapshot, (\d+) from the log", playhead.log)
    assert found is not None
    return int(found[1]), int(found[2])


def events_in(playhead: Playhead) -> int:
    return int(playhead.get("/v1/stats").json()["events"])


def test_a_restart_goes_on_from_where_it_was(mortal: Playhead) -> None:
    post(mortal, "u", 0, 100, "restart")
    before, events = totals(mortal, "restart"), events_in(mortal)
    started = time.monotonic()
    assert mortal.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < 10
    assert "Traceback" not in mortal.log
    mortal.start()
    assert recovered(mortal) == (events, 0)
    assert totals(mortal, "restart") == before
    post(mortal, "u", 100, 150, "restart")
    assert totals(mortal, "restart")["watch_seconds"] == 140


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_while_it_starts(playhead: Playhead, number: signal.Signals) -> None:
    process = playhead.launch("--shards", "1")
    eventually(lambda: "data in" in playhead.log, "begun")
    time.sleep(0.3)  # now Ray is starting
    process.send_signal(number)
    assert process.wait(STOP_TIMEOUT_S) == 0, playhead.log
    assert "Traceback" not in playhead.log


@pytest.mark.parametrize("after_s", [0.3, 1.5])
def test_ctrl_c_while_it_starts(playhead: Playhead, after_s: float) -> None:
    """It reaches all of a terminal, also a worker that loads what it will serve with."""
    process = playhead.launch("--shards", "1")
    eventually(lambda: "data in" in playhead.log, "begun")
    eventually(lambda: playhead.children("api.worker") != [], "a worker")
    family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(STOP_TIMEOUT_S) == 0, playhead.log
    assert "Traceback" not in playhead.log
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    assert alive == []


def test_a_worker_killed_while_the_shards_start_is_replaced(playhead: Playhead) -> None:
    playhead.launch("--shards", "1")
    eventually(lambda: playhead.log_path.exists() and "data in" in playhead.log, "begun")
    eventually(lambda: playhead.children("api.worker") != [], "a worker")
    (worker,) = playhead.children("api.worker")
    worker.kill()
    eventually(lambda: "documentation" in playhead.log, "ready")
    assert playhead.stop() == 0
    assert "did not start" not in playhead.log


def test_all_of_it_killed(mortal: Playhead) -> None:
    earlier = events_in(mortal)
    post(mortal, "u", 0, 100, "killed")
    before = totals(mortal, "killed")
    mortal.kill()
    mortal.start()
    stored, logged = recovered(mortal)
    assert stored + logged == events_in(mortal) == earlier + 10
    assert logged >= 10
    assert totals(mortal, "killed") == before


def test_only_the_main_process_killed(mortal: Playhead) -> None:
    post(mortal, "u", 0, 100, "orphaned")
    before = totals(mortal, "orphaned")
    family = mortal.children("api.worker") + mortal.children("ShardActor")
    psutil.Process(mortal.pid).kill()
    assert mortal.process is not None
    mortal.process.wait(START_TIMEOUT_S)
    mortal.start()  # while what is left of the other one may still be ending
    assert totals(mortal, "orphaned") == before
    _, alive = psutil.wait_procs(family, timeout=START_TIMEOUT_S)
    assert alive == []


def test_a_killed_worker_is_replaced(twofold: Playhead) -> None:
    post(twofold, "u", 0, 100)
    workers = twofold.children("api.worker")
    assert len(workers) == 2
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=START_TIMEOUT_S)
    eventually(lambda: len(twofold.children("api.worker")) == 2, "replaced")
    assert totals(twofold)["watch_seconds"] == 90  # waits in the backlog until one is there


def test_a_killed_shard_comes_back_and_nothing_is_lost_or_counted_twice(mortal: Playhead) -> None:
    accepted: list[int] = []
    stopping = threading.Event()

    def keep_posting() -> None:
        with requests.Session() as session:
            at = 0
            while not stopping.is_set():
                event = {"user": "again", "slug": "again", "at": at, "id": str(at)}
                answer = session.post(mortal.url, json=event, timeout=60)
                if answer.status_code == 200:
                    accepted.append(at)
                    at += 1
                else:
                    assert answer.status_code == 503, answer.text
                    assert answer.headers["retry-after"] == "1"
                time.sleep(0.01)  # or the shard would be left no time to come back

    poster = threading.Thread(target=keep_posting)
    poster.start()
    for _ in range(2):
        time.sleep(1)
        goal = len(accepted) + 20
        (shard,) = mortal.children("ShardActor")
        shard.kill()
        eventually(lambda goal=goal: len(accepted) >= goal, "back")  # type: ignore[misc]
    stopping.set()
    poster.join(60)
    assert len(accepted) > 40
    found = mortal.get("/v1/users/again/movies/again").json()
    assert found["events"] == len(accepted)
    assert found["watch_seconds"] == accepted[-1]


def test_stopped_under_load_it_finishes_what_it_has(mortal: Playhead) -> None:
    accepted: list[str] = []

    def keep_posting(user: str) -> None:
        with requests.Session() as session:
            for at in range(100_000):
                try:
                    event = {"user": user, "slug": "m", "at": at}
                    answer = session.post(mortal.url, json=event, timeout=30)
                except requests.ConnectionError:
                    return  # it has stopped
                if answer.status_code == 200:
                    accepted.append(user)

    posters = [threading.Thread(target=keep_posting, args=(f"load{n}",)) for n in range(8)]
    for poster in posters:
        poster.start()
    eventually(lambda: len(accepted) > 100, "under load")
    started = time.monotonic()
    assert mortal.stop(signal.SIGTERM) == 0
    assert time.monotonic() - started < 10  # the promise to whoever supervises it
    for poster in posters:
        poster.join(30)
    assert "Traceback" not in mortal.log
    mortal.start()
    for user in set(accepted):
        events = mortal.get(f"/v1/users/{user}").json()["events"]
        # The last one may have been counted and its answer lost.
        assert accepted.count(user) <= events <= accepted.count(user) + 1


def test_a_second_one_on_the_same_data_is_refused(server: Playhead) -> None:
    second = subprocess.run(
        [COMMAND, "serve", "--port", "0", "--data-dir", server.data_dir],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    assert second.returncode == 1
    assert "held by another process" in second.stderr
    assert "Traceback" not in second.stderr
    assert server.get("/readyz").status_code == 200


def refuse(*flags: str | Path, **environment: str) -> str:
    """What `playhead serve` says when it does not start."""
    refused = subprocess.run(
        [COMMAND, "serve", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr + refused.stdout
    return " ".join((refused.stderr + refused.stdout).split())


def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refuse("--port", str(port), "--data-dir", tmp_path)
    assert f"port {port}" in said
    assert "choose another --port" in said


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--port", "99999"], {}, "65535"),
        (["--shards", "many"], {}, "shards"),
        ([], {"PLAYHEAD_PORT": "x"}, "PLAYHEAD_PORT"),
        (["--host", "no.such.host.invalid"], {}, "--host"),
        (["--nonsense"], {}, "--nonsense"),
        (["--data-dir", "/dev/null/data"], {}, "/dev/null"),
        (["--ray-address", "127.0.0.1:1"], {}, "127.0.0.1:1"),
    ],
)
def test_bad_settings_are_said_plainly(
    tmp_path: Path, flags: list[str], environment: dict[str, str], said: str
) -> None:
    environment["PLAYHEAD_DATA_DIR"] = str(tmp_path)
    assert said in refuse(*flags, **environment)


def test_a_host_of_another_machine_is_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(StartError, match=r"--host 192\.0\.2\.1 is no address of this machine"):
        bind("192.0.2.1", 0)
    assert time.monotonic() - started < BIND_WAIT_S / 2


def test_a_temporary_directory_with_a_long_path_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    said = refuse("--port", "0", "--data-dir", tmp_path / "data", TMPDIR=str(folder))
    assert f"Set TMPDIR to a folder with a shorter path than {folder}" in said


def test_other_rules_than_the_datas_are_refused(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, {"max_gap_ms": 1}).close()
    assert "other rules" in refuse("--port", "0", "--data-dir", tmp_path)


def test_damage_is_refused_at_start_with_the_file_named(mortal: Playhead) -> None:
    post(mortal, "u", 0, 50, "damaged")
    post(mortal, "u", 50, 100, "damaged")
    mortal.kill()
    segment = max(mortal.data_dir.glob("shard-0000/log/*.log"))
    whole = segment.read_bytes()
    content = bytearray(whole)
    content[100] ^= 1
    segment.write_bytes(content)
    said = refuse("--port", "0", "--data-dir", mortal.data_dir)
    assert str(segment) in said
    assert segment.read_bytes() == content
    segment.write_bytes(whole)


def test_a_damaged_shard_serves_again_once_it_is_put_right(twofold: Playhead) -> None:
    for n in range(10):
        post(twofold, f"u{n}", 0, 50, "damaged")
    segment = twofold.data_dir / "shard-0001" / "log" / f"{1:020}.log"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    (shard,) = [p for p in twofold.children("ShardActor") if holds(p, segment)]
    shard.kill()
    answers = [twofold.get(f"/v1/users/u{n}").status_code for n in range(10)]
    assert set(answers) == {200, 503}  # the other shard serves
    unready = twofold.get("/readyz")
    assert unready.status_code == 503
    assert str(segment) in unready.json()["detail"]
    assert "shard 1" in unready.json()["detail"]
    segment.write_bytes(whole)
    eventually(lambda: twofold.get("/readyz").status_code == 200, "ready")
    assert totals(twofold, "damaged")["watch_seconds"] == 400


def holds(process: psutil.Process, path: Path) -> bool:
    return str(path) in {file.path for file in process.open_files()}


def test_the_sockets_of_the_shards_are_their_owners_alone(server: Playhead) -> None:
    shards = server.children("ShardActor")
    assert len(shards) == 2
    for shard in shards:
        addresses = {str(connection.laddr) for connection in shard.net_connections("unix")}
        sockets = [Path(address) for address in addresses if "shard-" in address]
        assert sockets
        for path in sockets:
            assert path.parent.stat().st_mode & 0o077 == 0


def test_slow_clients_are_cut_and_others_served(strict: Playhead) -> None:
    host, port = re.findall(r"//(.+):(\d+)", strict.url)[0]
    slow_head = b"POST / HTTP/1.1\r\nX-Slow: "
    slow_body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    for start in (slow_head, slow_body):
        with socket.create_connection((host, int(port)), timeout=0.2) as client:
            client.sendall(start)
            deadline = time.monotonic() + 20
            cut = False
            while not cut and time.monotonic() < deadline:
                post(strict, "u", 0, 20)
                try:
                    client.sendall(b" ")
                    cut = client.recv(1024) == b""
                except TimeoutError:
                    continue  # nothing has come, so it still waits for more of the request
                except ConnectionError:
                    cut = True
            assert cut


def test_past_a_number_of_connections_no_more_are_taken(strict: Playhead) -> None:
    host, port = re.findall(r"//(.+):(\d+)", strict.url)[0]
    strict.session.close()
    eventually(lambda: connections_of(strict) == 0, "left alone")
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(CONNECTIONS_MAX + 1)
        ]
        (refused,) = select.select(held, [], [], 10)[0]
        assert refused.recv(1024).startswith(b"HTTP/1.1 503")
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            if strict.get("/healthz").status_code == 200:
                break
    assert strict.get("/healthz").status_code == 200


def test_of_ray_it_runs_what_it_needs_alone(server: Playhead) -> None:
    agents, workers = 2, len(server.children("api.worker"))
    expected = {"gcs_server": 1, "raylet": 1, "python": workers, "cat": agents}

    def names() -> dict[str, int]:
        children = psutil.Process(server.pid).children()
        (raylet,) = (process for process in children if process.name() == "raylet")
        found = Counter(process.name() for process in children + raylet.children())
        return {name: count for name, count in found.items() if not name.startswith("ray::")}

    # What Ray has just started for a shard is a Python, too.
    eventually(lambda: names() == expected, f"{expected}")


def test_it_listens_on_loopback_alone(server: Playhead) -> None:
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
