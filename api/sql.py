"""`playhead sql`: a query over what is in a data directory."""

import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import duckdb
import psutil
import pyarrow as pa
from cyclopts import Parameter
from rich.console import Console

from aggregator.inspection import Inspection, inspect, with_shard
from aggregator.rules import Rules
from aggregator.state import State
from aggregator.tables import tables_of
from api import results
from api.results import Format
from persistence.errors import PersistenceError
from persistence.facts import SCHEMA

#: The share of the memory now free that a query may take; beyond, it goes to temporary files.
MEMORY_SHARE = 0.25
MEMORY_BYTES_MIN = 256 << 20
#: A server beside goes first.
NICENESS = 10
#: An erase can replace a stored file that is about to be read; then all is read once more.
ATTEMPTS = 2
#: The exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
#: Until a query has ended.
INTERRUPT_EVERY_S = 0.05
BATCH_ROWS = 10_000

_VIEWS = "views.sql"
#: What is shown when nothing is asked.
_OVERVIEW = """
    SELECT table_name AS view, column_name AS column, data_type AS type, comment AS meaning
    FROM duckdb_columns()
    WHERE comment IS NOT NULL
    ORDER BY list_position(
        ['movies', 'users', 'progress', 'retention', 'hours', 'events', 'changes'], table_name
    ), column_index
"""
_READS = "playhead sql only reads: SELECT, FROM, WITH, SHOW, DESCRIBE, SUMMARIZE, EXPLAIN"

#: After this, a message shows the line of the query, and below it where in it.
_PICTURE = re.compile(r"\n\s*LINE \d+:")
_EXPLAIN = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b\s*(ANALYZE\b\s*)?(\([^)]*\))?", re.IGNORECASE | re.DOTALL
)
#: In a parsed query: a part that writes.
_WRITING = re.compile(r'"type":"(COPY|DELETE|INSERT|MERGE|UPDATE)\w*_NODE"')

Write = Callable[[pa.RecordBatchReader], None]
T = TypeVar("T")


class Call(Protocol):
    def __call__(self, function: Callable[[], T]) -> T: ...


class QueryError(Exception):
    """The query cannot be answered, and why."""


def sql(
    query: str | None = None,
    /,
    *,
    data_dir: Annotated[Path, Parameter(env_var="PLAYHEAD_DATA_DIR")] = Path("data"),
    format: Format | None = None,
    output: Path | None = None,
) -> None:
    """Answers a query, or lists the views; `api.cli` has its help.

    Parameters
    ----------
    query
        One statement, in quotes: "SELECT slug, viewers FROM movies ORDER BY ALL".
    data_dir
        What the server was started with as --data-dir.
    format
        As a table for people, CSV, a JSON array, or Parquet; by default as the name of
        the output ends, else a table.
    output
        The file to write; else it goes to standard output.
    """
    try:
        chosen = results.chosen(format, output)
        os.nice(NICENESS)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it without a word
        answer(query, data_dir, lambda rows: results.write(rows, chosen, output))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except duckdb.Error as error:
        sys.exit(f"playhead: {_in_one_line(error)}")
    except (QueryError, results.FormatError, PersistenceError, OSError) as error:
        sys.exit(f"playhead: {error}")


def answer(query: str | None, data_dir: Path, write: Write) -> None:
    """Gives the rows that `query` finds to `write`; without a query, those of the overview.

    Raises `QueryError`, `duckdb.Error`, `PersistenceError`, and what `write` does.
    """
    statement = _OVERVIEW if query is None else query
    check_reads(statement)
    with ExitStack() as stack:
        with Console(stderr=True).status("Reading the data"):
            for attempt in range(1, ATTEMPTS + 1):
                content = None if query is None else inspect(data_dir)
                stamps = _stamps(content)
                try:
                    rows, call = stack.enter_context(_found(statement, content))
                    break
                except (duckdb.Error, QueryError):
                    if attempt == ATTEMPTS or (_stamps(content) == stamps and None not in stamps):
                        raise
        call(partial(write, rows))


def check_reads(query: str) -> None:
    """Raises `QueryError` unless this is one statement that changes nothing.

    `COPY` in a `WITH` is a part of a SELECT for DuckDB, so it looks into that, too.
    """
    with duckdb.connect() as connection:
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            raise QueryError(f"one query is answered at a time, and these are {len(statements)}")
        [statement] = statements
        if explain := _EXPLAIN.match(query):
            [statement] = connection.extract_statements(query[explain.end() :]) or statements
        kind = statement.type
        if kind == duckdb.StatementType.MULTI:
            raise QueryError("PIVOT needs its values: PIVOT … ON … IN (…) USING …")
        if kind != duckdb.StatementType.SELECT:
            raise QueryError(f"{kind.name} is no query. {_READS}")
        parsed = connection.execute("SELECT json_serialize_sql(?)", [statement.query]).fetchall()
    if writing := _WRITING.search(parsed[0][0]):
        raise QueryError(f"{writing[1]} is no query. {_READS}")


def _stamps(content: Inspection | None) -> list[tuple[int, int] | None]:
    """What tells a stored file from another of its name; None where it is gone."""
    stamps: list[tuple[int, int] | None] = []
    for path in content.stored_paths() if content else []:
        try:
            found = path.stat()
            stamps.append((found.st_ino, found.st_mtime_ns))
        except FileNotFoundError:
            stamps.append(None)
    return stamps


@contextmanager
def _found(query: str, content: Inspection | None) -> Iterator[tuple[pa.RecordBatchReader, Call]]:
    """The rows, of which the first are there, and how to call what reads on."""
    with _database(content) as connection, interruptible(connection) as call:
        yield call(partial(_rows, connection, query)), call


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> pa.RecordBatchReader:
    rows = connection.sql(query).to_arrow_reader(BATCH_ROWS)
    batches = _batches(rows)
    first = list(islice(batches, 1))
    return pa.RecordBatchReader.from_batches(rows.schema, chain(first, batches))


def _batches(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from rows
    except OSError as error:  # as Arrow passes on what DuckDB says
        raise QueryError(_in_one_line(error)) from error


@contextmanager
def interruptible(connection: duckdb.DuckDBPyConnection) -> Iterator[Call]:
    """Calls functions in a thread, because DuckDB itself may take a while to see a Ctrl-C."""
    with ThreadPoolExecutor(1) as pool:

        def call(function: Callable[[], T]) -> T:
            called: Future[T] | None = None
            try:
                called = pool.submit(function)
                return called.result()
            except KeyboardInterrupt:
                while called and not called.done():  # it may not have begun its query yet
                    connection.interrupt()
                    wait([called], INTERRUPT_EVERY_S)
                raise

        yield call


@contextmanager
def _database(content: Inspection | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views, of which a query can reach nothing but the stored files."""
    memory_bytes = max(int(psutil.virtual_memory().available * MEMORY_SHARE), MEMORY_BYTES_MIN)
    with (
        tempfile.TemporaryDirectory(prefix="playhead-sql-") as folder,
        duckdb.connect(
            config={"memory_limit": f"{memory_bytes}B", "temp_directory": folder}
        ) as connection,
    ):
        create_views(connection, content)
        paths = [] if content is None else [str(path) for path in content.stored_paths()]
        connection.execute("SET allowed_paths = ?", [paths])
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield connection


def create_views(connection: duckdb.DuckDBPyConnection, content: Inspection | None) -> None:
    """Makes the views, with nothing in them if there is no content."""
    if content is None:
        tables = tables_of(State(Rules()))
        connection.register("facts", with_shard(SCHEMA.empty_table(), 0))
    else:
        tables = content.tables()
        content.create_facts(connection, "facts")
    for name, table in tables.items():
        connection.register(f"totals_{name}", table)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((resources.files(__package__) / _VIEWS).read_text("utf-8"))


def _in_one_line(error: Exception) -> str:
    """The message, without the picture of where in the query."""
    return " ".join(_PICTURE.split(str(error))[0].split())
