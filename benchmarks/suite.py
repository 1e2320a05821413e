"""`make bench`: playhead, what it is compared with, and the ceiling, measured in one run.

Writes benchmarks/results/suite.json and the pictures in docs/images. A run of some
workloads replaces theirs and leaves the others as they were.
"""

import contextlib
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import document, machine, measurements, packages, report
from benchmarks.bench import Bench, Plan, Step
from benchmarks.measurements import RESULTS, Measurement, Run
from benchmarks.workloads import WORKLOADS, Workload

NAMES = tuple(workload.name for workload in WORKLOADS)
#: What is compared is durable, so data has to be on a disk; /tmp is memory on many machines.
FOLDER = Path("/var/tmp")  # noqa: S108 - a folder of our own is made in it
#: A thousand connections have two ends, and a server has files besides.
FILES_WANTED = 8_192
ROUNDS, SECONDS = 3, 3
ROUNDS_QUICK, SECONDS_QUICK = 1, 1
EXIT_TERMINATED = 128 + signal.SIGTERM


def _check_names(_: object, only: str) -> None:
    unknown = set(_names(only)) - set(NAMES)
    if unknown:
        raise ValueError(f"{unknown.pop()} is none of {', '.join(NAMES)}")


def _names(only: str) -> list[str]:
    return [name.strip() for name in only.split(",")]


def suite(
    *,
    only: Annotated[str, Parameter(validator=_check_names)] = ",".join(NAMES),
    rounds: PositiveInt | None = None,
    seconds: PositiveInt | None = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    install: bool = True,
    folder: Path = FOLDER,
    results: Path = RESULTS,
    images: Path = report.IMAGES,
) -> int:
    """Measure playhead beside what it is compared with, in about half an hour.

    The exit code is 1 when a subject counted wrong.

    Parameters
    ----------
    only
        Workloads, by commas; all by default.
    rounds
        Rounds of each measurement, whose median counts; 3, or 1 with --quick.
    seconds
        How long a round lasts; 3, or 1 with --quick.
    quick
        About five minutes: fewer and shorter rounds, and no 10,000,000 pairs.
    install
        Whether programs that are missing are installed.
    folder
        Where data is kept meanwhile; on a disk.
    results
        The file that figures are merged into.
    images
        The folder for the pictures.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    _raise_file_limit()
    found = packages.prepare(install)
    for sentence in found.missing:
        get_console().print(sentence, style="yellow")
    if not found.has_wrk:
        return 1
    with tempfile.TemporaryDirectory(prefix="playhead-bench-", dir=folder) as own:
        rounds = rounds or (ROUNDS_QUICK if quick else ROUNDS)
        seconds = seconds or (SECONDS_QUICK if quick else SECONDS)
        with contextlib.closing(Bench(Path(own), found.subjects, rounds, seconds, quick)) as bench:
            runs = _measure(bench, _names(only), results)
    report.draw(measurements.load(results), images)
    if results == measurements.RESULTS:
        document.document(results=results)
    return 1 if any(run.total("differences") for run in runs) else 0


def _raise_file_limit() -> None:
    """For this process and all that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _measure(bench: Bench, names: list[str], results: Path) -> list[Run]:
    """Each run is kept and shown as soon as it is there."""
    plans = {w: w.plan(bench) for w in WORKLOADS if w.name in names}
    facts = machine.this_machine(packages.versions())
    runs = []
    with _progress() as progress:
        total = sum(group.seconds for plan in plans.values() for group in plan)
        task = progress.add_task("", total=total)
        for workload, plan in plans.items():
            measured = []
            for number, step in _steps(bench, workload, plan):
                progress.update(task, description=_description(workload, step))
                bench.settle()
                figures = dict(step.measure())
                measured.append(Measurement(step.subject, dict(step.case), number, figures))
                progress.advance(task, step.seconds)
            date = f"{datetime.now(UTC):%Y-%m-%d}"
            commit = machine.commit()
            run = Run(workload.name, date, commit, bench.rounds, bench.seconds, facts, measured)
            measurements.save(measurements.load(results).merged(run, NAMES), results)
            report.show(run)
            runs.append(run)
    return runs


def _steps(bench: Bench, workload: Workload, plan: Plan) -> Iterator[tuple[int, Step]]:
    """In order; what was started only for them ends with them."""
    if not workload.is_shared:
        bench.close_shared()
    for group in plan:
        yield from group.in_order()
    bench.close_own()


def _progress() -> Progress:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    # Seconds of a plan pass at their own pace in each workload, so the pace of all counts.
    return Progress(*columns, transient=True, speed_estimate_period=3_600)


def _description(workload: Workload, step: Step) -> str:
    case = ", ".join(f"{name} {report.text_of(value)}" for name, value in step.case.items())
    return f"{workload.name}: {step.subject}, {case}"


if __name__ == "__main__":
    cyclopts.run(suite)
