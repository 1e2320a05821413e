"""What a stored event takes: bytes on disk, and time to write, read, look up and remove.

`python -m benchmarks.store_size` simulates the viewers of `playhead generate`,
stores what they send, and prints a table of several kinds of traffic. A second
table has the sizes of the columns and of other ways to write the same facts.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import run
from rich.console import Console
from rich.table import Table

from benchmarks.player import Heartbeat
from benchmarks.viewers import Viewers
from persistence import facts as stored_facts
from persistence.facts import NAMES, WRITING, Origin, encode
from persistence.store import SCHEMA, Store

#: Early in a UTC day, so that a run is one file.
START_MS = 1_789_963_200_000
#: Events that come within so long share a record, as they would share an fsync.
RECORD_MS = 2
#: Users looked up, one after the other.
LOOKUPS = 50


def _numbers_as(encoding: str) -> dict[str, Any]:
    return {"column_encoding": dict.fromkeys(WRITING["column_encoding"], encoding)}


#: Layouts to compare, by what they write differently.
_ALTERNATIVES: dict[str, dict[str, Any]] = {
    "numbers as differences": _numbers_as("DELTA_BINARY_PACKED"),
    "numbers plain": _numbers_as("PLAIN"),
    "pages of 20,000 rows": {"max_rows_per_page": 20_000},
    "zstd level 3": {"compression_level": 3},
    "zstd level 12": {"compression_level": 12},
    "zstd level 18": {"compression_level": 18},
}


class Traffic(msgspec.Struct, frozen=True):
    """Who watches. `speedup` is how many times faster than real time."""

    name: str
    users: int
    movies: int
    speedup: float = 1
    has_sessions: bool = True

    def facts(self, count: int) -> pa.Table:
        """`count` events as a shard's log would have them, resent ones left out."""
        received_ms, beats = [], []
        for now_ms, beat in islice(self._heartbeats(), count):
            received_ms.append(now_ms)
            beats.append(beat)
        return _table(np.array(received_ms) // RECORD_MS * RECORD_MS, beats)

    def _heartbeats(self) -> Iterator[tuple[int, Heartbeat]]:
        def clock_ms() -> int:
            return START_MS + round(viewers.now_s * 1000 / self.speedup)

        viewers = Viewers(1, self.users, self.movies, self.has_sessions, clock_ms)
        seen = set[str]()
        for _, beat in viewers:
            if beat.id not in seen:
                yield clock_ms(), beat
            if beat.id is not None:
                seen.add(beat.id)


#: The first is `playhead generate` as it comes: 1,000 events/s of people who make 133 in real time.
TRAFFICS = (
    Traffic("1,000 viewers at 1,000 events/s", 1_000, 200, speedup=7.5),
    Traffic("1,000 viewers in real time", 1_000, 200),
    Traffic("1,000 viewers, no sessions", 1_000, 200, has_sessions=False),
    Traffic("10,000 viewers in real time", 10_000, 1_000),
    Traffic("100,000 viewers in real time", 100_000, 5_000),
)


def store_size(*, facts: int = 1_000_000) -> None:
    """Measure the store of events.

    Parameters
    ----------
    facts
        Events in a file.
    """
    console = Console()
    table = _headed("traffic", "bytes/fact", "written/s", "read/s", "look-up ms", "purge ms")
    for traffic in TRAFFICS:
        with console.status(traffic.name):
            table.add_row(traffic.name, *_measure(traffic.facts(facts)))
    console.print(table)
    with console.status("other layouts"):
        layouts = _layouts(TRAFFICS[0].facts(facts))
    console.print(layouts)


def _table(received_ms: np.ndarray, beats: list[Heartbeat]) -> pa.Table:
    count = len(beats)
    begins = np.diff(received_ms, prepend=0) != 0
    first_rows = np.flatnonzero(begins)
    record = np.cumsum(begins)
    columns: dict[str, Any] = {
        "sequence": record,
        "index": np.arange(count) - first_rows[record - 1],
        "received_ms": received_ms,
        "kind": ["event"] * count,
        "user": [beat.user for beat in beats],
        "slug": [beat.slug for beat in beats],
        "session": [beat.session for beat in beats],
        "at_ms": [round(beat.at * 1000) for beat in beats],
        "ts_ms": [beat.ts for beat in beats],
        "duration_ms": [beat.duration and round(beat.duration * 1000) for beat in beats],
        "title": [None] * count,
    }
    for name in NAMES:
        columns[name] = pa.array(columns[name], pa.string()).dictionary_encode()
    return pa.table(columns, SCHEMA)


def _measure(facts: pa.Table) -> list[str]:
    """The cells of a traffic's row."""
    last = facts["sequence"][-1].as_py()
    users = stored_facts.names_of(facts, "user")
    with tempfile.TemporaryDirectory(prefix="playhead-bench-") as folder:
        store = Store(Path(folder), 0)
        write_s = _timed(lambda: store.archive(facts, 1, last))
        size_bytes = store.size_bytes
        read_s = _timed(lambda: sum(map(len, store.read())))
        look_up_s = _timed(lambda: [store.facts_of_user(user) for user in users[:LOOKUPS]])
        purge_s = _timed(lambda: store.purge({users[0]: last}, {}))
    return [
        f"{size_bytes / len(facts):.2f}",
        f"{len(facts) / write_s:,.0f}",
        f"{len(facts) / read_s:,.0f}",
        f"{look_up_s * 1000 / LOOKUPS:.1f}",
        f"{purge_s * 1000:.0f}",
    ]


def _layouts(facts: pa.Table) -> Table:
    origin = Origin(0, 1, facts["sequence"][-1].as_py())
    names = ["as stored", *_ALTERNATIVES]
    sizes = [_column_bytes(encode(facts, origin))]
    for change in _ALTERNATIVES.values():
        with patch.dict(WRITING, change):
            sizes.append(_column_bytes(encode(facts, origin)))
    sink = pa.BufferOutputStream()
    pq.write_table(facts, sink, stored_facts.GROUP_ROWS, **WRITING)
    names.append("in order of arrival")
    sizes.append(_column_bytes(sink.getvalue()))
    table = _headed(f"{TRAFFICS[0].name}, bytes/fact", "all", *SCHEMA.names)
    for name, columns in zip(names, sizes, strict=True):
        cells = [sum(columns), *columns]
        table.add_row(name, *(f"{size / len(facts):.2f}" for size in cells))
    return table


def _column_bytes(content: pa.Buffer) -> list[int]:
    metadata = pq.read_metadata(pa.BufferReader(content))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return [
        sum(group.column(column).total_compressed_size for group in groups)
        for column in range(metadata.num_columns)
    ]


def _timed(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _headed(first: str, *others: str) -> Table:
    table = Table(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    run(store_size)
