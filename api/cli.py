"""The command line: `playhead serve`, and what else there is to run."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from aggregator import collector, environment
from aggregator.logs import configure
from api import __version__, stopping
from api.settings import Settings, flaws
from persistence.errors import PersistenceError

#: The exit code when a flag or a variable is wrong.
EXIT_USAGE = 2

app = App(
    name="playhead",
    version=__version__,
    help="Watch time and resume points from player heartbeats.",
    exit_on_error=False,  # `main` says in one line what is wrong
    print_error=False,
)


@app.command
def serve(*, settings: Annotated[Settings | None, Parameter(name="*")] = None) -> None:
    """Start the server and run until Ctrl-C or SIGTERM.

    Every flag is also a variable: --data-dir is PLAYHEAD_DATA_DIR.
    """
    settings = settings or Settings()
    configure(settings.log_level)
    environment.prepare(embedded=settings.ray_address is None)
    with contextlib.suppress(KeyboardInterrupt):
        stopping.keep()  # an import that is interrupted may swallow it
        with collector.paused():
            from api import server  # noqa: PLC0415 - it imports Ray, which reads the environment then

        stopping.install()
        try:
            server.serve(settings)
        except (PersistenceError, server.StartError, OSError) as error:
            sys.exit(f"playhead: {error}")


# The others are loaded when they are run, so what they do is said here, for the list of all.
app.command(
    "benchmarks.generate:generate",
    name="generate",
    help="""Send the heartbeats of simulated viewers to a server, and show how it takes them.

    They pause, seek, watch again, fall asleep, leave, use two devices, lose their
    connection and upload later, in order or not. A user's events are sent in
    order, each after the answer to the one before; what failed is sent again
    until the answer is known, so that everything counts once.

    Ctrl-C ends a run with its summary. --verify needs a server with the default
    rules, and users that it does not know yet; the exit code is 1 when a total
    is not what the events make it.
    """,
)
app.command(
    "api.check:check",
    name="check",
    help="""Check that memory, snapshots and stored events agree, and are whole.

    The server may run. Nothing is changed. The exit code is 1 if anything differs or
    is damaged.
    """,
)
app.command(
    "api.sql:sql",
    name="sql",
    help="""Answer a query over the data, in SQL as DuckDB has it; the server may run.

    Without a query, the views and their columns are listed. Nothing in the data can
    be changed. Large results belong into a file: --output views.parquet.
    """,
)
app.command(
    "api.rebuild:rebuild",
    name="rebuild",
    help="""Recompute all totals from the stored events, also with other rules or shards.

    No server may run on the data. What is there stays until the new totals are
    complete. What is not given stays as it was.
    """,
)
app.command(
    "api.backup:backup",
    name="backup",
    help="""Copy all data to a new folder, while the server goes on taking events.

    The copy is a data directory: `playhead check` and `playhead sql` work on it.
    """,
)
app.command("api.backup:restore", name="restore", help="Make a data directory of a backup.")
app.command("api.log_dump:app", name="log", help="Look into the log of a shard.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the `arguments` say, by default those of this process."""
    try:
        app(arguments)
    except (CycloptsError, ValidationError) as error:
        print(f"playhead: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _in_one_line(error: CycloptsError | ValidationError) -> str:
    """What is wrong with the command line or a variable."""
    if isinstance(error, ValidationError):
        return flaws(error)
    if isinstance(error.__cause__, ValidationError):
        return flaws(error.__cause__, error.argument.name if error.argument else "")
    return " ".join(str(error).split())
