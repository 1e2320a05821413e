"""`playhead log dump`: the records of a log segment, for people."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from cyclopts import App

from aggregator import entries
from aggregator.entries import Entry
from api.schema import time_of
from persistence import log
from persistence.batch import Batch
from persistence.errors import PersistenceError

app = App(name="log", help="Look into the log of a shard.")


class NoSegmentError(Exception):
    """This is not a segment."""


@app.command
def dump(segment: Path, *, events: bool = True) -> None:
    """Show the records of a segment, one line each, and what is in them below.

    Nothing is changed. A record that fails its checks ends the list, and the exit
    code is 1 unless it is a last one that is being written or was cut short.

    Parameters
    ----------
    segment
        A file such as data/shard-0000/log/00000000000000000001.log.
    events
        Whether to show what is in the records.
    """
    try:
        _check_segment(segment)
        for record in log.read_segment(segment):
            entry = Entry(record, entries.decode(record.kind, record.payload))
            print(_heading(entry))
            for line in _contents(entry) if events else ():
                print(f"    {line}")
    except (PersistenceError, OSError, ValueError, NoSegmentError) as error:
        sys.exit(f"playhead: {error}")
    except BrokenPipeError:
        sys.exit(0)


def _check_segment(path: Path) -> None:
    """Raises `NoSegmentError` where the name alone tells; its content may be damaged."""
    if not path.exists():
        raise NoSegmentError(f"there is no file {path}")
    if path.is_dir() or path.suffix != ".log" or not path.stem.isdigit():
        raise NoSegmentError(
            f"{path} is no log segment: name a file such as "
            "…/shard-0000/log/00000000000000000001.log"
        )


def _heading(entry: Entry) -> str:
    record = entry.record
    what = "events" if isinstance(entry.content, Batch) else "commands"
    return (
        f"{record.sequence} {time_of(record.received_ms)} {len(entry.content)} {what} "
        f"(epoch {record.epoch}, frame {record.producer_sequence} of {record.producer:x}, "
        f"{len(record.payload)} bytes)"
    )


def _contents(entry: Entry) -> Iterator[str]:
    if isinstance(entry.content, Batch):
        for row in _rows(entry.content):
            yield msgspec.json.encode(row).decode()
    else:
        for command in entry.content:
            yield msgspec.json.encode(command).decode()


def _rows(batch: Batch) -> Iterator[dict[str, Any]]:
    """As they are kept: milliseconds, and hashes for ids and keys."""
    columns = {
        "user": batch.users.take(batch.user).to_list(),
        "slug": batch.slugs.take(batch.slug).to_list(),
        "session": [name or None for name in batch.sessions.take(batch.session)],
        "at_ms": batch.at_ms.tolist(),
    }
    for name, absent in (("ts_ms", -1), ("duration_ms", 0), ("id_hash", 0), ("key_hash", 0)):
        column = getattr(batch, name)
        if column is not None:
            columns[name] = [None if value == absent else value for value in column.tolist()]
    for values in zip(*columns.values(), strict=True):
        row = zip(columns, values, strict=True)
        yield {name: value for name, value in row if value is not None}
