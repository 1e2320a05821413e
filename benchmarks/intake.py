"""How many events a second one core takes in: the same events in each format that there is.

From the bytes of a request to the frame for a shard: parsed, checked, made
columns, encoded. `python -m benchmarks.intake` prints a table. Seconds are those
of the processor, and rounds of the formats are interleaved and their medians
compared, because machines are shared and noisy.
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
from cyclopts import Parameter, run
from rich.console import Console
from rich.progress import track
from rich.table import Table

from aggregator.event import Part, to_batch
from api.arrow_intake import parse_arrow
from api.intake import Parsed, parse_json, parse_ndjson

#: As many as a request may have, and a body of any size.
EVENTS_MAX, BYTES_MAX = 1_000_000, 1 << 30
#: Small requests are repeated within a round, so that it lasts long enough to be timed.
ROUND_EVENTS = 20_000
BASELINE = "JSON array"

Columns = dict[str, Any]


def intake(
    *,
    events: Annotated[list[int], Parameter(consume_multiple=True)] | None = None,
    rounds: int = 7,
) -> None:
    """Measure the intake of events.

    Parameters
    ----------
    events
        Events a request, a group of rows each; 1,000, 10,000 and 100,000 if not given.
    rounds
        Rounds of each format; their median counts.
    """
    for optional in (False, True):
        title = "user, slug, at, session, id, ts, duration" if optional else "user, slug, at"
        table = Table(title=f"{title}: events/s (median)", title_justify="left")
        for heading in ("events a request", "format", "bytes an event", "events/s", "to JSON"):
            table.add_column(heading, justify="left" if heading == "format" else "right")
        for count in events or [1_000, 10_000, 100_000]:
            _add_rows(table, count, optional, rounds)
        Console().print(table)


def _add_rows(table: Table, events: int, optional: bool, rounds: int) -> None:
    requests = _requests(_events(events, optional))
    repeats = max(1, ROUND_EVENTS // events)
    seconds: dict[str, list[float]] = {name: [] for name in requests}
    for parse, body in requests.values():
        assert len(parse(body).events) == events
    for _ in track(range(rounds), f"{events:,} events", transient=True):
        for name, (parse, body) in requests.items():
            started = time.process_time()
            for _ in range(repeats):
                _take_in(parse, body)
            seconds[name].append((time.process_time() - started) / repeats)
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    for name, (_, body) in requests.items():
        table.add_row(
            f"{events:,}",
            name,
            f"{len(body) / events:.0f}",
            f"{events / medians[name]:,.0f}",
            f"{medians[BASELINE] / medians[name]:.1f}",
        )
    table.add_section()


def _take_in(parse: Callable[[bytes], Parsed], body: bytes) -> bytes:
    return to_batch([Part(parse(body).events)]).encode()


def _events(count: int, optional: bool) -> Columns:
    """Viewers who report every ten seconds, a few events of each in a request."""
    random = np.random.default_rng(1)
    users = max(1, count // 10)
    user = random.integers(0, users, count)
    columns: Columns = {
        "user": [f"user-{number:08}" for number in user],
        "slug": [f"movie-{number:05}" for number in user % 500],
        "at": (random.integers(0, 6_000_000, count) / 1000).tolist(),
    }
    if optional:
        columns["session"] = [f"session-{number:08}" for number in user]
        columns["id"] = [f"{number:016x}" for number in random.integers(0, 2**62, count)]
        columns["ts"] = (1_700_000_000_000 + 100 * np.arange(count)).tolist()
        columns["duration"] = [6000.5] * count
    return columns


def _requests(columns: Columns) -> dict[str, tuple[Callable[[bytes], Parsed], bytes]]:
    """Each format's parser and its body of these events."""
    events = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    plain = pa.table(columns)
    coded = pa.table(
        {
            name: column.dictionary_encode() if name in ("user", "slug", "session") else column
            for name, column in zip(plain.column_names, plain.columns, strict=True)
        }
    )

    def json(body: bytes) -> Parsed:
        return parse_json(body, EVENTS_MAX)

    def ndjson(body: bytes) -> Parsed:
        return parse_ndjson(body, EVENTS_MAX)

    def arrow(body: bytes) -> Parsed:
        return parse_arrow(body, EVENTS_MAX, BYTES_MAX)

    return {
        BASELINE: (json, orjson.dumps(events)),
        "NDJSON": (ndjson, b"\n".join(map(orjson.dumps, events))),
        "Arrow plain": (arrow, _stream(plain)),
        "Arrow dictionary": (arrow, _stream(coded)),
    }


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


if __name__ == "__main__":
    run(intake)
