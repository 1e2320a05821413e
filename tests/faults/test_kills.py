"""Processes killed under load: nothing acknowledged is lost, nothing is counted twice.

PLAYHEAD_SEED repeats the choices of a run, though not the moments in which they
fall; PLAYHEAD_ROUNDS makes it long.
"""

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import requests

from aggregator.sockets import folder_prefix, namespace_of
from persistence.directory import read_manifest
from tests.faults.clients import ANSWER_TIMEOUT_S, Account, Fleet, users_anywhere, users_of
from tests.faults.conftest import rounds
from tests.playhead import COMMAND, START_TIMEOUT_S, Playhead, eventually

#: So that kills fall into checkpoints, rotations and erasures too. There is not always one under
#: way, as each takes a second of the processor: some kills wait for it.
SHORT = (
    *("--snapshot-log-bytes", "100000"),
    *("--snapshot-interval-s", "4"),
    *("--segment-bytes", "16384"),
    *("--erase-delay-s", "3"),
)
#: A shard that is away for longer gives callers 503.
SHARD_TIMEOUT = ("--shard-timeout-s", "2")
CLIENTS = 6
#: Within this, a kill falls anywhere into the life of a checkpoint.
MOMENT_MAX_S = 0.8
#: Until what was killed is gone, and what was told to end has ended.
GONE_TIMEOUT_S = 30.0

pytestmark = pytest.mark.timeout(rounds(300))


class Service:
    """A playhead that is killed and started again; `url` is "" meanwhile."""

    def __init__(self, playhead: Playhead, rng: Random) -> None:
        self.playhead = playhead
        self.rng = rng
        self.url = ""
        self._ended = ""

    def start(self, *flags: str, workers: int | None = None) -> None:
        number = str(workers or self.rng.choice([1, 2, 2]))
        self.playhead.start(*SHORT, *SHARD_TIMEOUT, "--workers", number, *flags)
        self.url = self.playhead.url

    def kill_all(self) -> None:
        self._keep_log()
        self.playhead.kill()
        self.url = ""

    def kill_main(self) -> None:
        """Its workers and shards are left to find out."""
        self._keep_log()
        psutil.Process(self.playhead.pid).kill()
        assert self.playhead.process is not None
        self.playhead.process.wait(GONE_TIMEOUT_S)
        self.url = ""

    def stop(self) -> None:
        """As an operator does: in order, and leaving nothing behind."""
        family = [
            psutil.Process(self.playhead.pid),
            *psutil.Process(self.playhead.pid).children(recursive=True),
        ]
        code = self.playhead.stop()
        self.url = ""
        self._keep_log()
        assert code == 0, self.playhead.log
        assert "Traceback" not in self.playhead.log
        _, alive = psutil.wait_procs(family, GONE_TIMEOUT_S)
        assert alive == []
        assert self.folders() == []

    def kill_some(self, name: str) -> None:
        """One of its processes whose command line holds `name`."""
        found = self.playhead.children(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            if found:  # else it is just being started again
                self.rng.choice(found).kill()

    def kill_head(self, name: str, besides: Callable[[], None] = lambda: None) -> None:
        """Kills what Ray cannot do without; returns when the same process has started anew."""
        starts = self.playhead.log.count("ready after")
        self.kill_some(name)
        besides()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.playhead.log.count("ready after") == starts:
            assert time.monotonic() < deadline, self.playhead.log
            time.sleep(0.05)
        assert f"Ray's {name.partition('/')[2]} has ended" in self.playhead.log
        announced = re.findall(r"documentation (http://\S+)/docs", self.playhead.log)
        assert set(announced) == {self.playhead.url}

    def wait_a_moment(self) -> None:
        time.sleep(self.rng.random() * MOMENT_MAX_S)

    def wait_for_a_checkpoint(self) -> None:
        """Until one is being made."""
        eventually(lambda: self.playhead.children("checkpointer") != [], "a checkpoint")

    def folders(self) -> list[Path]:
        """What it has in the temporary directory."""
        prefix = folder_prefix(namespace_of(read_manifest(self.playhead.data_dir).id))
        return list(Path(tempfile.gettempdir()).glob(f"{prefix}*"))

    def log(self) -> str:
        """Of all its lives."""
        return self._ended + self.playhead.log

    def wait_for_snapshots(self) -> None:
        """Until all that was taken so far is in snapshots."""

        def is_done() -> bool:
            shards = self.playhead.get("/v1/stats").json()["shards"]
            return all(each["snapshot_sequence"] >= each["log_sequence"] for each in shards)

        deadline = time.monotonic() + GONE_TIMEOUT_S
        while not is_done():
            assert time.monotonic() < deadline, self.playhead.log
            time.sleep(0.1)

    def _keep_log(self) -> None:
        self._ended += self.playhead.log


@pytest.fixture
def service(playhead: Playhead, seed: int) -> Iterator[Service]:
    service = Service(playhead, Random(seed))  # noqa: S311 - no secret
    yield service
    service.url = ""


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    playhead = Playhead(tmp_path_factory.mktemp("lasting"))
    yield playhead
    playhead.kill()


@pytest.fixture
def halved(lasting: Playhead, seed: int) -> Iterator[Service]:
    """One with two shards, which the next test goes on with; use movies of your own."""
    service = Service(lasting, Random(seed))  # noqa: S311 - no secret
    if lasting.is_running:
        service.url = lasting.url
    else:
        service.start("--shards", "2", workers=2)
    yield service
    service.url = ""


# What is done to it


def kill_shard(service: Service) -> None:
    service.kill_some("ShardActor")


def kill_shard_while_it_recovers(service: Service) -> None:
    for _ in range(3):
        service.kill_some("ShardActor")
        service.wait_a_moment()


def kill_worker(service: Service) -> None:
    service.kill_some("api.worker")


def kill_workers(service: Service) -> None:
    for worker in service.playhead.children("api.worker"):
        worker.kill()


def kill_worker_and_shard(service: Service) -> None:
    service.kill_some("api.worker")
    service.kill_some("ShardActor")


def kill_all(service: Service) -> None:
    service.kill_all()
    service.start()


def kill_all_and_split_anew(service: Service) -> None:
    service.kill_all()
    service.start("--shards", str(service.rng.randint(1, 3)))


def kill_while_it_starts(service: Service) -> None:
    service.kill_all()
    service.playhead.launch(*SHORT, "--shards", str(service.rng.randint(1, 3)))
    time.sleep(service.rng.random() * 5)
    service.kill_all()
    service.start()


def kill_main(service: Service) -> None:
    service.kill_main()
    service.start()


def stop_in_order(service: Service) -> None:
    assert service.playhead.process is not None
    service.playhead.process.send_signal(signal.SIGINT)  # the second one changes nothing
    service.stop()
    service.start()


def heeds(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether the signal does more than end it: it is handled, or kept for later.

    Which is not what it seems while a thread is made: all signals are blocked then.
    """
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = dict(re.findall(r"^Sig(Blk|Cgt):\s*(\w+)$", status, re.MULTILINE))
    blocked, caught = (signals_of(masks[name]) for name in ("Blk", "Cgt"))
    return number in caught or (number in blocked and signal.SIGUSR1 not in blocked)


def signals_of(mask: str) -> set[signal.Signals]:
    """Those whose bits are set, as /proc writes them."""
    return {number for number in signal.Signals if int(mask, 16) & 1 << number - 1}


def stop_while_it_starts(service: Service) -> None:
    service.stop()
    process = psutil.Process(service.playhead.launch(*SHORT).pid)
    eventually(lambda: heeds(process, signal.SIGTERM), "far enough to stop in order")
    time.sleep(service.rng.random() * 5)
    service.stop()
    service.start()


def kill_raylet(service: Service) -> None:
    service.kill_head("raylet/raylet")


def kill_control_store(service: Service) -> None:
    service.kill_head("gcs/gcs_server")


def kill_raylet_and_shard(service: Service) -> None:
    shards = service.playhead.children("ShardActor")
    service.kill_head("raylet/raylet", service.rng.choice(shards).kill)


def stop_while_it_starts_anew(service: Service) -> None:
    service.kill_some("gcs/gcs_server")
    time.sleep(service.rng.choice([0.1, service.rng.random() * 8]))  # also while workers finish
    service.stop()
    service.start()


Fault = Callable[[Service], object]
#: In each round.
USUAL: list[Fault] = [
    kill_shard,
    kill_all_and_split_anew,
    kill_control_store,
]
#: One in a single round, all in longer runs.
OTHERS: list[Fault] = [
    kill_worker_and_shard,
    stop_in_order,
    kill_shard_while_it_recovers,
    kill_worker,
    kill_all,
    kill_while_it_starts,
    kill_main,
    stop_while_it_starts,
    kill_raylet,
    kill_raylet_and_shard,
    stop_while_it_starts_anew,
]


def draw_faults(rng: Random) -> list[Fault]:
    """Those of a round, in any order."""
    others = [*OTHERS] if rounds(1) > 1 else [rng.choice(OTHERS)]
    faults = USUAL + others
    rng.shuffle(faults)
    return faults


def compare(service: Service, account: Account) -> None:
    """All that was acknowledged counts once."""
    found = [*account.surprises, *account.differences(service.url)]
    assert found == [], "\n".join([*map(str, found), service.log()])


def check(service: Service) -> None:
    """The data is whole."""
    checked = subprocess.run(
        [COMMAND, "check", "--data-dir", service.playhead.data_dir],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr + service.log()


def zombies(service: Service) -> list[psutil.Process]:
    family = psutil.Process(service.playhead.pid).children(recursive=True)
    return [each for each in family if each.status() == psutil.STATUS_ZOMBIE]


def test_killed_under_load(service: Service, seed: int) -> None:
    service.start("--shards", "2")
    accounts: list[Account] = []
    for number in range(rounds(1)):
        name = f"round-{number}"
        with Fleet(seed, lambda: service.url, users_anywhere(CLIENTS, name), name) as fleet:
            accounts.append(fleet.account)
            for fault in draw_faults(service.rng):
                began_s = time.monotonic()
                if service.rng.random() < 0.5:
                    service.wait_for_a_checkpoint()
                service.wait_a_moment()
                fault(service)
                fleet.wait_until_all_get_on()
                # Shown when the test fails, or with -s.
                print(f"{name} {fault.__name__} {time.monotonic() - began_s:.1f} s", end=" ")
                print(dict(fleet.account.outcomes))
        compare(service, fleet.account)
        check(service)
        assert zombies(service) == []
    for account in accounts[:-1]:  # it still has what came in the rounds before
        compare(service, account)
    service.stop()


def shard_process(service: Service, shard: int) -> psutil.Process:
    """The process that has the shard's log open."""
    folder = f"/shard-{shard:04}/"
    (found,) = [
        each
        for each in service.playhead.children("ShardActor")
        if any(folder in file.path for file in each.open_files())
    ]
    return found


def is_stopped(process: psutil.Process) -> bool:
    """Whether all threads are."""
    stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)


@dataclass
class Repeated:
    """A request that is sent over and over, and what its answers said was accepted."""

    events: list[dict[str, Any]]
    headers: dict[str, str]
    accepted: int = 0

    def send(self, service: Service, times: int) -> None:
        """Until it was answered with 200 so often; each time by any worker."""
        while times:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.post(
                    service.url, json=self.events, headers=self.headers, timeout=ANSWER_TIMEOUT_S
                )
            if answer.status_code == 503:
                assert "retry-after" in answer.headers
                time.sleep(0.1)  # what it waits for needs the processor
                continue
            assert answer.status_code == 200, answer.text
            counted = answer.json()
            assert counted["accepted"] + counted["duplicates"] == len(self.events)
            self.accepted += counted["accepted"]
            times -= 1


def some_events(name: str) -> list[dict[str, Any]]:
    """Of users of both of two shards, 40 s of a movie of this name each."""
    users = users_of(0, 2, 3, name) + users_of(1, 2, 2, name)
    return [{"user": user, "slug": name, "at": at} for user in users for at in range(0, 50, 10)]


def test_the_same_batch_a_hundred_times_counts_once(halved: Service) -> None:
    """First with one of its shards away, then again whatever happened in between."""
    keyed = Repeated(some_events("keyed"), {"Idempotency-Key": "once"})
    with_ids = [event | {"id": f"{n}"} for n, event in enumerate(some_events("ids"))]
    batches = [keyed, Repeated(with_ids, {})]
    hanging = shard_process(halved, 1)
    hanging.suspend()
    try:
        for batch in batches:
            partly = halved.playhead.post("/", json=batch.events, headers=batch.headers)
            assert partly.status_code == 503
            assert "shard 1 not available" in partly.json()["detail"]
    finally:
        hanging.resume()

    interferences: list[Fault] = [
        lambda _: hanging.kill(),
        kill_workers,
        Service.wait_for_snapshots,
        kill_all,
    ]
    for interfere in interferences:
        for batch in batches:
            batch.send(halved, 20)
        interfere(halved)
    for batch in batches:
        # The shard that was there had counted its part; the other one may have, once it went on.
        assert batch.accepted in (0, 10)
        movie = halved.playhead.get(f"/v1/movies/{batch.events[0]['slug']}").json()
        assert (movie["events"], movie["viewers"], movie["watch_seconds"]) == (25, 5, 5 * 40)


def test_a_shard_that_hangs_holds_up_its_own_users_alone(halved: Service, seed: int) -> None:
    """Its callers get 503 after a while, all others are served; what needs it names it."""

    def url() -> str:
        return halved.url

    there = Fleet(seed, url, [users_of(0, 2, 3, f"there-{n}") for n in range(3)], "there")
    away = Fleet(seed, url, [users_of(1, 2, 3, f"away-{n}") for n in range(3)], "away")
    with there, away:
        for _ in range(rounds(1)):
            there.wait_until_all_get_on()
            away.wait_until_all_get_on()
            hanging = shard_process(halved, 1)
            hanging.suspend()
            try:
                eventually(partial(is_stopped, hanging), "stopped")  # threads go on for a moment
                one = halved.playhead.get("/v1/movies")
                assert one.status_code == 503
                assert one.headers["retry-after"] == "1"
                assert "shard 1 not available" in one.json()["detail"]
                refused = away.account.outcomes["503"]
                there.wait_until_all_get_on(20)
                away.wait_for_outcome("503", refused + 3)
            finally:
                hanging.resume()
            away.wait_until_all_get_on()
    for fleet in (there, away):
        assert fleet.account.surprises == []
        assert fleet.account.differences(halved.url) == []
    assert there.account.outcomes["503"] == 0
    halved.stop()
