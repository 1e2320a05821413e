"""What is in a data directory, read beside its server or without one.

Nothing is locked, repaired or written. A server that makes a checkpoint meanwhile
removes files that were about to be read; then that shard is read again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from aggregator import entries
from aggregator.checkpoint import Erasing, Folders, erasure_of, facts_between
from aggregator.entries import Entry
from aggregator.recovery import Recovered, load, replay
from aggregator.rules import DAY_HOURS, Rules
from aggregator.state import State
from aggregator.tables import tables_of
from persistence import log, snapshot
from persistence.directory import Manifest, read_manifest, shard_folder
from persistence.errors import DamagedError
from persistence.facts import SCHEMA
from persistence.store import StoredFile

#: How often a shard is read again when its files go meanwhile. Checkpoints take seconds.
ATTEMPTS = 5
#: Between these attempts, so that a checkpoint comes to its end.
PAUSE_S = 0.2
#: No hour is folded here that the server has not folded: its setting is not known.
_NEVER_FOLD_DAYS = 1_000_000

ERASED_SCHEMA = pa.schema(
    {"shard": pa.int32(), "user": pa.string(), "slug": pa.string(), "sequence": pa.int64()}
)

Tables = Mapping[str, pa.Table]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What one shard holds after the record `last`, the last that was read of its log."""

    number: int
    last: int
    #: That of the snapshot which was read, 0 without one.
    snapshot_sequence: int
    #: As of `tables.tables_of`; hours before the hour `fold_before` are in the first of their day.
    tables: Tables
    fold_before: int
    #: Files whose facts begin up to `last`; the newest may also have later ones.
    stored: list[StoredFile]
    #: The facts after those stored, without what was erased.
    tail: pa.Table
    #: Erases up to `last` that may not have been carried out in `stored` yet.
    erasing: list[Erasing]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a data directory holds. Each shard is as it was at one moment, not all at the same."""

    path: Path
    manifest: Manifest
    rules: Rules
    shards: list[ShardContent]

    def tables(self) -> dict[str, pa.Table]:
        """progress, users, movies, retention and hours over all shards."""
        return joined([shard.tables for shard in self.shards], self.fold_before)

    @property
    def fold_before(self) -> int:
        """The hour before which `tables` have days: the latest of any shard."""
        return max(shard.fold_before for shard in self.shards)

    def stored_paths(self) -> list[Path]:
        return [file.path for shard in self.shards for file in shard.stored]

    def tail(self) -> pa.Table:
        """The facts that are in the log alone, with the column `shard` before the others."""
        return pa.concat_tables([with_shard(shard.tail, shard.number) for shard in self.shards])

    def erased(self) -> pa.Table:
        """Whose facts in stored files do not count, up to which record; as ERASED_SCHEMA."""
        parts = [erased_in(shard.number, shard.erasing) for shard in self.shards]
        return pa.concat_tables(parts)

    def create_facts(self, connection: duckdb.DuckDBPyConnection, name: str = "facts") -> None:
        """Makes a view of all facts: `shard`, and the columns of stored ones.

        Stored files are read when the view is. Names are VARCHAR.
        """
        connection.register(f"{name}_tail", self.tail())
        connection.register(f"{name}_erased", self.erased())
        stored = "".join(f"UNION ALL ({_select_stored(s)})" for s in self.shards if s.stored)
        connection.execute(f"""
            CREATE TEMP VIEW {name} AS
            FROM (FROM {name}_tail {stored}) AS f
            WHERE NOT EXISTS (
                FROM {name}_erased AS e
                WHERE e.shard = f.shard AND e."user" = f."user"
                AND (e.slug IS NULL OR e.slug = f.slug) AND f.sequence <= e.sequence
            )
        """)


def inspect(path: Path, up_to: Mapping[int, int] | None = None) -> Inspection:
    """Reads all shards; `up_to` has the last record to read of each, else it is the last there is.

    What `up_to` says must not be before the newest snapshot. Raises `PersistenceError`.
    """
    manifest = read_manifest(path)
    rules = Rules(**manifest.rules)
    shards = [
        read_shard(path, shard, rules, (up_to or {}).get(shard)) for shard in range(manifest.shards)
    ]
    return Inspection(path, manifest, rules, shards)


def read_shard(path: Path, shard: int, rules: Rules, up_to: int | None = None) -> ShardContent:
    """What a shard of the data directory `path` holds; raises `PersistenceError`."""
    folders = Folders.of(shard_folder(path, shard), shard)
    return patiently(folders, lambda: _read_shard(folders, shard, rules, up_to))
