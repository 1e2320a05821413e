"""The rows of a file of facts are in the order that makes it small and quick to search."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persistence.facts import SCHEMA, Origin, encode


@pytest.mark.parametrize(("users", "rows"), [(300, 5_000), (70_000, 70_000)])
def test_rows_are_sorted_by_names_and_then_by_arrival(users: int, rows: int) -> None:
    rng = np.random.default_rng(users)
    names: dict[str, list[str | None]] = {
        "user": [f"u{number}" for number in rng.permutation(rows) % users],
        "slug": [f"m{number}" for number in rng.integers(0, 3, rows)],
        "session": [None if number else "tv" for number in rng.integers(0, 2, rows)],
    }
    names["user"][:10] = [None] * 10
    columns: dict[str, Any] = {
        "sequence": np.arange(rows),
        "index": np.zeros(rows, np.int32),
        "received_ms": np.arange(rows),
        "kind": ["event"] * rows,
        "title": [None] * rows,
        **dict.fromkeys(("at_ms", "ts_ms", "duration_ms"), np.zeros(rows, np.int64)),
        **names,
    }
    facts = pa.table(
        {name: pa.array(columns[name]).cast(SCHEMA.field(name).type) for name in SCHEMA.names},
        SCHEMA,
    )
    stored = pq.read_table(pa.BufferReader(encode(facts, Origin(0, 0, rows - 1))))
    found = list(zip(*(stored[name].to_pylist() for name in (*names, "sequence")), strict=True))
    expected = zip(*names.values(), range(rows), strict=True)
    assert found == sorted(expected, key=lambda row: [(n is not None, n) for n in row])
