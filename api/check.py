"""`playhead check`: whether memory, snapshots and stored events come to the same numbers."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import duckdb
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aggregator.audit import Report, ShardReport, Tell
from aggregator.audit import check as audit
from persistence.errors import PersistenceError

#: As a shell says of a command that Ctrl-C ended.
EXIT_ENDED = 130
#: What DuckDB makes of a `KeyboardInterrupt` while it runs a query.
INTERRUPTED = "Query interrupted"


def check(
    *, data_dir: Annotated[Path, Parameter(env_var="PLAYHEAD_DATA_DIR")] = Path("data")
) -> None:
    """Ends with 1 if anything differs or is damaged; `api.cli` has its help.

    Parameters
    ----------
    data_dir
        What the server was started with as --data-dir.
    """
    # Ended by either, it removes its copy of the events.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with _progress() as tell:
            report = audit(data_dir, tell)
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and str(error) != INTERRUPTED:
            raise
        print("playhead: the check was ended before it was finished", file=sys.stderr)
        sys.exit(EXIT_ENDED)
    except (PersistenceError, OSError) as error:
        sys.exit(f"playhead: {error}")
    except duckdb.Error as error:
        sys.exit(f"playhead: the check could not be finished: {error}")
    _show(report, Console(highlight=False, soft_wrap=True))
    sys.exit(0 if report.is_clean else 1)


@contextmanager
def _progress() -> Iterator[Tell]:
    """A bar on standard error, for as long as it takes."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")

        def tell(shard: int, what: str, done: int, of: int) -> None:
            progress.update(task, description=f"shard {shard}: {what}", completed=done, total=of)

        yield tell


def _show(report: Report, console: Console) -> None:
    for shard in report.shards:
        console.print(f"[{'red' if shard.problems else 'green'}]{_summary(shard)}[/]")
        for problem in shard.problems:
            console.print(f"  {escape(problem)}")
        for reason in shard.left_out:
            console.print(f"  [dim]left out: {escape(reason)}[/]")
    problems = sum(len(shard.problems) for shard in report.shards)
    verdict = f"[red]{problems} found" if problems else "[green]nothing found"
    console.print(f"{escape(str(report.path))}: {verdict}[/]")


def _summary(shard: ShardReport) -> str:
    head = f"shard {shard.number}: "
    if shard.problems:
        return f"{head}DIFFERENT OR DAMAGED"
    what = ", ".join(shard.compared)
    return f"{head}{what} agree after record {shard.last:,} ({shard.facts:,} stored events)"
