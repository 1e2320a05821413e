"""What is in a data directory, read beside its server or without one.

Nothing is locked, repaired or written. A server that makes a checkpoint meanwhile
removes files that were about to be read; then that shard is read again.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from aggregator.checkpoint import Erasing, Folders, facts_between
from aggregator.recovery import Recovered, replayed
from aggregator.rules import DAY_HOURS, Rules
from aggregator.state import State
from aggregator.tables import tables_of
from persistence import log, snapshot
from persistence.directory import Manifest, read_manifest, shard_folder
from persistence.errors import DamagedError
from persistence.facts import SCHEMA
from persistence.snapshot import Snapshot
from persistence.store import StoredFile

#: How often a shard is read again when its files go meanwhile. Checkpoints take seconds.
ATTEMPTS = 5
#: Between these attempts, so that a checkpoint comes to its end.
PAUSE_S = 0.2
#: No hour is folded here that the server has not folded: its setting is not known.
NEVER_FOLD_DAYS = 1_000_000

ERASED_SCHEMA = pa.schema(
    {"shard": pa.int32(), "user": pa.string(), "slug": pa.string(), "sequence": pa.int64()}
)

Tables = dict[str, pa.Table]
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
        """Makes a temporary view of all facts: `shard`, and the columns of stored ones.

        Stored files are checked now, as DuckDB does not, and read when the view is; raises
        `DamagedError`. Names are VARCHAR.
        """
        check_stored([file for shard in self.shards for file in shard.stored])
        tail, erased = f"{name}_tail", f"{name}_erased"
        connection.register(tail, self.tail())
        connection.register(erased, self.erased())
        parts = [f"FROM {tail} SELECT shard, {_columns()}"]
        parts += [_select_stored(shard, erased) for shard in self.shards if shard.stored]
        connection.execute(f"CREATE TEMP VIEW {name} AS {' UNION ALL '.join(parts)}")


def inspect(path: Path, up_to: Mapping[int, int] | None = None) -> Inspection:
    """Reads all shards; `up_to` has the last record to read of each, else it is the last there is.

    What `up_to` says must not be before the newest snapshot. Raises `PersistenceError`.
    """
    manifest = read_manifest(path)
    rules = Rules(**manifest.rules)
    shards = [
        read_shard(path, manifest, shard, (up_to or {}).get(shard))
        for shard in range(manifest.shards)
    ]
    return Inspection(path, manifest, rules, shards)


def folders_of(path: Path, manifest: Manifest, shard: int) -> Folders:
    """Where a shard of a data directory has its files."""
    return Folders.of(shard_folder(manifest.root(path), shard), shard, manifest.owner(shard))


def read_shard(
    path: Path, manifest: Manifest, shard: int, up_to: int | None = None
) -> ShardContent:
    """What a shard of the data directory `path` holds; raises `PersistenceError`."""
    folders = folders_of(path, manifest, shard)
    rules = Rules(**manifest.rules)
    return patiently(folders, lambda: _read_shard(folders, shard, rules, up_to))


def _read_shard(folders: Folders, shard: int, rules: Rules, up_to: int | None) -> ShardContent:
    newest = newest_snapshot(folders, up_to)
    recovered = replayed(folders, newest, State(rules, NEVER_FOLD_DAYS), up_to)
    last = recovered.next_sequence - 1
    stored = [file for file in folders.store.files() if file.first <= last]
    return ShardContent(
        number=shard,
        last=last,
        snapshot_sequence=recovered.snapshot_sequence,
        tables=tables_of(recovered.state),
        fold_before=recovered.state.hours.fold_before,
        stored=stored,
        tail=tail_after(folders, stored[-1].last if stored else 0, recovered),
        erasing=recovered.erasing,
    )


def newest_snapshot(folders: Folders, up_to: int | None = None) -> Snapshot | None:
    """The newest whole snapshot, or None without any; raises `DamagedError` if it is too new."""
    newest, damage = snapshot.load_newest(folders.snapshots, folders.owner)
    firsts = [int(path.stem) for path in log.segments(folders.log)]
    if damage and (not firsts or firsts[0] > (newest.sequence if newest else 0) + 1):
        raise damage[0]  # the log does not make up for it
    if newest is not None and up_to is not None and newest.sequence > up_to:
        what = f"it is newer than record {up_to}, up to which was to be read"
        raise DamagedError(folders.snapshots / f"{newest.sequence:019}", 0, what)
    return newest


def tail_after(folders: Folders, stored: int, recovered: Recovered) -> pa.Table:
    """The facts after the record `stored` that `recovered` has replayed, less those erased.

    A checkpoint stores facts before it makes a snapshot, so what was counted and what
    was a duplicate is known of all records that are not stored. Raises `DamagedError`
    if it is not, because stored files are missing.
    """
    last = recovered.next_sequence - 1
    if stored < recovered.snapshot_sequence:
        taken = recovered.snapshot_sequence
        what = f"files after record {stored} are missing: the snapshot has record {taken}"
        raise DamagedError(folders.store.folder, 0, what)
    if stored >= last:
        return SCHEMA.empty_table()
    return facts_between(folders, stored + 1, last, recovered.skipped, recovered.erasing)


def patiently(folders: Folders, read: Callable[[], T]) -> T:
    """What `read` returns. It is called again if it fails and files of the shard came or went."""
    for attempt in range(1, ATTEMPTS + 1):
        before = file_names(folders)
        try:
            return read()
        except (FileNotFoundError, DamagedError):
            if attempt == ATTEMPTS or file_names(folders) == before:
                raise
        time.sleep(PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def file_names(folders: Folders) -> set[Path]:
    """What a shard has on disk: a set that changes when a checkpoint is made."""
    store = folders.store
    stored = store.folder.glob(f"*/shard-{store.shard:04}-*.parquet")
    return {*stored, *folders.snapshots.glob("*"), *log.segments(folders.log)}


def check_stored(files: Sequence[StoredFile]) -> None:
    """Raises `DamagedError` unless all bytes of stored files are what was written.

    Who reads one that is gone meanwhile notices that.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(StoredFile.check, [file for file in files if file.path.exists()]):
            pass


# Joining


def joined(parts: Sequence[Tables], fold_before: int) -> dict[str, pa.Table]:
    """The tables of several shards as one; a user is in one of them, a movie may be in all."""
    tables = {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}
    tables["hours"] = folded(tables["hours"], fold_before)
    if len(parts) > 1:
        tables |= {
            name: _summed(tables[name], keys, functions)
            for name, (keys, functions) in _SUMS.items()
        }
    return tables


def folded(hours: pa.Table, fold_before: int) -> pa.Table:
    """Hours before the hour `fold_before` in the first of their day; no key is there twice."""
    hour = hours["hour"].to_numpy()
    kept = np.where(hour < fold_before, hour // DAY_HOURS * DAY_HOURS, hour)
    moved = hours.set_column(hours.column_names.index("hour"), "hour", pa.array(kept))
    return _summed(moved, *_SUMS["hours"])


#: The keys of the tables that are summed over shards, and how each column is.
_SUMS: dict[str, tuple[list[str], dict[str, str]]] = {
    "movies": (
        ["slug"],
        dict.fromkeys(["watch_ms", "viewers", "views", "completions", "events"], "sum")
        # The catalogue is the same in all shards, or about to be.
        | dict.fromkeys(["duration_ms", "title", "last_t"], "max")
        | {"first_t": "min"},
    ),
    "retention": (["slug", "bucket"], {"viewers": "sum", "plays": "sum"}),
    "hours": (["slug", "hour"], {"watch_ms": "sum"}),
}


def _summed(table: pa.Table, keys: list[str], functions: dict[str, str]) -> pa.Table:
    """One row a key; the columns keep their order and types."""
    summed = table.group_by(keys).aggregate([*functions.items()])
    names = [
        f"{name}_{functions[name]}" if name in functions else name for name in table.schema.names
    ]
    return summed.select(names).rename_columns(table.schema.names).cast(table.schema)


def with_shard(facts: pa.Table, shard: int) -> pa.Table:
    return facts.add_column(0, "shard", pa.repeat(pa.scalar(shard, pa.int32()), len(facts)))


def erased_in(shard: int, erasing: list[Erasing]) -> pa.Table:
    """By ERASED_SCHEMA; `slug` null is all of a user."""
    rows = [(shard, each.user, each.slug, each.sequence) for each in erasing]
    columns = zip(*rows, strict=True) if rows else [[]] * len(ERASED_SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(c, field.type) for c, field in zip(columns, ERASED_SCHEMA, strict=True)],
        schema=ERASED_SCHEMA,
    )


# SQL


def _columns() -> str:
    """Those of facts, names as VARCHAR."""
    return ", ".join(
        f'"{field.name}"::VARCHAR AS "{field.name}"'
        if pa.types.is_dictionary(field.type)
        else f'"{field.name}"'
        for field in SCHEMA
    )


def _select_stored(shard: ShardContent, erased: str) -> str:
    paths = ", ".join(_literal(str(file.path)) for file in shard.stored)
    is_erased = f"""
        FROM {erased} AS e
        WHERE e.shard = {shard.number} AND e."user" = f."user" AND f.sequence <= e.sequence
    """
    return f"""
        FROM read_parquet([{paths}], hive_partitioning = false) AS f
        SELECT {shard.number}::INTEGER AS shard, {_columns()}
        WHERE sequence <= {shard.last}
        AND NOT EXISTS ({is_erased} AND e.slug IS NULL)
        AND NOT EXISTS ({is_erased} AND e.slug = f.slug)
    """


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
