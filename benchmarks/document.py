"""The tables of README.md and docs/performance.md, from what the suite measured last.

A table stands below a line such as `<!-- singles: requests/s -->`, which names the workload
and the table's heading in the terminal, and ends with an empty line. `python -m
benchmarks.document` writes them all anew.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import cyclopts
from rich import get_console
from rich.table import Table

from benchmarks import measurements, report
from benchmarks.measurements import RESULTS, Results

_ROOT = Path(__file__).parents[1]
DOCUMENTS = (_ROOT / "README.md", _ROOT / "docs" / "performance.md")

_TABLE = re.compile(r"(<!-- (\w+)(?:: ([^>]+))? -->\n)(?:\|.*\n)*")
#: In place of a workload: those of all.
TARGETS = "targets"


def document(*, results: Path = RESULTS) -> None:
    """Write the tables of the documents anew.

    Parameters
    ----------
    results
        The file of the suite.
    """
    found = measurements.load(results)
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(), found))
        get_console().print(path.name, style="dim")


def filled(text: str, results: Results) -> str:
    """The document with the tables that it names; raises `KeyError` for one that there is not."""
    tables = dict(_tables(results))
    return _TABLE.sub(lambda found: found[1] + tables[found[2], found[3]], text)


def _tables(results: Results) -> Iterator[tuple[tuple[str, str | None], str]]:
    """As Markdown, by workload and heading; a workload's only one has no heading."""
    targets: list[str] = []
    for run in results.runs:
        for table in report.tables(run):
            _, _, heading = str(table.title).partition(": ")
            yield (run.workload, heading or None), "".join(_lines(table))
        lines = [*_lines(report.targets_table(run))]
        targets += lines[2 if targets else 0 :]
    yield (TARGETS, None), "".join(targets)


def _lines(table: Table) -> Iterator[str]:
    columns = table.columns
    yield _line([str(column.header) for column in columns])
    yield _line(["--:" if column.justify == "right" else "---" for column in columns])
    for cells in zip(*(column.cells for column in columns), strict=True):
        yield _line([str(cell) for cell in cells])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    cyclopts.run(document)
