"""What the suite says: tables with targets in the terminal, and pictures.

`python -m benchmarks.report` shows benchmarks/results/suite.json and draws docs/images anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cyclopts
from rich import box, get_console
from rich.table import Table
from rich.text import Text

from benchmarks import measurements, pictures
from benchmarks.measurements import RESULTS, Case, Results, Run
from benchmarks.targets import TARGETS, Target

IMAGES = Path(__file__).parents[1] / "docs" / "images"

#: Where there is no terminal.
WIDTH = 120


@dataclass(frozen=True, slots=True)
class Column:
    """A figure, its heading, and how it is written."""

    figure: str
    heading: str
    format: str = ",.0f"


REQUESTS = Column("requests_per_second", "requests/s")
EVENTS = Column("events_per_second", "events/s")
PERCENTILES = (
    Column("p50_ms", "p50 ms", ",.2f"),
    Column("p99_ms", "p99 ms", ",.2f"),
    Column("p999_ms", "p99.9 ms", ",.2f"),
)
MEMORY = Column("memory_mib", "memory MiB")
ERRORS = Column("errors", "errors")

#: Tables of one figure, subjects side by side.
BY_SUBJECT: dict[str, tuple[Column, ...]] = {
    "singles": (REQUESTS, PERCENTILES[1]),
    "batches": (EVENTS,),
    "queries": (REQUESTS, PERCENTILES[1]),
    "positions": (REQUESTS, PERCENTILES[1]),
}
#: Tables of one row a subject, figures side by side.
BY_FIGURE: dict[str, tuple[Column, ...]] = {
    "sustained": (EVENTS, *PERCENTILES[:2], MEMORY),
    "busy": (EVENTS, *PERCENTILES, ERRORS),
    "mixed": (REQUESTS, *PERCENTILES, ERRORS),
    "resources": (
        EVENTS,
        Column("cpu_us_an_event", "CPU µs an event", ",.1f"),
        MEMORY,
    ),
    "open_loop": (EVENTS, *PERCENTILES, ERRORS),
    "exactness": (
        Column("events", "events"),
        Column("totals", "totals"),
        Column("differences", "differences"),
    ),
    "pairs": (
        EVENTS,
        Column("memory_mib", "all MiB"),
        Column("bytes_a_pair", "bytes a pair", ",.1f"),
        Column("shard_mib", "shard MiB"),
        Column("shard_bytes_a_pair", "bytes a pair", ",.1f"),
    ),
    "start": (Column("seconds", "seconds", ".2f"), EVENTS),
}


def main(*, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Show what was measured last, and draw it.

    Parameters
    ----------
    results
        The file of the suite.
    images
        The folder for the pictures.
    """
    found = measurements.load(results)
    for each in found.runs:
        show(each)
    draw(found, images)


def show(run: Run) -> None:
    """Its medians, and its targets."""
    console = get_console()
    if not console.is_terminal:
        console.width = WIDTH
    for table in tables(run):
        console.print(table)
    if run.total("errors"):
        console.print(f"{run.workload}: {run.total('errors'):,.0f} errors", style="bold red")
    targets = targets_table(run)
    if targets.row_count:
        console.print(targets)


def draw(results: Results, images: Path) -> None:
    """Writes the pictures of which there are figures."""
    for path in pictures.draw(results, images):
        get_console().print(path.name, style="dim")


def tables(run: Run) -> Iterator[Table]:
    """Medians of the rounds."""
    for column in BY_SUBJECT.get(run.workload, ()):
        yield _by_subject(run, column)
    if run.workload in BY_FIGURE:
        yield _by_figure(run, BY_FIGURE[run.workload])


def targets_table(run: Run) -> Table:
    """Those of this workload for which there are figures."""
    table = _headed(f"{run.workload}: targets", ["playhead"], ["reached", "target", ""])
    for target in TARGETS:
        value = target.value(Results([run])) if target.of.workload == run.workload else None
        if value is not None:
            table.add_row(target.name, _number(value), bound(target), _verdict(target, value))
    return table


def bound(target: Target) -> str:
    if target.at_least is not None:
        return f"≥ {_number(target.at_least)}"
    assert target.at_most is not None
    return f"≤ {_number(target.at_most)}"


def text_of(value: int | str) -> str:
    """A value of a case."""
    return value if isinstance(value, str) else f"{value:,}"


def _verdict(target: Target, value: float) -> Text:
    return Text("✓", "green") if target.is_met(value) else Text("✗", "bold red")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.2f}"


def _by_subject(run: Run, column: Column) -> Table:
    cases, subjects = run.cases(), run.subjects()
    table = _headed(f"{run.workload}: {column.heading}", list(cases[0]), subjects)
    for case in cases:
        table.add_row(
            *map(text_of, case.values()), *(_cell(run, s, column, case) for s in subjects)
        )
    return table


def _by_figure(run: Run, columns: Sequence[Column]) -> Table:
    cases, subjects = run.cases(), run.subjects()
    headings = [column.heading for column in columns]
    table = _headed(run.workload, [*cases[0], "subject"], headings)
    for case in cases:
        for subject in subjects:
            cells = [_cell(run, subject, column, case) for column in columns]
            if any(cells):
                table.add_row(*map(text_of, case.values()), subject, *cells)
        if len(subjects) > 1:
            table.add_section()
    return table


def _cell(run: Run, subject: str, column: Column, case: Case) -> str:
    """Empty where it was not measured."""
    value = run.median(subject, column.figure, case)
    return "" if value is None else format(value, column.format)


def _headed(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    cyclopts.run(main)
