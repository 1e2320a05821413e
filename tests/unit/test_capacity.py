"""The model of machines, what it is fed with, and what it says."""

import random
from collections import defaultdict
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import uvloop
from rich.console import Console

from aggregator.event import Event
from aggregator.messages import ShardStats, StatsQuery
from benchmarks import capacity, capacity_picture, shard_costs
from benchmarks.capacity import Capacity
from benchmarks.costs import Measured
from benchmarks.demand import Costs, Demand, MachineType
from benchmarks.flow import gathered
from benchmarks.frames import append, fill, frames_of
from benchmarks.recorded import SPREAD_S, Recording, record
from benchmarks.rehearsal import Check
from benchmarks.shard_costs import FrameCost
from benchmarks.shard_process import ShardProcess, lanes_to, shard_process
from benchmarks.sizing import LIMITS, Size, size, size_with

NOTHING = Costs(**{field.name: 0.0 for field in fields(Costs)})
#: About what a machine of today has.
COSTS = replace(
    NOTHING,
    request_s=50e-6,
    json_event_s=0.5e-6,
    worker_frame_s=60e-6,
    read_s=50e-6,
    fan_out_s=40e-6,
    commit_s=150e-6,
    frame_s=60e-6,
    event_s=1e-6,
    query_frame_s=40e-6,
    query_s=2e-6,
    movie_frame_s=60e-6,
    movie_query_s=5e-6,
    load_pair_s=0.6e-6,
    write_pair_s=0.6e-6,
    pair_bytes=200,
    checkpoint_pair_bytes=300,
    log_frame_bytes=100,
    log_event_bytes=50,
    store_event_bytes=6,
    snapshot_pair_bytes=30,
    append_s=0.5e-3,
    syncs_per_s=5_000,
)
MACHINE = MachineType()


def sized(demand: Demand, machine: MachineType = MACHINE, costs: Costs = COSTS) -> Size:
    found = size(demand, machine, costs)
    assert found is not None
    return found


# The model


def test_alone_each_starts_at_once_and_crowded_one_follows_the_other() -> None:
    assert gathered(0, 0.01) == 0
    assert gathered(1, 0.0001) == pytest.approx(1, rel=1e-4)
    assert gathered(1e6, 0.01) == pytest.approx(100)


@pytest.mark.parametrize("per_s", [20, 100, 500])
def test_as_many_gather_as_when_they_are_played(per_s: float) -> None:
    each_s, seed = 0.01, 7
    rng = random.Random(seed)  # noqa: S311 - nothing here is secret
    starts, free_s, now_s, last_s = 0, 0.0, 0.0, 400.0
    while now_s < last_s:
        now_s += rng.expovariate(per_s)
        if now_s > free_s - each_s:  # what came before the last start went with it
            free_s = max(now_s, free_s) + each_s
            starts += 1
    assert starts / last_s == pytest.approx(gathered(per_s, each_s), rel=0.03), f"seed {seed}"


@pytest.mark.parametrize("users", [1_000_000, 30_000_000, 1_000_000_000])
def test_there_are_as_many_machines_as_it_takes_and_no_more(users: int) -> None:
    demand = Demand(users=users)
    found = sized(demand)
    assert found.fits(MACHINE)
    assert found.workers + found.shards <= MACHINE.cores
    assert set(found.uses) == set(LIMITS)
    for workers in range(1, MACHINE.cores):
        for shards in range(1, MACHINE.cores - workers + 1):
            fewer = max(found.machines - 1, 1)
            one = size_with(demand, MACHINE, COSTS, fewer, workers, shards)
            if found.machines > 1 or workers + shards < found.workers + found.shards:
                assert not one.fits(MACHINE)


def test_more_users_take_more_machines() -> None:
    machines = [sized(Demand(users=10**power)).machines for power in range(5, 10)]
    assert machines == sorted(machines)
    assert machines[0] == 1 < machines[-1]


def test_memory_is_that_of_the_pairs_and_of_a_checkpoint_of_them() -> None:
    costs = replace(NOTHING, pair_bytes=100, checkpoint_pair_bytes=150, session_bytes=50)
    costs = replace(costs, syncs_per_s=1e6, log_event_bytes=1)
    machine = MachineType(memory_gib=1, other_share=0.5)
    demand = Demand(users=1_000_000, movies_a_user_a_year=4, years=2, sessions_a_movie=2)
    found = size_with(demand, machine, costs, machines=10, workers=1, shards=1)
    assert found.uses["memory"] == pytest.approx(8e6 / 10 * 350 / (0.5 * 2**30))
    assert found.used_up_first == "memory"


def test_what_is_kept_of_a_year_fills_the_disk() -> None:
    costs = replace(NOTHING, store_event_bytes=5, syncs_per_s=1, log_event_bytes=1e-9)
    demand = Demand(users=2_000_000, share_watching=0.1, heartbeat_s=20, mean_to_peak=0.5, years=3)
    found = size_with(demand, MachineType(disk_tb=10, other_share=1), costs, 2, 1, 1)
    kept_bytes = 10_000 * 0.5 * 86_400 * 365 * 3 * 5
    assert found.uses["disk space"] == pytest.approx(kept_bytes / 2 / 10e12)


def test_cores_are_those_of_all_processes() -> None:
    found = sized(Demand(users=100_000_000))
    used = found.workers * found.pressed.worker_busy
    used += found.shards * (found.pressed.shard_busy + found.checkpoint_busy)
    assert sum(found.cores_busy(found.pressed).values()) == pytest.approx(used)
    assert found.uses["cores"] == pytest.approx(used / (MACHINE.cores * MACHINE.core_share))


def test_events_in_batches_take_less() -> None:
    demand = Demand(users=1_000_000)
    one, many = (
        size_with(each, MACHINE, COSTS, 1, 2, 2)
        for each in (demand, replace(demand, share_in_batches=1))
    )
    assert many.usual.worker_busy < one.usual.worker_busy / 3
    assert many.usual.events / many.usual.frames > 100 * one.usual.events / one.usual.frames


def test_frames_of_one_lane_never_share_a_commit() -> None:
    one, many = (size_with(Demand(), MACHINE, COSTS, 1, workers, 1).usual for workers in (1, 8))
    assert one.commits == pytest.approx(one.frames)
    assert many.commits < 0.7 * many.frames


def test_frames_shrink_as_there_are_more_lanes() -> None:
    demand = Demand(users=10_000_000)
    few, many = (size_with(demand, MACHINE, COSTS, 10, number, number) for number in (1, 8))
    assert few.usual.events / few.usual.frames > many.usual.events / many.usual.frames >= 1
    assert many.usual.frames <= many.usual.events


def test_a_shard_has_no_more_pairs_than_it_can_load_in_time() -> None:
    demand = Demand(users=5_000_000)
    found = sized(demand, MachineType(start_s=20))
    assert found.start_s <= 20
    assert found.shards > sized(demand, MachineType(start_s=1_000)).shards


def test_pressed_it_takes_less_and_waits_longer() -> None:
    found = size_with(Demand(users=2_000_000), MACHINE, COSTS, 1, 4, 2)
    usual, pressed = found.usual, found.pressed
    assert pressed.shard_busy < usual.shard_busy
    assert pressed.worker_busy < usual.worker_busy
    assert usual.event_wait_s < pressed.event_wait_s < 2 * MACHINE.frame_ms / 1000


def test_more_machines_do_not_help_against_questions_about_movies() -> None:
    asked = Demand(users=1_000_000_000, movie_reads_a_heartbeat=0.05)
    assert size(asked, MACHINE, COSTS) is None
    assert size(replace(asked, movie_reads_a_heartbeat=0), MACHINE, COSTS) is not None


# What it is fed with


def test_costs_are_found_from_sums() -> None:
    counts = [[1_000, 1_000, 1_000], [50, 1_000, 1_000], [50, 1_000, 64_000], [10, 10, 100_000]]
    sums = [a * 5e-4 + b * 1e-4 + c * 1e-6 for a, b, c in counts]
    assert shard_costs.shares(counts, sums) == pytest.approx([5e-4, 1e-4, 1e-6])


def test_no_cost_is_below_nothing() -> None:
    counts, sums = [[1.0, 10.0], [1.0, 20.0], [1.0, 40.0]], [0.9, 2.1, 4.3]
    alone, each = shard_costs.shares(counts, sums)
    assert alone == 0
    assert each == pytest.approx(0.1, rel=0.1)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(seconds=15)


def test_copies_of_a_recording_come_at_the_rate_that_is_wanted(recording: Recording) -> None:
    due = recording.copies(1_000)
    assert len(due) / 15 == pytest.approx(1_000, rel=0.1)
    times = [due_s for due_s, _ in due]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 15


def test_each_copy_has_users_of_its_own_whose_positions_go_on(recording: Recording) -> None:
    assert recording.seconds + SPREAD_S == 25
    of_user: dict[str, list[Event]] = defaultdict(list)
    for _, event in recording.copies(500):
        of_user[event.user].append(event)
    assert len({user.rpartition("-")[2] for user in of_user}) == round(500 / recording.rate)
    ids = [event.id for events in of_user.values() for event in events if event.id]
    assert len(set(ids)) > 0.9 * len(ids)  # a few are sent again
    going_on = [
        0 < later.at - earlier.at <= 60
        for events in of_user.values()
        for earlier, later in pairwise(events)
        if earlier.session == later.session
    ]
    assert sum(going_on) > 0.7 * len(going_on)


def watching_now(process: ShardProcess) -> int:
    """Streams that are."""

    async def ask() -> msgspec.Raw:
        async with lanes_to([process]) as (lane,):
            return await lane.ask(StatsQuery())

    return msgspec.msgpack.decode(uvloop.run(ask()), type=ShardStats).watching_now


def test_a_shard_in_a_process_of_its_own_counts_and_recovers(tmp_path: Path) -> None:
    events = [Event(f"user-{n % 10}", "film", float(n)) for n in range(100)]
    with shard_process(tmp_path / "shard") as process:
        fill(process, pairs=20_000)
        used = append(process, frames_of(events, 10), producers=2)
        assert 1 <= used.commits <= 10
        assert used.cpu_s > 0
        assert watching_now(process) == 10
    with shard_process(tmp_path / "shard") as process:
        assert watching_now(process) == 10
        uvloop.run(process.checkpoint())
        assert uvloop.run(process.usage()).recovery_cpu_s > 0


# What it says


@pytest.fixture(scope="module")
def found() -> Capacity:
    frames = [FrameCost(4, 1_000, 10_000, 10, 5, 0.05, 0.01, 400_000)]
    found = capacity._worked_out(Measured(COSTS, frames, 900.0), Demand(), MACHINE)
    checks = [Check("a shard", "share of a core", 0.2, 0.1), Check("a shard", "p99 ms", None, 7.0)]
    return msgspec.structs.replace(found, checks=checks)


def shown(found: Capacity, monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(record=True, width=120, force_terminal=True)
    monkeypatch.setattr(capacity, "get_console", lambda: console)
    capacity._show(found)
    return console.export_text()


def test_tables_have_all_sizes_and_checks(found: Capacity, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(found, monkeypatch)
    for users, each in zip(capacity.USERS, found.sizes, strict=True):
        assert each is not None
        assert f"{users:,}" in text
        assert f"{each.machines:,}" in text
        assert each.used_up_first in text
    assert "0.200" in text
    assert "0.50" in text


def test_a_size_that_no_number_of_machines_has_says_so(
    found: Capacity, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_many = msgspec.structs.replace(found, sizes=[*found.sizes[:2], None])
    assert "too many movies asked" in shown(too_many, monkeypatch)


def test_a_run_is_read_as_it_was_written(found: Capacity) -> None:
    assert msgspec.json.decode(msgspec.json.encode(found), type=Capacity) == found


def test_the_picture_is_drawn(found: Capacity, tmp_path: Path) -> None:
    sizes = [each for each in found.sizes if each is not None]
    svg, png = capacity_picture.draw(sizes, tmp_path)
    assert png.stat().st_size > 10_000
    text = svg.read_text()
    for said in (*LIMITS, "1 million: 1 machine", "1 billion: "):
        assert said in text
