"""Copies of a data directory, made while its server goes on.

A copy is a data directory itself. Each shard of it is as it was at one moment.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from aggregator import sockets
from aggregator.sockets import RunningShard
from persistence.directory import Manifest, linking, read_manifest, shard_folder
from persistence.epoch import EPOCH
from persistence.errors import LockedError, PersistenceError
from persistence.files import FolderLock, make_folder, sync_folder
from persistence.log import SYNCED
from persistence.number_file import content_beside_writer

#: A server waits so long with its next checkpoint, at most, while its files are linked.
HOLD_S = 60.0
#: A server that starts or restarts may take so long until it can be asked to.
FOUND_WITHIN_S = 60.0
#: Files are linked anew, so many times in all, if a server went on before that was done.
ATTEMPTS = 3

#: Files of the server's own, which a copy does not need.
_NOT_COPIED = shutil.ignore_patterns("*LOCK", "*.tmp")
#: What of a linked file changed would change in the copy too.
_CHANGE_IN_PLACE = (EPOCH, SYNCED)

_retrying = Retrying(
    retry=retry_if_exception_type(LockedError),
    wait=wait_fixed(0.2),
    stop=stop_after_delay(FOUND_WITHIN_S),
    reraise=True,
)

#: Gets how many bytes are copied, and how many there are.
Tell = Callable[[int, int], None]


class UnsteadyError(PersistenceError):
    """What is to be copied cannot be had as it is at one moment."""


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

    Raises `PersistenceError` or `OSError`; `BackupUnderWayError` while another copies from `path`.
    """
    read_manifest(path)
    with linking(path) as links:
        for _ in range(ATTEMPTS):
            if _link_all(path, links):
                break
            shutil.rmtree(links)
        else:
            raise UnsteadyError(
                f"the server changed files of {path} while they were linked, {ATTEMPTS} times: "
                "try again when it has less to do"
            )
        copy(links, target, tell)


def copy(source: Path, target: Path, tell: Tell) -> None:
    """Copies a data directory that does not change to `target`, which appears when complete."""
    read_manifest(source)
    if target.exists():
        raise TargetError(target)
    make_folder(target.parent)
    draft = Path(tempfile.mkdtemp(".tmp", f"{target.name}.", target.parent))  # its owner's alone
    total = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    done = 0

    def copy_file(source: str, target: str) -> None:
        nonlocal done
        shutil.copyfile(source, target)
        _sync_file(target)
        done += Path(target).stat().st_size
        tell(min(done, total), total)

    try:
        shutil.copytree(
            source, draft, copy_function=copy_file, ignore=_NOT_COPIED, dirs_exist_ok=True
        )
        for folder in [draft, *(each for each in draft.rglob("*") if each.is_dir())]:
            sync_folder(folder)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(target.parent)


def _link_all(path: Path, links: Path) -> bool:
    """Links all files as they are now; what changes in place is copied.

    False if something changed meanwhile that must not.
    """
    manifest = read_manifest(path)
    with ExitStack() as until_linked:
        have_lasted = [
            until_linked.enter_context(_kept_still(path, manifest, number))
            for number in range(manifest.shards)
        ]
        _copy_numbers(path, links)
        shutil.copytree(path, links, copy_function=_link, ignore=_NOT_COPIED, dirs_exist_ok=True)
        return all(has_lasted() for has_lasted in have_lasted) and read_manifest(path) == manifest


@contextmanager
def _kept_still(path: Path, manifest: Manifest, number: int) -> Iterator[Callable[[], bool]]:
    """Has a shard change no file but the newest segment of its log; tells if that has lasted."""
    found = _running_or_locked(manifest.id, number, shard_folder(manifest.root(path), number))
    if isinstance(found, RunningShard):
        with found.holding(HOLD_S):
            yield partial(_renew, found)
    else:
        try:
            yield lambda: True
        finally:
            found.release()


def _running_or_locked(data_id: str, number: int, folder: Path) -> RunningShard | FolderLock:
    """A shard where its server runs; where none does its lock, for which one that starts waits."""
    try:
        return _retrying(
            lambda: (
                sockets.find(sockets.namespace_of(data_id), number, folder) or FolderLock(folder)
            )
        )
    except LockedError as error:
        raise UnsteadyError(
            f"{folder} is in use, and no server answers for it here: run this as the server's "
            "user and with its TMPDIR, and not while it starts"
        ) from error


def _renew(running: RunningShard) -> bool:
    held = running.hold(HOLD_S)
    return held is not None and held.has_lasted


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
