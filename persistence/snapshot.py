"""Snapshots of a shard: named tables as Parquet, complete or not there at all.

`snapshots/<sequence>/` holds a file a table and MANIFEST.json with whose they are,
the sequence of the last record they include, each file's size and CRC-32, and what
the maker of the tables wants to remember (`extra`). A folder gets its name only
when all in it is durable; the newest two are kept.
"""

import logging
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from persistence import manifest
from persistence.errors import DamagedError
from persistence.files import make_folder, replace_file, sync_folder

FORMAT = 4
#: One to use and one to fall back on.
KEPT = 2

_logger = logging.getLogger(__name__)


class TableFile(msgspec.Struct, frozen=True):
    """A table's file as it was written."""

    bytes: int
    crc32: int


class Manifest(manifest.Manifest, frozen=True, kw_only=True):
    """`sequence` is the last log record that the tables include."""

    owner: str
    sequence: int
    tables: dict[str, TableFile]
    extra: dict[str, Any]


class Snapshot(msgspec.Struct, frozen=True):
    """A loaded snapshot."""

    sequence: int
    tables: dict[str, pa.Table]
    extra: dict[str, Any]


def write(
    folder: Path,
    owner: str,
    sequence: int,
    tables: Mapping[str, pa.Table],
    extra: dict[str, Any],
) -> None:
    """Writes the snapshot of `sequence`; `prune` removes older ones.

    1. Write the tables and the manifest into a draft folder, each synced.
    2. Sync the draft folder, rename it, sync its parent: now it exists.
    """
    make_folder(folder)
    target = folder / f"{sequence:019}"
    draft = folder / f"{sequence:019}.tmp"
    _remove_drafts(folder)
    if target.exists():
        return  # nothing was appended since
    try:
        _write_draft(draft, owner, sequence, tables, extra)
        draft.rename(target)
    except OSError:
        _remove_drafts(folder)  # it may be what fills the disk
        raise
    sync_folder(folder)


def prune(folder: Path, alone: bool = False) -> int:
    """Keeps the newest two, or only the newest, and nothing set aside if it stands `alone`.

    Returns the sequence of the oldest that is left, 0 if there is none.
    """
    _remove_drafts(folder)
    if folder.is_dir():
        sync_folder(folder)  # for a rename that a process before this one did not live to sync
    newest_first = complete(folder)
    kept = newest_first[: 1 if alone else KEPT]
    gone = newest_first[len(kept) :]
    if alone:
        gone += folder.glob("*.broken")
    for path in gone:
        shutil.rmtree(path)
    if gone:
        sync_folder(folder)
    return int(kept[-1].name) if kept else 0


def load_newest(folder: Path, owner: str) -> tuple[Snapshot | None, list[DamagedError]]:
    """The newest snapshot that is whole, if any, and what is wrong with newer ones.

    Without them the log after an older one, or all of it, must be replayed;
    when that has worked, `set_aside` them.
    """
    damage: list[DamagedError] = []
    for path in complete(folder):
        try:
            return load(path, owner), damage
        except DamagedError as error:
            _logger.error("%s", error)
            damage.append(error)
    return None, damage


def set_aside(folder: Path, damage: list[DamagedError]) -> None:
    """Renames damaged snapshots, so that they count as none and the whole ones are kept."""
    for snapshot in {folder / error.path.relative_to(folder).parts[0] for error in damage}:
        aside = snapshot.with_name(f"{snapshot.name}.broken")
        shutil.rmtree(aside, ignore_errors=True)
        snapshot.rename(aside)
    sync_folder(folder)


def _remove_drafts(folder: Path) -> None:
    for draft in folder.glob("*.tmp"):
        shutil.rmtree(draft)


def complete(folder: Path) -> list[Path]:
    """Snapshot folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def newest_bytes(folder: Path) -> int:
    """The size of the newest snapshot, 0 if there is none."""
    newest = next(iter(complete(folder)), None)
    return 0 if newest is None else sum(path.stat().st_size for path in newest.iterdir())


def _write_draft(
    draft: Path,
    owner: str,
    sequence: int,
    tables: Mapping[str, pa.Table],
    extra: dict[str, Any],
) -> None:
    draft.mkdir()
    files = {name: _write_table(draft / f"{name}.parquet", table) for name, table in tables.items()}
    manifest.write(
        draft,
        Manifest(format=FORMAT, owner=owner, sequence=sequence, tables=files, extra=extra),
    )


def _write_table(path: Path, table: pa.Table) -> TableFile:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    replace_file(path, content)
    return TableFile(content.size, zlib.crc32(content))


def load(path: Path, owner: str) -> Snapshot:
    """The snapshot in a folder of `complete`; raises `DamagedError` or `NewerFormatError`."""
    found = manifest.read(path, Manifest, FORMAT)
    if (found.owner, found.sequence) != (owner, int(path.name)):
        what = f"it is snapshot {found.sequence} of {found.owner}"
        raise DamagedError(path / manifest.NAME, 0, what)
    tables = {name: _load_table(path, name, file) for name, file in found.tables.items()}
    return Snapshot(found.sequence, tables, found.extra)


def _load_table(folder: Path, name: str, file: TableFile) -> pa.Table:
    path = folder / f"{name}.parquet"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(path, 0, f"the table cannot be read ({error.strerror})") from error
    if len(content) != file.bytes or zlib.crc32(content) != file.crc32:
        raise DamagedError(path, 0, "the table is not what the manifest says")
    # `read_table`, made for many files, takes four times as long for a small one.
    return pq.ParquetFile(pa.BufferReader(content)).read()
