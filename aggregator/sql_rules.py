"""The rules of watch time in SQL over stored facts, and what tells two sets of totals apart.

The rules are in watch_time.sql, beside this module.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from aggregator.rules import Rules
from kernels.rows import BUCKET_MS, COMPLETE_TAIL_MS, PARTS

#: The tables of totals, and the columns that are the key of each, which come first.
KEYS = {
    "progress": ("user", "slug"),
    "movies": ("slug",),
    "users": ("user",),
    "retention": ("slug", "bucket"),
    "hours": ("slug", "hour"),
}

#: Columns that are no integers.
_TYPES = {
    "user": pa.string(),
    "slug": pa.string(),
    "title": pa.string(),
    "begun_again": pa.bool_(),
    "hidden": pa.bool_(),
}

_SCRIPT = "watch_time.sql"
_DATABASE = "watch_time"

#: The lowest of the rows that one of two tables has and the other has not, or less often.
_FIRST_DIFFERENT = """
    SELECT * FROM (
        (FROM one EXCEPT ALL FROM other) UNION ALL (FROM other EXCEPT ALL FROM one)
    ) ORDER BY ALL LIMIT 1
"""


def totals(
    connection: duckdb.DuckDBPyConnection, facts: str, rules: Rules, fold_before: int
) -> dict[str, pa.Table]:
    """The tables of `KEYS`, as the rules make them of `facts`.

    That is a table or view of the current schema, or a temporary one, with the
    columns of stored facts and `shard`, an integer. Hours before the hour
    `fold_before` count in the first one of their day. What is made on the way is
    gone afterwards, and goes to the connection's temporary files where it does
    not fit in its memory. Not to be called within a transaction.
    """
    with _database(connection):
        for macro, value in _macros(facts, rules, fold_before).items():
            connection.execute(f"CREATE MACRO {macro}() AS {value}")
        connection.execute((resources.files(__package__) / _SCRIPT).read_text("utf-8"))
        return {name: connection.table(name).to_arrow_table() for name in KEYS}


@contextmanager
def _database(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Puts an empty database before those of the connection, and drops it afterwards."""
    [(path, *names)] = connection.execute(
        "SELECT current_setting('search_path'), current_catalog(), current_schema()"
    ).fetchall()
    around = ".".join(map(_quoted, names))
    connection.execute(f"ATTACH ':memory:' AS {_DATABASE}")
    try:
        connection.execute("SET search_path = ?", [f"{_DATABASE}.main,{around}"])
        yield
    finally:
        connection.execute(f"USE {around}; SET search_path = ?", [path])
        connection.execute(f"DETACH {_DATABASE}")


def _macros(facts: str, rules: Rules, fold_before: int) -> dict[str, str | int]:
    return {
        "facts": f"TABLE FROM {_quoted(facts)}",
        "max_gap_ms": rules.max_gap_ms,
        "idle_ms": rules.idle_ms,
        "complete_parts": rules.complete_parts,
        "by_position": str(rules.credit == "position"),
        "complete_tail_ms": COMPLETE_TAIL_MS,
        "resume_parts": rules.resume_parts,
        "parts": PARTS,
        "bucket_ms": BUCKET_MS,
        "fold_before": fold_before,
    }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def first_difference(
    one: dict[str, pa.Table],
    other: dict[str, pa.Table],
    names: tuple[str, str] = ("one", "the other"),
) -> str | None:
    """A sentence on the first difference between two sets of totals, or None.

    The tables are taken in the order of `KEYS`, and of each the lowest key that
    differs; the order of rows, the order of other columns and the width of
    integers do not matter. `names` are what the sentence calls the two sets.
    """
    sides = dict(zip(names, (one, other), strict=True))
    with duckdb.connect() as connection:
        for table, keys in KEYS.items():
            if lack := _lack("the table", table, sides):
                return lack
            of_table = {name: side[table] for name, side in sides.items()}
            if difference := _difference(connection, keys, of_table):
                return f"{table}: {difference}"
    return None


def _lack(what: str, name: str, sides: Mapping[str, Collection[str]]) -> str | None:
    """Says so when only one side has this name."""
    has = [side for side, known in sides.items() if name in known]
    lacks = [side for side in sides if side not in has]
    return f"{what} {name} is in {has[0]} and not in {lacks[0]}" if has and lacks else None


def _difference(
    connection: duckdb.DuckDBPyConnection, keys: tuple[str, ...], sides: dict[str, pa.Table]
) -> str | None:
    columns = {name: side.column_names for name, side in sides.items()}
    first, second = columns.values()
    for column in first + second:
        if lack := _lack("the column", column, columns):
            return lack
    in_order = [*keys, *(column for column in first if column not in keys)]
    sides = {name: _comparable(side, in_order) for name, side in sides.items()}
    for view, side in zip(("one", "other"), sides.values(), strict=True):
        connection.register(view, side)
    different = connection.execute(_FIRST_DIFFERENT).fetchone()
    if different is None:
        return None
    key = dict(zip(keys, different, strict=False))
    return _row_difference(key, {name: _rows(side, key) for name, side in sides.items()})


def _comparable(table: pa.Table, columns: list[str]) -> pa.Table:
    """The columns in this order, each in the one type it is compared in."""
    types = [(name, _TYPES.get(name, pa.int64())) for name in columns]
    return table.select(columns).cast(pa.schema(types))


def _rows(table: pa.Table, key: dict[str, Any]) -> list[dict[str, Any]]:
    for name, value in key.items():
        table = table.filter(pc.is_in(table[name], pa.array([value], table[name].type)))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _row_difference(key: dict[str, Any], sides: dict[str, list[dict[str, Any]]]) -> str:
    """What is different about the rows of a key, of which each side should have one."""
    row = ", ".join(f"{name} {value!r}" for name, value in key.items())
    first, second = sides.values()
    if len(first) == len(second) == 1:
        column = next(name for name in first[0] if first[0][name] != second[0][name])
        return f"{column} of {row} is " + " and ".join(
            f"{rows[0][column]!r} in {name}" for name, rows in sides.items()
        )
    counts = " and ".join(f"{len(rows)} in {name}" for name, rows in sides.items())
    return f"rows of {row}: {counts}"
