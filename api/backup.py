"""`playhead backup` and `playhead restore`: copies of a data directory."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from aggregator import backup as copies
from persistence.errors import PersistenceError

DataDir = Annotated[Path, Parameter(env_var="PLAYHEAD_DATA_DIR")]


def backup(target: Path, *, data_dir: DataDir = Path("data")) -> None:
    """Copy all data to a new folder, while the server goes on taking events.

    The copy is a data directory: `playhead check` and `playhead sql` work on it.

    Parameters
    ----------
    target
        The folder to make.
    data_dir
        What the server was started with as --data-dir.
    """
    _run("Copying", lambda tell: copies.backup(data_dir, target, tell))
    print(f"{target} is a copy of {data_dir}")


def restore(source: Path, *, data_dir: DataDir = Path("data")) -> None:
    """Make a data directory of a backup.

    Parameters
    ----------
    source
        A folder that `playhead backup` made; it stays as it is.
    data_dir
        The data directory to make.
    """
    _run("Restoring", lambda tell: copies.copy(source, data_dir, tell))
    print(f"{data_dir} is a copy of {source}")


def _run(title: str, work: Callable[[copies.Tell], None]) -> None:
    """Does the work with a bar; ends the process with one line if it fails."""
    columns = (title, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=None)
            work(lambda done, total: progress.update(task, completed=done, total=total))
    except (PersistenceError, OSError) as error:
        sys.exit(f"playhead: {error}")
