"""What playhead takes for a million, a hundred million and a billion users.

`python -m benchmarks.capacity` measures what each operation costs, works out machines
from that (`sizing.py`), and tries in real time what one machine can try. It writes
benchmarks/results/capacity.json and a picture in docs/images.
"""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt
from rich import box, get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import capacity_picture, costs, machine, rehearsal
from benchmarks.costs import Begin, Measured
from benchmarks.demand import Demand, MachineType
from benchmarks.machine import Machine
from benchmarks.rehearsal import Check
from benchmarks.report import IMAGES, WIDTH
from benchmarks.sizing import LIMITS, Load, Size, size
from benchmarks.suite import EXIT_TERMINATED, FOLDER

RESULTS = Path(__file__).parent / "results" / "capacity.json"
USERS = (1_000_000, 100_000_000, 1_000_000_000)
#: In a shard that is tried; in the largest sizes it has more.
PAIRS_MAX = 10_000_000
#: About, besides what is counted: of a shard that is tried, of a server, of many shards.
SHARD_S, SERVER_S, MANY_SHARDS_S = 40.0, 30.0, 25.0


class Capacity(msgspec.Struct, frozen=True):
    """A run."""

    date: str
    commit: str
    machine: Machine
    measured: Measured
    demand: Demand
    machine_type: MachineType
    #: Of `USERS`; None where no number of machines does.
    sizes: list[Size | None]
    #: The same for users who ask nothing about movies.
    unasked: list[Size | None]
    checks: list[Check]


def capacity(
    *,
    demand: Annotated[Demand | None, Parameter(name="*")] = None,
    machine_type: Annotated[MachineType | None, Parameter(name="*")] = None,
    measure: bool = True,
    seconds: PositiveFloat = 20.0,
    pairs_max: PositiveInt = PAIRS_MAX,
    folder: Path = FOLDER,
    results: Path = RESULTS,
    images: Path = IMAGES,
) -> None:
    """Measure, work out and try what so many users take, in about five minutes.

    Parameters
    ----------
    demand
        What users do.
    machine_type
        A machine, and how much of it may be in use.
    measure
        Whether to measure and try; else sizes are worked out from what was measured last.
    seconds
        How long each shard is tried, after 10 s that are not counted.
    pairs_max
        Pairs in a shard that is tried, at the most.
    folder
        Where data is kept meanwhile; on a disk.
    results
        The file for the figures.
    images
        The folder for the picture.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    demand, machine_type = demand or Demand(), machine_type or MachineType()
    if not measure:
        last = msgspec.json.decode(results.read_bytes(), type=Capacity)
        _show(_worked_out(last.measured, demand, machine_type))
        return
    trying_s = len(USERS) * (SHARD_S + seconds) + SERVER_S + MANY_SHARDS_S
    with (
        tempfile.TemporaryDirectory(prefix="playhead-bench-", dir=folder) as own,
        _progress(sum(costs.SECONDS.values()) + trying_s) as begin,
    ):
        found = _worked_out(costs.measure(Path(own), begin), demand, machine_type)
        checks = _tried(Path(own), found, seconds, pairs_max, begin)
    found = msgspec.structs.replace(found, checks=checks)
    results.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    _show(found)
    capacity_picture.draw([each for each in found.sizes if each is not None], images)


def _worked_out(measured: Measured, demand: Demand, machine_type: MachineType) -> Capacity:
    """Nothing is tried yet."""
    demands = [replace(demand, users=users) for users in USERS]
    unasked = [replace(each, movie_reads_a_heartbeat=0) for each in demands]
    return Capacity(
        f"{datetime.now(UTC):%Y-%m-%d}",
        machine.commit(),
        machine.this_machine({}),
        measured,
        demand,
        machine_type,
        [size(each, machine_type, measured.costs) for each in demands],
        [size(each, machine_type, measured.costs) for each in unasked],
        [],
    )


def _tried(
    folder: Path, found: Capacity, seconds: float, pairs_max: int, begin: Begin
) -> list[Check]:
    machine_type, measured = found.machine_type, found.measured.costs
    checks: list[Check] = []
    for each in filter(None, found.sizes):
        begin(f"a shard of {each.demand.users:,} users", SHARD_S + seconds)
        own = folder / f"tried-{each.demand.users}"
        checks += rehearsal.of_shard(own, each, machine_type, measured, pairs_max, seconds)
        if each.machines == 1:
            begin(f"a server of {each.demand.users:,} users", SERVER_S)
            checks += rehearsal.of_server(folder, each, machine_type, measured)
    begin("a question to many shards", MANY_SHARDS_S)
    return checks + rehearsal.of_fan_out(folder, measured)


@contextmanager
def _progress(seconds: float) -> Iterator[Begin]:
    """A bar over so many seconds, that is told what begins and about how long that takes."""
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, transient=True, speed_estimate_period=3_600) as progress:
        task = progress.add_task("", total=seconds)
        under_way = 0.0

        def begin(what: str, seconds: float) -> None:
            nonlocal under_way
            progress.update(task, advance=under_way, description=what)
            under_way = seconds

        yield begin


# The tables


def _show(found: Capacity) -> None:
    console = get_console()
    if not console.is_terminal:
        console.width = WIDTH
    for make in (_frames_table, _costs_table, _sizes_table, _uses_table, _checks_table):
        if (table := make(found)).row_count:
            console.print(table)


def _frames_table(found: Capacity) -> Table:
    """What a shard takes for an event, and what the fitted costs say of it."""
    table = _headed("a shard, by the size of frames", "producers", "events a frame", "commits",
                    "CPU µs an event", "fitted", "ratio")  # fmt: skip
    fitted = found.measured.costs
    for each in found.measured.frames:
        cpu_s = each.commits * fitted.commit_s + each.frames * fitted.frame_s
        cpu_s += each.events * fitted.event_s
        table.add_row(
            f"{each.producers:,}",
            f"{each.frame_events:,}",
            f"{each.commits:,}",
            f"{each.cpu_s / each.events * 1e6:,.2f}",
            f"{cpu_s / each.events * 1e6:,.2f}",
            f"{cpu_s / each.cpu_s:.2f}",
        )
    return table


def _costs_table(found: Capacity) -> Table:
    """Each with the unit that its name ends with; seconds are those of a core or the disk."""
    table = _headed("what one of each takes", "", "")
    for name in found.measured.costs.__slots__:
        value = getattr(found.measured.costs, name)
        what, _, unit = name.rpartition("_")
        if unit == "bytes":
            table.add_row(what.replace("_", " "), f"{value:,.1f} bytes")
        elif name.endswith("_per_s"):
            table.add_row(name.removesuffix("_per_s"), f"{value:,.0f} a second")
        else:
            table.add_row(what.replace("_", " "), f"{value * 1e6:,.3f} µs")
    table.add_row("syncs of one file", f"{found.measured.syncs_alone_per_s:,.0f} a second")
    return table


_Text = Callable[[Size], str]
_MACHINES: tuple[str, _Text] = ("machines", lambda each: f"{each.machines:,}")


def _load_rows(load: Callable[[Size], Load]) -> list[tuple[str, _Text]]:
    def cores(of: str) -> _Text:
        return lambda each: f"{each.cores_busy(load(each))[of]:.1f}"

    return [
        ("  cores of HTTP workers", cores("HTTP workers")),
        ("  cores of shards", cores("shards")),
        ("  cores of checkpoints", cores("checkpoints")),
        ("  a shard, of a core", lambda each: f"{load(each).shard_busy:.0%}"),
        ("  about movies", lambda each: f"{load(each).asked_about_movies:.0%}"),
        ("  events a frame", lambda each: f"{load(each).events / load(each).frames:.1f}"),
        ("  commits/s", lambda each: f"{load(each).commits:,.0f}"),
        ("  an event waits", lambda each: f"{load(each).event_wait_s * 1000:.1f} ms"),
    ]


_ROWS: list[tuple[str, _Text]] = [
    ("watching at the peak", lambda each: f"{each.demand.watching:,.0f}"),
    ("events/s", lambda each: f"{each.demand.events_per_s:,.0f}"),
    _MACHINES,
    ("workers, shards of each", lambda each: f"{each.workers}, {each.shards}"),
    ("pairs of a shard", lambda each: f"{each.pairs:,.0f}"),
    ("it loads them in", lambda each: f"{each.start_s:,.0f} s"),
    ("events/s of a shard", lambda each: f"{each.usual.events:,.0f}"),
    ("usual", lambda _: ""),
    *_load_rows(lambda each: each.usual),
    ("pressed", lambda _: ""),
    *_load_rows(lambda each: each.pressed),
]


def _sizes_table(found: Capacity) -> Table:
    table = _headed("sizes", "users", *(f"{users:,}" for users in USERS))
    for name, text in _ROWS:
        table.add_row(name, *(_or_none(text, each) for each in found.sizes))
    return table


def _uses_table(found: Capacity) -> Table:
    """Pressed, of what may be in use."""
    table = _headed("in use", "users", *(f"{users:,}" for users in USERS))
    for name in LIMITS:
        table.add_row(name, *(_or_none(partial(_use, name), each) for each in found.sizes))
    for title, sizes in (("", found.sizes), ("no movies asked: ", found.unasked)):
        table.add_section()
        for name, text in (_MACHINES, ("used up first", lambda each: each.used_up_first)):
            table.add_row(f"{title}{name}", *(_or_none(text, each) for each in sizes))
    return table


def _use(name: str, size: Size) -> str:
    return f"{size.uses[name]:.0%}"


def _or_none(text: _Text, size: Size | None) -> str:
    return "too many movies asked" if size is None else text(size)


def _checks_table(found: Capacity) -> Table:
    table = _headed("predicted and measured", "", "", "predicted", "measured", "ratio")
    shown = ""
    for check in found.checks:
        if shown not in ("", check.of):
            table.add_section()
        predicted = "" if check.predicted is None else _number(check.predicted)
        ratio = f"{check.measured / check.predicted:.2f}" if check.predicted else ""
        of = "" if check.of == shown else check.of
        table.add_row(of, check.figure, predicted, _number(check.measured), ratio)
        shown = check.of
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3f}"


def _headed(title: str, first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    cyclopts.run(capacity)
