"""`playhead rebuild`: all totals anew from the stored events."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from aggregator.regeneration import regenerate
from aggregator.rules import HOURS_KEPT_DAYS, Rules
from api.settings import CompleteRatio, Credit, HoursKeptDays, IdleMs, MaxGapMs, Shards
from persistence.directory import DataDirectory
from persistence.errors import PersistenceError


def rebuild(
    *,
    data_dir: Annotated[Path, Parameter(env_var="PLAYHEAD_DATA_DIR")] = Path("data"),
    shards: Shards | None = None,
    max_gap_ms: MaxGapMs | None = None,
    idle_ms: IdleMs | None = None,
    complete_ratio: CompleteRatio | None = None,
    credit: Credit | None = None,
    hours_kept_days: HoursKeptDays = HOURS_KEPT_DAYS,
) -> None:
    """Makes the next generation of the data; `api.cli` has its help.

    Parameters
    ----------
    data_dir
        What the server was started with as --data-dir.
    shards
        How many shards the data is split into.
    max_gap_ms
        The longest step that still counts as playback; start the server with the same.
    idle_ms
        A break longer than this is a new view; start the server with the same.
    complete_ratio
        A movie is completed at this share of its length; start the server with the same.
    credit
        What "at" means: a position, or an amount watched; start the server with the same.
    hours_kept_days
        Hourly sums of older days become daily ones.
    """
    asked: dict[str, Any] = {
        "max_gap_ms": max_gap_ms,
        "idle_ms": idle_ms,
        "complete_ratio": complete_ratio,
        "credit": credit,
    }
    changed = {name: value for name, value in asked.items() if value is not None}
    columns = ("Counting stored events", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        directory = DataDirectory.open(data_dir, rules=None)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=None)
            regenerate(
                directory,
                shards or directory.manifest.shards,
                Rules(**(directory.manifest.rules | changed)),
                hours_kept_days,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
        directory.close()
    except (PersistenceError, OSError) as error:
        sys.exit(f"playhead: {error}")
    print(f"{data_dir} has been rebuilt")
