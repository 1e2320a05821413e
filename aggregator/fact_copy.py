"""The facts of a shard in a database of the reader's own, as of one record.

A server that makes erases final replaces the files of stored facts one by one. Read
by a query, they would be of several moments. So they are copied, and those that
were replaced meanwhile are copied again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from aggregator.checkpoint import Erasing
from aggregator.inspection import erased_in, with_shard
from persistence.errors import DamagedError, PersistenceError
from persistence.store import Store, StoredFile

#: The name of the table, in SQL.
FACTS = "facts"

_CREATE = """
    CREATE TABLE facts (
        file BIGINT, shard INTEGER, sequence BIGINT, "index" INTEGER, received_ms BIGINT,
        kind VARCHAR, "user" VARCHAR, slug VARCHAR, session VARCHAR,
        at_ms BIGINT, ts_ms BIGINT, duration_ms BIGINT, title VARCHAR
    )
"""
_ERASE = """
    DELETE FROM facts USING erased AS e
    WHERE e."user" = facts."user" AND (e.slug IS NULL OR e.slug = facts.slug)
    AND facts.sequence <= e.sequence
"""
#: In place of a file's first record, for facts that are in the log alone.
_LOG = 0


class FactCopy:
    """Made by `catch_up`, then checked with `is_current`, then completed once by `finish`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._copied: dict[int, StoredFile] = {}
        #: What the last `catch_up` could not copy.
        self.damage: list[PersistenceError] = []
        connection.execute(_CREATE)

    @property
    def stored_sequence(self) -> int:
        """The last record whose facts are copied from files."""
        return max((file.last for file in self._copied.values()), default=0)

    @property
    def rows(self) -> int:
        (count,) = self._connection.table(FACTS).count("*").fetchall()[0]
        return int(count)

    def catch_up(self, tell: Callable[[int, int], None]) -> None:
        """Copies the files that are new or were replaced, each checked.

        `tell` gets the files done and all files.
        """
        self.damage = []
        try:
            files = self._store.files()
        except DamagedError as error:
            self.damage.append(error)
            return
        at = 0
        while at < len(files):
            reading = self._store.read(files[at].first - 1)
            try:
                while at < len(files) and self._copied.get(files[at].first) != files[at]:
                    self._copy(files[at], next(reading))
                    at += 1
                    tell(at, len(files))
            except PersistenceError as error:
                self.damage.append(error)
            at += 1  # past the damaged one, or one that is copied already

    def is_current(self) -> bool:
        """Whether no file was replaced since it was copied."""
        return all(_is_unchanged(file) for file in self._copied.values())

    def finish(self, tail: pa.Table, erasing: list[Erasing]) -> None:
        """Adds the facts that are in the log alone, and removes those that were erased."""
        self._connection.register("erased", erased_in(self._store.shard, erasing))
        self._connection.execute(_ERASE)
        self._connection.unregister("erased")
        self._insert(_LOG, tail)

    def files_with(self, names: Mapping[str, Any]) -> list[Path]:
        """The files that have facts with these values, by column."""
        condition = " AND ".join(f'"{name}" = ?' for name in names) or "true"
        found = self._connection.execute(
            f"FROM facts SELECT DISTINCT file WHERE {condition} ORDER BY file",
            [*names.values()],
        ).fetchall()
        return [self._copied[first].path for (first,) in found if first != _LOG]

    def _copy(self, file: StoredFile, facts: pa.Table) -> None:
        self._connection.execute("DELETE FROM facts WHERE file = ?", [file.first])
        self._insert(file.first, facts)
        self._copied[file.first] = file

    def _insert(self, first: int, facts: pa.Table) -> None:
        self._connection.register("more", with_shard(facts, self._store.shard))
        self._connection.execute("INSERT INTO facts FROM more SELECT ?, *", [first])
        self._connection.unregister("more")


def _is_unchanged(file: StoredFile) -> bool:
    try:
        status = file.path.stat()
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.bytes, file.changed_ns)
