"""A disk that fails, or a process that ends, at any step that changes files; and what it holds."""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

#: What changes files for good, or makes such a change last.
STEPS = (
    "write",
    "pwrite",
    "fsync",
    "fdatasync",
    "replace",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "ftruncate",
    "open",
)
#: Steps that are named by where something comes to be.
_MOVES = ("replace", "rename")
#: Steps after which a folder has another entry.
_MAKING = ("create", "mkdir", *_MOVES)


class KilledError(BaseException):
    """The process ends here: it does nothing more."""


class Failing:
    """Names the steps, and raises in place of one of them."""

    def __init__(self, step: int, error: BaseException, root: Path) -> None:
        self.steps: list[tuple[str, Path]] = []
        self._step = step
        self._error = error
        self._root = root.resolve()
        #: Made and not synced yet: of these a crash may leave half, or nothing.
        self._drafts: set[Path] = set()

    @property
    def happened(self) -> bool:
        return 0 < self._step <= len(self.steps)

    @property
    def names(self) -> list[str]:
        """ "replace shard-N/snapshots/N.tmp/MANIFEST.json": below the root, numbers as N."""
        return [
            f"{call} {re.sub(r'[0-9]+', 'N', str(self._below_root(path)))}"
            for call, path in self.steps
        ]

    def not_synced(self) -> list[Path]:
        """What was made and may be lost with its folder's entry, while something else went."""
        lost = []
        for index, (call, made) in enumerate(self.steps):
            if call in _MAKING and made.suffix != ".tmp" and made.name != "LOCK":
                after = self.steps[index + 1 :]
                until = takewhile(lambda step: step[0] not in ("unlink", "rmdir"), after)
                if ("fsync", made.parent) not in until:
                    lost.append(made)
        return lost

    def _below_root(self, path: Path) -> Path:
        return path.relative_to(self._root) if path.is_relative_to(self._root) else path

    def before(self, call: str, path: Path, arguments: tuple[Any, ...]) -> None:
        self.steps.append((call, path))
        if len(self.steps) == self._step:
            self._do_half(call, path, arguments)
            raise self._error
        if self.happened and isinstance(self._error, KilledError):
            raise self._error  # the dead do nothing more
        if call == "create":
            self._drafts.add(path)
        elif call == "fsync":
            self._drafts.discard(path)

    def _do_half(self, call: str, path: Path, arguments: tuple[Any, ...]) -> None:
        """What a machine that stops at this step may leave of it."""
        if call == "write":
            descriptor, content = arguments
            _write(descriptor, content[: len(content) // 2])
        elif call == "fsync" and (path.suffix == ".tmp" or path in self._drafts):
            status = os.fstat(arguments[0])
            if stat.S_ISREG(status.st_mode):
                # Numbers that are written in place lie in one sector: all of it or nothing.
                kept = status.st_size // 2 if path.suffix in (".tmp", ".log") else 0
                os.truncate(arguments[0], kept)


_write = os.write


@contextmanager
def failing_at(step: int, error: BaseException, root: Path = Path("/")) -> Iterator[Failing]:
    """Has the `step`-th change of a file fail, from 1 on; all that follow too if it is a kill.

    With 0 none fails. Steps are named as they are below `root`.
    """
    failing = Failing(step, error, root)
    with pytest.MonkeyPatch.context() as patch:
        for call in STEPS:
            _watch(patch, failing, call)
        yield failing


def _watch(patch: pytest.MonkeyPatch, failing: Failing, call: str) -> None:
    real = getattr(os, call)

    def step(*arguments: Any, **named: Any) -> Any:
        path = _path_of(arguments[1 if call in _MOVES else 0], named.get("dir_fd"))
        if call == "open":
            if arguments[1] & os.O_CREAT and not path.exists():
                failing.before("create", path, arguments)
        elif not isinstance(arguments[0], int) or _is_on_disk(arguments[0]):
            failing.before(call, path, arguments)
        return real(*arguments, **named)

    patch.setattr(os, call, step)


def _path_of(target: Any, folder: int | None) -> Path:
    """Of a descriptor, or of a path that may be relative to a folder's descriptor."""
    if isinstance(target, int):
        return Path(f"/proc/self/fd/{target}").readlink()
    return Path(target) if folder is None else _path_of(folder, None) / target


def _is_on_disk(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


@contextmanager
def never_syncing() -> Iterator[None]:
    """For tests that end no machine: much faster."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda _: None)
        yield


def release_locks(folder: Path) -> None:
    """What the end of a process does: lets go of all locks in a folder, whoever holds them here."""
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            path = descriptor.readlink()
            if path.name == "LOCK" and path.is_relative_to(folder.resolve()):
                os.close(int(descriptor.name))


def digests_of(folder: Path, *without: str) -> dict[str, str]:
    """All that is in a folder, byte for byte, but for files of these names."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder"
        for path in sorted(folder.rglob("*"))
        if path.name not in without
    }


def files_with(folder: Path, name: str) -> list[Path]:
    """The files with `name` in any byte, what is compressed in Parquet files included."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name in str(path) or name.encode() in _all_bytes(path))
    ]


def _all_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".parquet":
        return content
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    return content + repr(table.to_pydict()).encode()
