"""`playhead sql`: what is in a data directory, as people ask for it. Asking changes nothing."""

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aggregator.commands import Describe, Erase, Hide, MarkCompleted, SetPosition
from aggregator.event import Event
from aggregator.inspection import Inspection, inspect
from aggregator.rules import Rules
from aggregator.shard import Shard
from api import results, sql
from api.results import FormatError
from api.sql import QueryError, answer, check_reads
from benchmarks.viewers import Viewers
from persistence.directory import DataDirectory, NoDataError
from tests.shards import NOW_MS, Clock, crash, router_of, settings_of, watch

DOCUMENT = Path(__file__).parents[2] / "docs" / "sql.md"
VIEWS = Path(sql.__file__).parent / "views.sql"
SHARDS = 2


def made(folder: Path, *steps: Any) -> Path:
    """A data directory after `steps`: lists of events, commands, and "checkpoint"; killed then."""
    DataDirectory.open(folder, Rules().as_dict(), SHARDS).close()

    async def run() -> None:
        clock = Clock()
        shards = [Shard(settings_of(folder, number), clock) for number in range(SHARDS)]
        async with router_of(shards) as router:
            for step in steps:
                clock.now_ms += 1_000
                match step:
                    case "checkpoint":
                        await asyncio.gather(*(shard.checkpoint() for shard in shards))
                    case list():
                        await router.submit(step, None, 100)
                    case Describe():
                        await router.describe(step)
                    case _:
                        await router.command(step)
        for shard in shards:
            crash(shard)

    asyncio.run(run())
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts in stored files and in the log: two users, two movies, and what was done by hand."""
    return made(
        tmp_path_factory.mktemp("small"),
        watch("ann", "alien", 0, 60),
        [Event("bob", "alien", 0.5, "tv", ts=NOW_MS - 86_400_000.0, duration=100.25)],
        [Event("eve", "alien", 3.0)],
        Describe("alien", 100_000, "Alien"),
        "checkpoint",
        [Event("bob", "alien", 5.75, "tv", ts=NOW_MS - 86_390_000.0)],
        SetPosition("ann", "alien", 30_000),
        MarkCompleted("ann", "brazil"),
        Hide("ann", "alien"),
        Erase("eve"),
    )


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some thousand heartbeats of the generator's viewers."""
    viewers: list[Viewers] = []

    def clock_ms() -> int:
        return NOW_MS - 30_000_000 + (round(viewers[0].now_s * 1000) if viewers else 0)

    viewers.append(Viewers(3, users=60, movies=5, clock_ms=clock_ms))
    beats = [beat for _, beat in islice(viewers[0], 30_000)]
    events = [
        Event(beat.user, beat.slug, beat.at, beat.session, beat.id, beat.ts, beat.duration)
        for beat in beats
    ]
    return made(tmp_path_factory.mktemp("busy"), events[:20_000], "checkpoint", events[20_000:])


def rows_of(query: str | None, folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    answer(query, folder, lambda rows: found.extend(rows.read_all().to_pylist()))
    return found


# The views


def test_events_are_those_stored_and_those_in_the_log(small: Path) -> None:
    found = rows_of(
        "SELECT * EXCLUDE (shard, sequence) FROM events WHERE user = 'bob' ORDER BY time", small
    )
    assert found == [
        {
            "user": "bob",
            "slug": "alien",
            "session": "tv",
            "time": datetime.fromtimestamp((NOW_MS - 86_400_000) / 1000, UTC),
            "at_seconds": Decimal("0.500"),
            "duration_seconds": Decimal("100.250"),
            "received": datetime.fromtimestamp(NOW_MS / 1000 + 2, UTC),
            "index": 0,
        },
        {
            "user": "bob",
            "slug": "alien",
            "session": "tv",
            "time": datetime.fromtimestamp((NOW_MS - 86_390_000) / 1000, UTC),
            "at_seconds": Decimal("5.750"),
            "duration_seconds": None,
            "received": datetime.fromtimestamp(NOW_MS / 1000 + 6, UTC),
            "index": 0,
        },
    ]
    assert rows_of("SELECT count(*) AS n, count(session) AS named FROM events", small) == [
        {"n": 9, "named": 2}
    ]


def test_what_was_changed_by_hand_is_there(small: Path) -> None:
    found = rows_of(
        "SELECT DISTINCT kind, user, slug, time, at_seconds, duration_seconds, title FROM changes",
        small,
    )
    nothing = dict.fromkeys(("at_seconds", "duration_seconds", "title"))
    of_ann = nothing | {"user": "ann", "slug": "alien"}
    entry = {"user": None, "slug": "alien", "duration_seconds": Decimal(100), "title": "Alien"}
    expected: list[tuple[str, int, dict[str, Any]]] = [
        ("movie", 4, nothing | entry),
        ("position", 7, of_ann | {"at_seconds": Decimal(30)}),
        ("completed", 8, of_ann | {"slug": "brazil"}),
        ("hidden", 9, of_ann),
    ]
    assert sorted(found, key=lambda row: row["time"]) == [
        row | {"kind": kind, "time": datetime.fromtimestamp(NOW_MS / 1000 + second, UTC)}
        for kind, second, row in expected
    ]


def test_progress_has_all_that_there_is_about_a_user_and_movie(small: Path) -> None:
    found = rows_of("FROM progress ORDER BY user DESC, slug", small)
    assert [(row["user"], row["slug"]) for row in found] == [
        ("bob", "alien"),
        ("ann", "alien"),
        ("ann", "brazil"),
    ]
    assert found[1] == {
        "user": "ann",
        "slug": "alien",
        "watch_seconds": Decimal("60.000"),
        "unique_seconds": Decimal("60.000"),
        "latest_seconds": Decimal("30.000"),
        "latest_time": datetime.fromtimestamp(NOW_MS / 1000 + 7, UTC),
        "furthest_seconds": Decimal("60.000"),
        "resume_seconds": Decimal("30.000"),
        "completed": False,
        "completed_time": None,
        "begun_again": False,
        "hidden": True,
        "views": 1,
        "events": 7,
        "duration_seconds": Decimal("100.000"),
        "version": 9,
    }
    assert found[0]["duration_seconds"] == Decimal("100.250")
    assert found[2]["completed"]
    assert found[2]["completed_time"] == datetime.fromtimestamp(NOW_MS / 1000 + 8, UTC)


def test_movies_users_hours_and_retention(small: Path) -> None:
    [alien, brazil] = rows_of("FROM movies ORDER BY slug", small)
    assert alien == {
        "slug": "alien",
        "title": "Alien",
        "watch_seconds": Decimal("65.250"),
        "viewers": 2,
        "views": 2,
        "completions": 0,
        "events": 9,
        "duration_seconds": Decimal("100.000"),
        "first_event": datetime.fromtimestamp((NOW_MS - 86_400_000) / 1000, UTC),
        "last_event": datetime.fromtimestamp(NOW_MS / 1000 + 1, UTC),
    }
    assert (brazil["viewers"], brazil["completions"]) == (0, 1)
    [ann, bob] = rows_of("FROM users ORDER BY user", small)
    assert (ann["movies"], ann["completed"], ann["events"]) == (2, 1, 7)
    assert bob["watch_seconds"] == Decimal("5.250")
    assert rows_of("FROM hours ORDER BY hour", small) == [
        {
            "slug": "alien",
            "hour": datetime(2023, 11, 13, 22, tzinfo=UTC),
            "watch_seconds": Decimal("5.250"),
        },
        {
            "slug": "alien",
            "hour": datetime(2023, 11, 14, 22, tzinfo=UTC),
            "watch_seconds": Decimal("60.000"),
        },
    ]
    assert rows_of("FROM retention ORDER BY bucket LIMIT 2", small) == [
        {
            "slug": "alien",
            "bucket": bucket,
            "start_seconds": Decimal(bucket * 10),
            "viewers": viewers,
            "plays": viewers,
        }
        for bucket, viewers in ((0, 2), (1, 1))
    ]


def test_who_was_erased_is_nowhere(small: Path) -> None:
    for view in ("events", "progress", "users", "changes"):
        assert rows_of(f"SELECT 1 FROM {view} WHERE user = 'eve'", small) == []  # noqa: S608


def test_without_a_query_the_views_are_listed_even_without_data(tmp_path: Path) -> None:
    found = rows_of(None, tmp_path / "nothing")
    assert {row["view"] for row in found} == {
        *("movies", "users", "progress", "retention", "hours", "events", "changes")
    }
    assert {"view": "users", "column": "user", "type": "VARCHAR", "meaning": "who"} in found
    with pytest.raises(NoDataError):
        rows_of("FROM movies", tmp_path / "nothing")


def test_every_column_is_listed(small: Path) -> None:
    listed = {(row["view"], row["column"]) for row in rows_of(None, small)}
    there = rows_of(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL"
        " AND NOT starts_with(table_name, 'totals_') AND NOT starts_with(table_name, 'facts')"
        " AND NOT internal",
        small,
    )
    assert there == []
    assert len(listed) > 50


# The document


def test_the_document_lists_the_views_as_they_are() -> None:
    document = DOCUMENT.read_text()
    meanings = dict(re.findall(r"COMMENT ON VIEW (\w+) IS '(.*?)';", VIEWS.read_text()))
    views: dict[str, list[str]] = {}
    for row in rows_of(None, Path()):
        sql_type = row["type"].replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
        line = f"| `{row['column']}` | {sql_type} | {row['meaning']} |\n"
        views.setdefault(row["view"], []).append(line)
    for view, lines in views.items():
        head = f"### `{view}`\n\n{meanings[view]}.\n\n| column | type | |\n|---|---|---|\n"
        assert head + "".join(lines) + "\n" in document


QUERIES = re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)\n", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("query", "heading"), QUERIES, ids=[f"line {n}" for n in range(len(QUERIES))]
)
def test_a_query_of_the_document(busy: Path, query: str, heading: str) -> None:
    found = rows_of(query, busy)
    assert found
    assert list(found[0]) == heading.split()


def test_there_are_queries_in_the_document() -> None:
    assert len(QUERIES) >= 10


# Reading only


@pytest.mark.parametrize(
    "query",
    [
        "COPY movies TO '{file}'",
        "WITH a AS (COPY movies TO '{file}') FROM a",
        "WITH a AS (DELETE FROM movies) FROM a",
        "EXPLAIN ANALYZE COPY movies TO '{file}'",
        "explain (analyze) copy movies to '{file}'",
        "-- a remark\nEXPLAIN ANALYZE COPY movies TO '{file}'",
        "/* a remark */ EXPLAIN ANALYZE WITH a AS (COPY movies TO '{file}') FROM a",
        "EXPORT DATABASE '{file}'",
        "ATTACH '{file}' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '1GB'",
        "PRAGMA threads = 1",
        "CALL pragma_version()",
        "CREATE TABLE more AS FROM movies",
        "DROP VIEW movies",
        "INSERT INTO movies VALUES (1)",
        "PREPARE query AS SELECT 1",
        "SELECT 1; COPY movies TO '{file}'",
        "SELECT 1; SELECT 2",
        "  -- nothing",
        "PIVOT hours ON slug USING sum(watch_seconds)",
    ],
)
def test_what_is_no_query_is_refused(tmp_path: Path, query: str) -> None:
    with pytest.raises(QueryError):
        check_reads(query.format(file=tmp_path / "file"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1;",
        "FROM movies",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "VALUES (1)",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) FROM n",
        "SHOW TABLES",
        "DESCRIBE movies",
        "SUMMARIZE movies",
        "EXPLAIN FROM movies",
        "EXPLAIN ANALYZE SELECT 'COPY movies TO file' AS explain",
        "EXPLAIN (FORMAT json) FROM movies",
        "PIVOT hours ON slug IN ('a') USING sum(watch_seconds)",
        """SELECT '"type":"COPY_QUERY_NODE"' AS "type" """,
    ],
)
def test_what_reads_is_answered(small: Path, query: str) -> None:
    answer(query, small, lambda rows: rows.read_all().validate())


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_text('{file}')",
        "FROM '{file}.csv'",
        "FROM read_csv('{file}')",
        "FROM glob('{folder}/*')",
        "FROM read_parquet('{folder}/*/*.parquet')",
        "FROM query('WITH a AS (COPY movies TO ''{stored}'') FROM a')",
        "FROM enable_logging('QueryLog', storage = 'file', storage_path = '{folder}')",
        "SELECT getenv('HOME')",
    ],
)
def test_a_query_reaches_nothing_else(small: Path, tmp_path: Path, query: str) -> None:
    (tmp_path / "file").write_text("secret")
    before = content_of(small)
    stored = next(small.glob("**/*.parquet"))
    with pytest.raises(duckdb.Error):
        rows_of(query.format(file=tmp_path / "file", folder=tmp_path, stored=stored), small)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert content_of(small) == before


@pytest.mark.parametrize("statement", ["COPY (SELECT 1) TO '{file}'", "SET threads = 1"])
def test_the_database_itself_refuses_to_write(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(sql, "check_reads", lambda _: None)
    with pytest.raises(duckdb.Error, match=r"disabled by configuration|locked"):
        rows_of(f"{statement.format(file=tmp_path / 'file')}", small)
    assert not list(tmp_path.iterdir())


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def test_asking_changes_no_byte(small: Path) -> None:
    before = content_of(small)
    rows_of("SELECT count(*) FROM events, progress", small)
    assert content_of(small) == before


def test_a_stored_file_that_goes_meanwhile_is_no_error(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when an erase replaces it after the directory was read."""
    looks: list[Inspection] = []

    def look(path: Path) -> Inspection:
        """The first time, files go right after; then they are back."""
        files = looks[0].stored_paths() if looks else []
        for file in files:
            (tmp_path / file.name).replace(file)
        looks.append(inspect(path))
        if not files:
            for file in looks[0].stored_paths():
                file.replace(tmp_path / file.name)
        return looks[-1]

    monkeypatch.setattr(sql, "inspect", look)
    assert rows_of("SELECT count(*) AS n FROM events", small) == [{"n": 9}]
    assert len(looks) == 2


# Results

TYPES = """
    SELECT
        1.50::DECIMAL(18, 3) AS exact,
        405475.872::DECIMAL(38, 3) AS seconds,
        123::DOUBLE AS whole,
        170141183460469231731687303715884105727::HUGEINT AS huge,
        0.1::DOUBLE AS double,
        'nan'::DOUBLE AS no_number,
        'né, "x"' AS text,
        TRUE AS yes,
        NULL AS nothing,
        make_timestamptz(1700000000123000) AS time,
        make_timestamptz(1700000000000000) AS second,
        DATE '2026-11-20' AS day,
        '\\xff'::BLOB AS bytes,
        [1, NULL] AS list,
        {'a': 1.5::DECIMAL(3, 1)} AS struct,
        MAP {'k': 2} AS map
    UNION ALL BY NAME
    SELECT 2 AS exact
    ORDER BY exact
"""


def written(
    format: Any, query: str, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> bytes:
    capfdbinary.readouterr()
    answer(query, folder, lambda rows: results.write(rows, format, None))
    return capfdbinary.readouterr().out


def test_csv(small: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text = written("csv", TYPES, small, capfdbinary).decode()
    [names, first, second] = csv.reader(io.StringIO(text, newline=""))
    assert dict(zip(names, first, strict=True)) == {
        "exact": "1.500",
        "seconds": "405475.872",
        "whole": "123.0",
        "huge": "170141183460469231731687303715884105727",
        "double": "0.1",
        "no_number": "nan",
        "text": 'né, "x"',
        "yes": "true",
        "nothing": "",
        "time": "2023-11-14 22:13:20.123Z",
        "second": "2023-11-14 22:13:20Z",
        "day": "2026-11-20",
        "bytes": "ff",
        "list": "[1, null]",
        "struct": '{"a": 1.5}',
        "map": '[["k", 2]]',
    }
    assert second == ["2.000", *[""] * (len(names) - 1)]
    assert "\r" not in text


def test_json(small: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    [first, second] = json.loads(written("json", TYPES, small, capfdbinary))
    assert first == {
        "exact": 1.5,
        "seconds": 405475.872,
        "whole": 123.0,
        "huge": 170141183460469231731687303715884105727,
        "double": 0.1,
        "no_number": None,
        "text": 'né, "x"',
        "yes": True,
        "nothing": None,
        "time": "2023-11-14T22:13:20.123Z",
        "second": "2023-11-14T22:13:20Z",
        "day": "2026-11-20",
        "bytes": "ff",
        "list": [1, None],
        "struct": {"a": 1.5},
        "map": [["k", 2]],
    }
    assert second == {name: 2 if name == "exact" else None for name in first}
    assert written("json", "SELECT 1 WHERE false", small, capfdbinary) == b"[]\n"


def test_parquet_keeps_the_types(small: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    content = written("parquet", "FROM progress ORDER BY ALL", small, capfdbinary)
    table = pq.read_table(io.BytesIO(content))
    assert table.to_pylist() == rows_of("FROM progress ORDER BY ALL", small)
    assert table.schema.field("watch_seconds").type == pa.decimal128(18, 3)
    assert table.schema.field("latest_time").type == pa.timestamp("us", "UTC")


def test_a_table_is_aligned_and_whole(
    small: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    query = """
        SELECT 'short' AS text, 7 AS number, NULL AS nothing, true AS yes
        UNION ALL SELECT repeat('long ', 60) || '[bold]', 1234567, NULL, false ORDER BY number
    """
    lines = written("table", query, small, capfdbinary).decode().splitlines()
    width = len("long " * 60 + "[bold]")
    assert lines == [
        f"{'text':<{width}}    number   nothing   yes",
        "─" * (width + 28),
        f"{'short':<{width}}         7   null      true",
        f"{'long ' * 60}[bold]   1234567   null      false",
        "2 rows",
    ]


def test_a_long_table_ends_and_says_so(
    small: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = written("table", "FROM range(1_001)", small, capfdbinary).decode().splitlines()
    assert lines[-2:] == ["  999", "the first 1,000 rows; --format csv has all"]
    lines = written("table", "FROM range(1_000)", small, capfdbinary).decode().splitlines()
    assert lines[-2:] == ["  999", "1,000 rows"]
    assert written("table", "SELECT 1 AS a", small, capfdbinary).endswith(b"1\n1 row\n")
    assert written("csv", "FROM range(30_000)", small, capfdbinary).count(b"\n") == 30_001


def test_columns_of_one_name_need_another_where_names_count(
    small: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    query = "SELECT 1 AS a, 2 AS a"
    assert written("csv", query, small, capfdbinary) == b"a,a\n1,2\n"
    with pytest.raises(FormatError, match="two columns are called a"):
        written("json", query, small, capfdbinary)


def test_a_file_is_there_once_it_is_whole(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.csv"
    output.write_text("before")

    def write(rows: pa.RecordBatchReader) -> None:
        results.write(rows, results.chosen(None, output), output)

    broken = "SELECT CASE WHEN range < 20_000 THEN 1 ELSE error('no') END AS a FROM range(30_000)"
    with pytest.raises(QueryError, match="Invalid Input Error: no"):
        answer(broken, small, write)
    assert output.read_text() == "before"
    answer("SELECT 1 AS a", small, write)
    assert output.read_text() == "a\n1\n"
    assert list(tmp_path.iterdir()) == [output]


def test_the_name_of_the_file_tells_the_format(tmp_path: Path) -> None:
    assert results.chosen(None, None) == "table"
    assert results.chosen("csv", None) == "csv"
    assert results.chosen(None, tmp_path / "a.PARQUET") == "parquet"
    assert results.chosen("table", tmp_path / "a.csv") == "table"
    with pytest.raises(FormatError, match="add --format"):
        results.chosen(None, tmp_path / "a.xlsx")
    with pytest.raises(FormatError, match="there is no folder"):
        results.chosen("csv", tmp_path / "no" / "a.csv")


def test_parquet_does_not_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(FormatError, match="--output"):
        results.chosen("parquet", None)


def test_an_interrupt_reaches_a_query_that_begins_later() -> None:
    """In a process of its own, as one that lost it would hang."""
    late = """
import os, signal, threading, time, duckdb
from api.sql import interruptible

def endless():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(0.7)
    connection.sql("SELECT count(*) FROM range(1_000_000_000_000) AS a").fetchall()

signal.signal(signal.SIGINT, signal.default_int_handler)
with duckdb.connect() as connection, interruptible(connection) as call:
    call(endless)
"""
    command = [sys.executable, "-c", late]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr.endswith("KeyboardInterrupt\n")
