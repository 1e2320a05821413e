"""The rules in SQL: the shared cases, the edges of the numbers, and what differences are called."""

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from aggregator.rules import Rules
from aggregator.sql_rules import KEYS, first_difference, totals
from kernels.rows import HOUR_MS
from tests import facts
from tests.facts import START_MS, Fact
from tests.unit.test_watch_time_vectors import CASES

#: The largest position and duration that an event can have.
MOST_MS = 10_000_000_000


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    # DuckDB's types are not named here: Hypothesis would keep them past the exit, which it reports.
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        yield connection


def totals_of(
    connection: Any, *rows: Fact, rules: Rules | None = None
) -> dict[str, list[dict[str, Any]]]:
    connection.register("stored", facts.table(rows))
    found = totals(connection, "stored", rules or Rules(), 0)
    return {name: table.to_pylist() for name, table in found.items()}


def event(sequence: int, at_ms: int, **fields: Any) -> Fact:
    """An event of ann and alien, 10 s after the one before."""
    fields = {"user": "ann", "session": None} | fields
    return Fact(
        START_MS + 10_000 * sequence, "event", "alien", at_ms=at_ms, sequence=sequence, **fields
    )


def facts_of(case: dict[str, Any]) -> list[Fact]:
    """The case's events, one a record, without those whose id was there before."""
    ids: set[tuple[str, str]] = set()
    found = []
    for sequence, sent in enumerate(case["events"], 1):
        id = (sent["user"], sent.get("id", f"none {sequence}"))
        if id in ids:
            continue
        ids.add(id)
        fact = Fact(
            sent["received_ms"],
            "event",
            sent["slug"],
            sent["user"],
            sent.get("session"),
            round(sent["at"] * 1000),
            sent.get("ts"),
            round(sent["duration"] * 1000) if "duration" in sent else None,
            sequence=sequence,
        )
        found.append(fact)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_shared_case(connection: Any, case: dict[str, Any]) -> None:
    found = totals_of(connection, *facts_of(case), rules=Rules(**case["settings"]))
    for table, rows in found.items():
        for row in rows:
            if table == "progress":
                row["completed"] = row["completed_t"] is not None
            if table == "hours":
                row["hour_start_ms"] = row["hour"] * HOUR_MS
    expect = dict(case["expect"])
    curves = expect.pop("retention")
    for table, wanted in expect.items():
        assert len(found[table]) == len(wanted)
        for want in wanted:
            assert any(want.items() <= row.items() for row in found[table]), want
    for curve in curves:
        of_movie = {
            row["bucket"]: (row["viewers"], row["plays"])
            for row in found["retention"]
            if row["slug"] == curve["slug"]
        }
        wanted = zip(curve["viewers"], curve["plays"], strict=True)
        assert of_movie == {k: counts for k, counts in enumerate(wanted) if any(counts)}


def test_no_facts_make_no_totals(connection: Any) -> None:
    assert totals_of(connection) == {name: [] for name in KEYS}


@pytest.mark.parametrize(
    ("at_ms", "completed", "resume_ms"),
    [(MOST_MS // 10 * 9 - 1, False, MOST_MS // 10 * 9 - 1), (MOST_MS // 10 * 9, True, 0)],
)
def test_the_longest_movie_is_completed_to_the_millisecond(
    connection: Any, at_ms: int, completed: bool, resume_ms: int
) -> None:
    found = totals_of(
        connection,
        event(1, at_ms - 60_000, duration_ms=MOST_MS),
        event(2, at_ms),
    )
    [progress] = found["progress"]
    assert (progress["completed_t"] is not None, progress["resume_ms"]) == (completed, resume_ms)
    assert progress["unique_ms"] == progress["watch_ms"] == 60_000
    buckets = [row["bucket"] for row in found["retention"]]
    assert buckets == list(range((at_ms - 60_000) // 10_000, (at_ms - 1) // 10_000 + 1))


@pytest.mark.parametrize(("at_ms", "resume_ms"), [(49_999, 0), (50_000, 50_000)])
def test_resuming_starts_over_under_a_twentieth(
    connection: Any, at_ms: int, resume_ms: int
) -> None:
    [progress] = totals_of(connection, event(1, at_ms, duration_ms=1_000_000))["progress"]
    assert progress["resume_ms"] == resume_ms


def test_sums_are_exact_where_a_double_is_not(connection: Any) -> None:
    """A million and one amounts, of which the last digit of the sum would be lost."""
    connection.execute(
        """
        CREATE OR REPLACE VIEW many AS
        SELECT stored.* REPLACE (i // 65536 + 1 AS sequence, i % 65536 AS index, 'u' || i AS "user")
        FROM stored, range(1_000_001) AS numbers(i)
        """
    )
    connection.register("stored", facts.table([event(1, MOST_MS - 1)]))
    found = totals(connection, "many", Rules(credit="duration"), 0)
    watch_ms = 1_000_001 * (MOST_MS - 1)
    assert watch_ms > 2**53
    assert found["movies"]["watch_ms"].to_pylist() == [watch_ms]
    assert found["hours"]["watch_ms"].to_pylist() == [watch_ms]
    assert len(found["users"]) == 1_000_001


def test_a_pair_made_by_hand_has_no_viewer_and_no_moment_but_its_own(
    connection: Any,
) -> None:
    found = totals_of(connection, Fact(START_MS, "completed", "alien", "ann", sequence=1))
    assert found["progress"] == [
        {
            "user": "ann",
            "slug": "alien",
            "watch_ms": 0,
            "unique_ms": 0,
            "latest_ms": 0,
            "latest_t": START_MS,
            "furthest_ms": 0,
            "resume_ms": 0,
            "completed_t": START_MS,
            "begun_again": False,
            "hidden": False,
            "views": 0,
            "events": 0,
            "duration_ms": None,
            "version": 1,
        }
    ]
    [movie], [user] = found["movies"], found["users"]
    assert (movie["viewers"], movie["completions"], movie["first_t"]) == (0, 1, None)
    assert (user["movies"], user["completed"], user["last_t"]) == (1, 1, None)
    assert not found["retention"]
    assert not found["hours"]


def test_a_movie_without_viewers_is_listed_by_its_entry(
    connection: Any,
) -> None:
    entries = [
        Fact(START_MS, "movie", "brazil", duration_ms=9_000, title="Brazil", shard=0, sequence=1),
        Fact(START_MS, "movie", "brazil", duration_ms=9_000, title="Brazil", shard=1, sequence=7),
    ]
    [movie] = totals_of(connection, *entries)["movies"]
    assert (movie["slug"], movie["duration_ms"], movie["title"]) == ("brazil", 9_000, "Brazil")
    assert (movie["events"], movie["viewers"], movie["last_t"]) == (0, 0, None)


def test_old_hours_count_in_the_first_one_of_their_day(
    connection: Any,
) -> None:
    day = START_MS // HOUR_MS // 24
    rows = [event(n, at_ms=10_000 * n, ts_ms=day * 24 * HOUR_MS + n) for n in (0, 1)]
    rows += [
        event(n, at_ms=10_000 * n, ts_ms=(day * 24 + n) * HOUR_MS, session="tv") for n in (2, 3)
    ]
    connection.register("stored", facts.table(rows))
    rules = Rules(idle_ms=2 * HOUR_MS)
    for fold_before, hours in [
        (day * 24, {day * 24: 10_000, day * 24 + 3: 10_000}),
        (day * 24 + 3, {day * 24: 10_000, day * 24 + 3: 10_000}),
        (day * 24 + 4, {day * 24: 20_000}),
        (day * 24 + 24, {day * 24: 20_000}),
    ]:
        table = totals(connection, "stored", rules, fold_before)["hours"]
        assert {row["hour"]: row["watch_ms"] for row in table.to_pylist()} == hours


def test_the_connection_is_left_as_it_was() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA mine; USE mine; CREATE TABLE pairs AS SELECT 7 AS seven")
        connection.register("rows", facts.table([event(1, 0), event(2, 10_000)]))
        connection.execute('CREATE VIEW "my ""facts" AS FROM rows')
        before = settings_of(connection)
        found = totals(connection, 'my "facts', Rules(), 0)
        assert found["movies"]["watch_ms"].to_pylist() == [10_000]
        assert settings_of(connection) == before
        connection.execute("CREATE VIEW wrong AS SELECT 1 AS shard")
        with pytest.raises(duckdb.BinderException):
            totals(connection, "wrong", Rules(), 0)
        assert settings_of(connection) == before
        assert connection.execute("FROM pairs").fetchall() == [(7,)]


def settings_of(connection: Any) -> list[Any]:
    return [
        connection.execute(query).fetchall()
        for query in (
            "SELECT database_name FROM duckdb_databases() ORDER BY ALL",
            "SELECT current_catalog(), current_schema()",
            "SELECT table_name FROM duckdb_tables() ORDER BY ALL",
        )
    ]


def sets() -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Twice the same totals: in another order, and with other types."""
    one = {
        "progress": pa.table(
            {
                "user": ["ann", "ann", "bob"],
                "slug": ["alien", "brazil", "alien"],
                "watch_ms": pa.array([1, 2, 3], pa.int64()),
                "completed_t": pa.array([None, 5, None], pa.int64()),
                "hidden": [False, True, False],
            }
        ),
        "movies": pa.table({"slug": ["alien"], "title": pa.array([None], pa.string())}),
        "users": pa.table({"user": ["ann"], "watch_ms": [1]}),
        "retention": pa.table({"slug": ["alien"], "bucket": [0], "viewers": [1]}),
        "hours": pa.table({"slug": pa.array([], pa.string()), "hour": pa.array([], pa.int64())}),
    }
    other = {
        name: table.take(pa.array(range(len(table)), pa.int32())[::-1])
        for name, table in one.items()
    }
    other["progress"] = (
        other["progress"]
        .set_column(0, "user", other["progress"]["user"].dictionary_encode())
        .set_column(2, "watch_ms", other["progress"]["watch_ms"].cast(pa.int16()))
        .select(["hidden", "slug", "user", "completed_t", "watch_ms"])
    )
    other["users"] = other["users"].cast(
        pa.schema({"user": pa.large_string(), "watch_ms": pa.uint8()})
    )
    return one, other


def test_order_and_types_make_no_difference() -> None:
    assert first_difference(*sets()) is None


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        (
            "watch_ms",
            [1, 9, 9],
            "progress: watch_ms of user 'ann', slug 'brazil' is 2 in memory and 9 in SQL",
        ),
        (
            "completed_t",
            [4, 5, None],
            "progress: completed_t of user 'ann', slug 'alien' is None in memory and 4 in SQL",
        ),
        (
            "hidden",
            [False, False, False],
            "progress: hidden of user 'ann', slug 'brazil' is True in memory and False in SQL",
        ),
        (
            "slug",
            ["alien", "brazil", "brazil"],
            "progress: rows of user 'bob', slug 'alien': 1 in memory and 0 in SQL",
        ),
        (
            "user",
            ["ann", "ann", "ann"],
            "progress: rows of user 'ann', slug 'alien': 1 in memory and 2 in SQL",
        ),
    ],
)
def test_a_difference_is_named(column: str, values: list[Any], sentence: str) -> None:
    one, _ = sets()
    changed = one["progress"]
    position = changed.schema.get_field_index(column)
    array = pa.array(values, changed.schema.field(column).type)
    other = one | {"progress": changed.set_column(position, column, array)}
    assert first_difference(one, other, ("memory", "SQL")) == sentence


def test_the_same_row_twice_is_a_difference() -> None:
    one, other = sets()
    other["users"] = pa.concat_tables([other["users"]] * 2)
    assert first_difference(one, other) == "users: rows of user 'ann': 1 in one and 2 in the other"


def test_a_missing_table_or_column_is_a_difference() -> None:
    one, other = sets()
    del other["users"]
    assert first_difference(other, one) == "the table users is in the other and not in one"
    one, other = sets()
    other["movies"] = other["movies"].drop_columns("title")
    assert first_difference(one, other) == "movies: the column title is in one and not in the other"


def test_the_first_table_comes_first() -> None:
    one, other = sets()
    other["hours"] = pa.table({"slug": ["alien"], "hour": [3]})
    other["retention"] = other["retention"].slice(1)
    difference = first_difference(one, other)
    assert difference is not None
    assert difference.startswith("retention: rows of slug 'alien', bucket 0: 1 in one and 0 in")
