"""The data directory: what it was made with, and who works on it.

MANIFEST.json records the format, the generation, the number of shards and the rules
of watch time. The totals in a directory come from one set of rules; opening it with
others is refused. A new generation is made in a folder beside the current one, and
is the data from the moment at which the manifest says so.
"""

import shlex
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from persistence import manifest as manifests
from persistence.errors import (
    BackupUnderWayError,
    DamagedError,
    LockedError,
    PersistenceError,
    SettingsMismatchError,
)
from persistence.files import FolderLock, make_folder, sync_folder

FORMAT = 3

_GENERATION = "generation-"
_LINKS = "backup.tmp"


class NoDataError(PersistenceError):
    """There is no data directory where one was expected."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds no data of playhead's (there is no {manifests.NAME} in it): "
            "name the folder that the server was started with as --data-dir"
        )


class Manifest(manifests.Manifest, frozen=True, kw_only=True):
    """What a data directory was made with; `id` names it for life."""

    id: str
    shards: int
    rules: dict[str, Any]
    generation: int = 1

    def following(self, shards: int, rules: dict[str, Any]) -> "Manifest":
        """That of the next generation."""
        return msgspec.structs.replace(
            self, shards=shards, rules=rules, generation=self.generation + 1
        )

    def owner(self, shard: int) -> str:
        """Names a shard in its files, so that no other's are taken for its own."""
        return f"{self.id}/{self.generation}/{shard}"

    def root(self, path: Path) -> Path:
        """Where the shards and the stored events of the data directory `path` are."""
        return path if self.generation == 1 else path / f"{_GENERATION}{self.generation:04}"


class DataDirectory:
    """An open data directory, locked against other servers."""

    def __init__(self, path: Path, lock: FolderLock, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def open(cls, path: Path, rules: dict[str, Any] | None, shards: int = 1) -> "DataDirectory":
        """Opens `path`, or creates it with so many shards; with `rules` None only what is there.

        Raises `NoDataError`, `LockedError`, `SettingsMismatchError`, `DamagedError` or
        `NewerFormatError`.
        """
        path = path.resolve()
        if rules is None:
            read_manifest(path)
        make_folder(path)
        lock = FolderLock(path)
        try:
            manifest = _load(path)
            if manifest is None:
                assert rules is not None
                manifest = Manifest(format=FORMAT, id=uuid.uuid4().hex, shards=shards, rules=rules)
                for shard in range(shards):
                    make_folder(shard_folder(path, shard))
                manifests.write(path, manifest)
            elif rules is not None:
                _compare(path, manifest, rules)
            _check_folders(path, manifest)
            sync_folder(path)  # for a rename that a process before this one did not live to sync
            directory = cls(path, lock, manifest)
            directory._remove_other_generations()
        except BaseException:
            lock.release()
            raise
        return directory

    def shard_folder(self, shard: int) -> Path:
        return shard_folder(self.manifest.root(self.path), shard)

    def prepare(self, manifest: Manifest) -> Path:
        """An empty folder for the generation of `manifest`, which is to be the next."""
        folder = manifest.root(self.path)
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        return folder

    def switch(self, manifest: Manifest) -> None:
        """Makes a generation that is complete the data, and removes the one before."""
        manifests.write(self.path, manifest)
        self.manifest = manifest
        self._remove_other_generations()

    def _remove_other_generations(self) -> None:
        """What a generation left that is not the data any more, or never came to be it."""
        root = self.manifest.root(self.path)
        gone = [each for each in self.path.glob(f"{_GENERATION}*") if each != root]
        if root != self.path:
            gone += [*self.path.glob("shard-*"), *self.path.glob("events")]
        for folder in gone:
            shutil.rmtree(folder)
        if (self.path / _LINKS).exists():
            with suppress(BackupUnderWayError), linking(self.path):  # else a backup needs it yet
                pass

    def close(self) -> None:
        self._lock.release()


@contextmanager
def linking(path: Path) -> Iterator[Path]:
    """A folder of the data directory for the links of a backup: new, and gone at the end.

    Raises `BackupUnderWayError` while another has it.
    """
    links = path / _LINKS
    try:
        lock = FolderLock(path, name="BACKUP.LOCK")
    except LockedError as error:
        raise BackupUnderWayError(path) from error
    try:
        shutil.rmtree(links, ignore_errors=True)
        yield links
    finally:
        shutil.rmtree(links, ignore_errors=True)
        lock.release()


def read_manifest(path: Path) -> Manifest:
    """Of a data directory that is only read: it is neither locked nor made.

    Raises `NoDataError`, `DamagedError`, `NewerFormatError`.
    """
    manifest = _load(path)
    if manifest is None:
        raise NoDataError(path)
    try:
        _check_folders(path, manifest)
    except DamagedError:
        if _load(path) == manifest:
            raise
        return read_manifest(path)  # another generation has replaced it in this moment
    return manifest


def shard_folder(root: Path, shard: int) -> Path:
    """Where a shard keeps its log and snapshots; `root` is its generation's."""
    return root / f"shard-{shard:04}"


def _load(path: Path) -> Manifest | None:
    file = path / manifests.NAME
    if not file.exists():
        if any(path.glob("shard-*/*")) or any(path.glob(f"{_GENERATION}*")):
            raise DamagedError(file, 0, "it is missing, and there is data beside it")
        return None
    return manifests.read(path, Manifest, FORMAT)


def _check_folders(path: Path, manifest: Manifest) -> None:
    """A shard whose folder is gone would come up empty."""
    for shard in range(manifest.shards):
        folder = shard_folder(manifest.root(path), shard)
        if not folder.is_dir():
            what = f"shard {shard} of {manifest.shards} in {path / manifests.NAME} is missing"
            raise DamagedError(folder, 0, what)


def _compare(path: Path, manifest: Manifest, rules: dict[str, Any]) -> None:
    if manifest.rules == rules:
        return
    changed = {n: value for n, value in rules.items() if manifest.rules.get(n) != value}
    wanted = ", ".join(
        f"{name} is {manifest.rules.get(name)!r}, asked for {value!r}"
        for name, value in changed.items()
    )
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    rebuild = " ".join(["playhead rebuild", *flags, "--data-dir", shlex.quote(str(path))])
    raise SettingsMismatchError(
        f"{path} was made with other rules ({wanted}). Start with those rules, "
        f"or run `{rebuild}` to recompute everything from the stored events"
    )
