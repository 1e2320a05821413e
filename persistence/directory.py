"""The data directory: what it was made with, and who works on it.

MANIFEST.json records the format, the number of shards and the rules of watch
time. The totals in a directory come from one set of rules and one split into
shards; opening it with others is refused.
"""

import uuid
from pathlib import Path
from typing import Any

import msgspec

from persistence.errors import (
    DamagedError,
    NewerFormatError,
    PersistenceError,
    SettingsMismatchError,
)
from persistence.files import FolderLock, make_folder, replace_file

FORMAT = 1

_MANIFEST = "MANIFEST.json"


class NoDataError(PersistenceError):
    """There is no data directory where one was expected."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds no data of playhead's (there is no {_MANIFEST} in it): "
            "name the folder that the server was started with as --data-dir"
        )


class Manifest(msgspec.Struct, frozen=True):
    """What a data directory was made with; `id` names it for life."""

    format: int
    id: str
    shards: int
    rules: dict[str, Any]


class DataDirectory:
    """An open data directory, locked against other servers."""

    def __init__(self, path: Path, lock: FolderLock, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, shards: int | None, rules: dict[str, Any], default_shards: int = 1
    ) -> "DataDirectory":
        """Opens or creates `path`; `shards` None means as it is, else `default_shards`.

        Raises `LockedError`, `SettingsMismatchError`, `DamagedError`, `NewerFormatError`.
        """
        path = path.resolve()
        make_folder(path)
        lock = FolderLock(path)
        try:
            manifest = _load(path)
            if manifest is None:
                manifest = Manifest(FORMAT, uuid.uuid4().hex, shards or default_shards, rules)
                replace_file(path / _MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
            else:
                _compare(path, manifest, shards, rules)
        except BaseException:
            lock.release()
            raise
        return cls(path, lock, manifest)

    def shard_folder(self, shard: int) -> Path:
        return shard_folder(self.path, shard)

    def close(self) -> None:
        self._lock.release()


def read_manifest(path: Path) -> Manifest:
    """Of a data directory that is only read: it is neither locked nor made.

    Raises `NoDataError`, `DamagedError`, `NewerFormatError`.
    """
    manifest = _load(path)
    if manifest is None:
        raise NoDataError(path)
    return manifest


def shard_folder(path: Path, shard: int) -> Path:
    """Where a shard keeps its log and snapshots."""
    return path / f"shard-{shard:04}"


def _load(path: Path) -> Manifest | None:
    file = path / _MANIFEST
    if not file.exists():
        if any(path.glob("shard-*")):
            raise DamagedError(file, 0, "it is missing, and there is data beside it")
        return None
    try:
        content = file.read_bytes()
        version = msgspec.json.decode(content).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise NewerFormatError(file, version, FORMAT)
        return msgspec.json.decode(content, type=Manifest)
    except (UnicodeDecodeError, AttributeError, msgspec.DecodeError) as error:
        raise DamagedError(file, 0, f"it cannot be read ({error})") from error


def _compare(path: Path, manifest: Manifest, shards: int | None, rules: dict[str, Any]) -> None:
    if manifest.rules != rules:
        wanted = ", ".join(
            f"{name} is {manifest.rules.get(name)!r}, asked for {value!r}"
            for name, value in rules.items()
            if manifest.rules.get(name) != value
        )
        raise SettingsMismatchError(
            f"{path} was made with other rules ({wanted}). Start with those rules, "
            "or run `playhead rebuild` to recompute everything from the stored events"
        )
    if shards is not None and shards != manifest.shards:
        raise SettingsMismatchError(
            f"{path} is split into {manifest.shards} shards, asked for {shards}. "
            f"Start with --shards {manifest.shards}, or with another --data-dir"
        )
