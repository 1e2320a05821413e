"""A disk that fails, or a process that ends, at any step that changes files; and what it holds."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

#: What changes files for good. Writes are none: what is not synced is lost or half there.
STEPS = ("fsync", "fdatasync", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate")


_SEGMENT_HEADER_BYTES = 16


class KilledError(BaseException):
    """The process ends here: it does nothing more."""


class Failing:
    """Counts the steps, and raises in place of one of them."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.steps = 0
        self._step = step
        self._error = error

    @property
    def happened(self) -> bool:
        return self.steps >= self._step

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.steps += 1
        if self.steps == self._step and name == "fsync":
            _lose_half(arguments[0])
        if self.steps == self._step or (
            self.happened and isinstance(self._error, KilledError)  # the dead do nothing more
        ):
            raise self._error


@contextmanager
def failing_at(step: int, error: BaseException) -> Iterator[Failing]:
    """Has the `step`-th change of a file fail, from 1 on; all that follow too if it is a kill."""
    failing = Failing(step, error)
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            _watch(patch, failing, name)
        yield failing


def _watch(patch: pytest.MonkeyPatch, failing: Failing, name: str) -> None:
    real = getattr(os, name)

    def step(*arguments: Any, **named: Any) -> Any:
        failing.before(name, arguments)
        return real(*arguments, **named)

    patch.setattr(os, name, step)


def _lose_half(descriptor: int) -> None:
    """Of a file that was never synced: a draft, or a log segment that is being created."""
    path, status = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor)
    is_new = path.suffix == ".log" and status.st_size == _SEGMENT_HEADER_BYTES
    if stat.S_ISREG(status.st_mode) and (is_new or path.suffix == ".tmp"):
        os.truncate(descriptor, status.st_size // 2)


@contextmanager
def never_syncing() -> Iterator[None]:
    """For tests that end no machine: much faster."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda _: None)
        yield


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
    return content + repr(pq.read_table(path, use_threads=False).to_pydict()).encode()
