"""`playhead backup` and `playhead restore`: copies of a data directory."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from aggregator import backup as copies
from persistence import manifest
from persistence.directory import NoDataError
from persistence.errors import PersistenceError

DataDir = Annotated[Path, Parameter(env_var="PLAYHEAD_DATA_DIR")]


class NoBackupError(PersistenceError):
    """There is nothing to restore."""

    def __init__(self, source: Path) -> None:
        super().__init__(
            f"{source} is no backup (there is no {manifest.NAME} in it): "
            "name a folder that `playhead backup` made"
        )


def backup(target: Path, *, data_dir: DataDir = Path("data")) -> None:
    """Makes a copy of the data; `api.cli` has its help.

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
    """Makes a data directory of a backup; `api.cli` has its help.

    Parameters
    ----------
    source
        A folder that `playhead backup` made; it stays as it is.
    data_dir
        The data directory to make.
    """

    def copy(tell: copies.Tell) -> None:
        try:
            copies.copy(source, data_dir, tell)
        except NoDataError:  # it would ask for another --data-dir
            raise NoBackupError(source) from None

    _run("Restoring", copy)
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
