"""Whether memory, snapshots and stored events come to the same numbers, and are whole."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import psutil

from aggregator import sockets
from aggregator.evidence import Shard, Source, gather
from aggregator.fact_copy import FACTS, FactCopy
from aggregator.inspection import Tables, folders_of
from aggregator.rules import Rules
from aggregator.sql_rules import KEYS, first_difference, totals
from persistence.directory import Manifest, read_manifest, shard_folder

#: The share of the memory now free that SQL may take; beyond, it goes to temporary files.
MEMORY_SHARE = 0.25
MEMORY_BYTES_MIN = 256 << 20
#: So many files are named where any of them may have made a difference.
FILES_NAMED_MAX = 50

#: What the tables by SQL are called.
STORED = "stored events"

_DIFFERENT = "(FROM one EXCEPT ALL FROM other) UNION ALL (FROM other EXCEPT ALL FROM one)"

#: Gets the shard, what is being done, and how much of that is done and in all.
Tell = Callable[[int, str, int, int], None]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What was found out about one shard."""

    number: int
    #: The record after which all was compared, None when that could not be told.
    last: int | None
    facts: int
    #: What was compared, and came to the same numbers unless there are `problems`.
    compared: list[str]
    #: A sentence each: damage, and differences.
    problems: list[str]
    #: What was not looked at, and why.
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found out about a data directory."""

    path: Path
    shards: list[ShardReport]

    @property
    def is_clean(self) -> bool:
        return not any(shard.problems for shard in self.shards)


def check(path: Path, tell: Tell = lambda *_: None) -> Report:
    """Checks all that is in the data directory `path`, shard by shard; its server may run.

    Nothing in it is changed. SQL works on a copy of the facts in the temporary
    directory. Raises `PersistenceError` if `path` is no data directory.
    """
    path = path.resolve()
    manifest = read_manifest(path)
    reports = [
        _check_shard(_shard_of(path, manifest, number), tell) for number in range(manifest.shards)
    ]
    if read_manifest(path) != manifest:  # made anew meanwhile, and what was checked is gone
        return check(path, tell)
    return Report(path, reports)


def _shard_of(path: Path, manifest: Manifest, number: int) -> Shard:
    folder = shard_folder(manifest.root(path), number)
    running = sockets.find(sockets.namespace_of(manifest.id), number, folder)
    folders = folders_of(path, manifest, number)
    return Shard(number, folder, folders, Rules(**manifest.rules), running)


def _check_shard(shard: Shard, tell: Tell) -> ShardReport:
    with _database() as connection:
        copy = FactCopy(connection, shard.folders.store)
        evidence = gather(shard, copy, partial(tell, shard.number))
        fold_before = evidence.fold()
        if evidence.has_all_facts:
            tell(shard.number, "SQL", 0, 1)
            copy.finish(evidence.tail, evidence.erasing)
            tables = totals(connection, FACTS, shard.rules, fold_before)
            place = shard.folders.store.folder
            evidence.sources.append(Source(STORED, place, tables, fold_before))
        tell(shard.number, "comparing", 0, 1)
        return ShardReport(
            shard.number,
            evidence.last,
            copy.rows,
            [source.name for source in evidence.sources],
            [*dict.fromkeys(evidence.damage), *_differences(evidence.sources, copy)],
            evidence.left_out,
        )


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in the temporary directory, which goes with all that was in it."""
    memory_bytes = max(int(psutil.virtual_memory().available * MEMORY_SHARE), MEMORY_BYTES_MIN)
    with (
        tempfile.TemporaryDirectory(prefix="playhead-check-") as folder,
        duckdb.connect(
            f"{folder}/facts.duckdb",
            config={"memory_limit": f"{memory_bytes}B", "temp_directory": f"{folder}/spilled"},
        ) as connection,
    ):
        yield connection


def _differences(sources: list[Source], copy: FactCopy) -> list[str]:
    """A sentence for each source that differs from what most of them say."""
    groups: list[list[Source]] = []
    for source in sources:
        for group in groups:
            if first_difference(group[0].tables, source.tables) is None:
                group.append(source)
                break
        else:
            groups.append([source])
    groups.sort(key=len, reverse=True)
    return [
        _describe(groups[0], source, len(groups[0]) > len(group), copy)
        for group in groups[1:]
        for source in group
    ]


def _describe(most: list[Source], other: Source, is_fewer: bool, copy: FactCopy) -> str:
    """What is different, and the files to look at."""
    one = most[0]
    difference = first_difference(one.tables, other.tables, (one.name, other.name))
    key = _first_different_key(one.tables, other.tables)
    if is_fewer:
        return f"{difference}. Most agree with {one.name}: look at {_where(other, key, copy)}"
    places = f"{_where(one, key, copy)}; {_where(other, key, copy)}"
    return f"{difference}. One of them is wrong: look at {places}"


def _where(source: Source, key: dict[str, Any], copy: FactCopy) -> str:
    """The files that say what a source says of a user or movie."""
    if source.place is None:
        return "the running server"
    if source.name != STORED:
        return str(source.place)
    names = {name: value for name, value in key.items() if name in ("user", "slug")}
    files = [str(path.relative_to(source.place)) for path in copy.files_with(names)]
    more = f" and {len(files) - FILES_NAMED_MAX} more" if len(files) > FILES_NAMED_MAX else ""
    within = ", ".join(files[:FILES_NAMED_MAX]) or "none of its files has anything of it"
    return f"{source.place}: {within}{more}"


def _first_different_key(one: Tables, other: Tables) -> dict[str, Any]:
    """Whom or what the first difference is about."""
    with duckdb.connect() as connection:
        for table, keys in KEYS.items():
            connection.register("one", one[table])
            connection.register("other", other[table].select(one[table].column_names))
            rows = connection.sql(_DIFFERENT).select(*keys).order("ALL").limit(1).fetchall()
            if rows:
                return dict(zip(keys, rows[0], strict=True))
    return {}
