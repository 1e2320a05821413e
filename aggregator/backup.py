"""Copies of a data directory, made while its server goes on.

A copy is a data directory itself. Each shard of it is as it was at one moment.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aggregator import sockets
from persistence.directory import Manifest, read_manifest, shard_folder
from persistence.epoch import EPOCH
from persistence.errors import PersistenceError
from persistence.files import make_folder, sync_folder
from persistence.log import SYNCED
from persistence.number_file import content_beside_writer

#: A server waits so long with its next checkpoint, at most, while its files are linked.
HOLD_S = 60.0

#: In the data directory while a backup is made: links to what is to be copied.
LINKS = "backup.tmp"
#: Files of the server's own, which a copy does not need.
_NOT_COPIED = shutil.ignore_patterns("LOCK", "*.tmp", LINKS)
#: What of a linked file changed would change in the copy too.
_CHANGE_IN_PLACE = (EPOCH, SYNCED)

#: Gets how many bytes are copied, and how many there are.
Tell = Callable[[int, int], None]


class TargetError(PersistenceError):
    """There is something where a copy was to go."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} is there already: name a folder that is not")


def backup(path: Path, target: Path, tell: Tell) -> None:
    """Copies the data directory `path` to `target`, which must not exist; a server may run.

    1. Have the shards that run leave their files as they are, and link all of them.
    2. Let them go on, and copy what was linked. Only the newest segments still grow;
       a record that is copied in part is cut when the copy is opened.
    3. Give the copy its name when all of it is on disk.

    Raises `PersistenceError` or `OSError`.
    """
    manifest = read_manifest(path)
    with _linked(path, manifest) as links:
        copy(links, target, tell)


def copy(source: Path, target: Path, tell: Tell) -> None:
    """Copies a data directory that does not change to `target`, which appears when complete."""
    read_manifest(source)
    if target.exists():
        raise TargetError(target)
    make_folder(target.parent)
    draft = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    total = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    done = 0

    def copy_file(source: str, target: str) -> None:
        nonlocal done
        shutil.copyfile(source, target)
        _sync_file(target)
        done += Path(target).stat().st_size
        tell(min(done, total), total)

    try:
        shutil.copytree(source, draft, copy_function=copy_file, ignore=_NOT_COPIED)
        for folder in [draft, *(each for each in draft.rglob("*") if each.is_dir())]:
            sync_folder(folder)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(target.parent)


@contextmanager
def _linked(path: Path, manifest: Manifest) -> Iterator[Path]:
    """A folder with links to all files as they are now; what changes in place is copied."""
    links = path / LINKS
    shutil.rmtree(links, ignore_errors=True)
    try:
        with ExitStack() as held:
            root = manifest.root(path)
            for number in range(manifest.shards):
                folder = shard_folder(root, number)
                running = sockets.find(sockets.namespace_of(manifest.id), number, folder)
                if running is not None:
                    held.enter_context(running.holding(HOLD_S))
            _copy_numbers(path, links)
            shutil.copytree(
                path, links, copy_function=_link, ignore=_NOT_COPIED, dirs_exist_ok=True
            )
        yield links
    finally:
        shutil.rmtree(links, ignore_errors=True)


def _copy_numbers(path: Path, links: Path) -> None:
    """Before all else: SYNCED must not name records of which the segment is not linked."""
    for name in _CHANGE_IN_PLACE:
        for number in [*path.rglob(name)]:  # the links are within
            target = links / number.relative_to(path)
            make_folder(target.parent)
            target.write_bytes(content_beside_writer(number))


def _link(source: str, target: str) -> None:
    if Path(source).name not in _CHANGE_IN_PLACE:
        os.link(source, target)


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
