"""What is measured: servers that run side by side, and what they use of the machine."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil

from benchmarks.peers import positions, stores
from benchmarks.server import listening, running

PLAYHEAD = "playhead"
CEILING = "ceiling"
REDIS_EVERYSEC = "redis everysec"
REDIS_ALWAYS = "redis always"
POSTGRES = "postgres"
NAMES = (PLAYHEAD, CEILING, REDIS_EVERYSEC, REDIS_ALWAYS, POSTGRES)
#: In a workload of its own.
POSITIONS = "positions"
#: No server: `benchmarks.peers.parse`.
PARSE = "parse"

#: Each has one HTTP process, and one behind it where it is not PostgreSQL.
ONE_OF_EACH = ("--workers", "1", "--shards", "1")
SHARD = "ray::ShardActor"


@dataclass(frozen=True)
class Subject:
    """A server that takes requests at `url`.

    `pid` is its HTTP service, for playhead its main process; `store_pid` is the
    redis-server or PostgreSQL behind it.
    """

    name: str
    url: str
    pid: int
    store_pid: int | None = None

    def processes(self) -> list[psutil.Process]:
        """All that run for it: what it has started, and who else is in their sessions."""
        roots = {pid for pid in (self.pid, self.store_pid) if pid is not None}
        found = {process for process in psutil.process_iter() if _session(process.pid) in roots}
        for pid in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update(psutil.Process(pid).children(recursive=True))
        return list(found)

    def shards(self) -> list[psutil.Process]:
        """playhead's processes that keep totals."""
        return [process for process in self.processes() if _is_shard(process)]

    def cpu_seconds(self) -> float:
        """Processor time of all its processes since they started, with those that have ended."""
        return sum(map(_cpu_seconds, self.processes()))

    def memory_bytes(self) -> int:
        """What all its processes use now; what they share counts once."""
        return memory_of(self.processes())


@contextlib.contextmanager
def alone(subject: Subject, beside: Iterable[Subject]) -> Iterator[None]:
    """All the others stand still meanwhile, as also an idle one has something to do at times."""
    others = [other for other in beside if other.name != subject.name]
    standing = [process for other in others for process in other.processes()]
    try:
        for process in standing:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in standing:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def memory_of(processes: Iterable[psutil.Process]) -> int:
    """Their proportional set size, or the resident one where that cannot be read; bytes."""
    return sum(map(_memory_bytes, processes))


@contextlib.contextmanager
def started(names: Iterable[str], data_folder: Path) -> Iterator[dict[str, Subject]]:
    """Subjects side by side, by name; they end with the context.

    Each keeps its data below `data_folder`, which is on a disk, as durability is
    what is compared; started there again it goes on. As root, PostgreSQL runs as
    another user, who is let through to it from the temporary folder it is in.
    """
    _let_pass(data_folder)
    with contextlib.ExitStack() as stack:
        subjects = {}
        for name in names:
            folder = data_folder / name.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            subjects[name] = stack.enter_context(_start(name, folder))
        yield subjects


@contextlib.contextmanager
def playhead(folder: Path, *flags: str) -> Iterator[Subject]:
    """A playhead with its data in `folder` and these flags of `serve`."""
    with running("api", "serve", "--data-dir", str(folder), *flags, "--port") as (url, pid):
        yield Subject(PLAYHEAD, url, pid)


def _start(name: str, folder: Path) -> AbstractContextManager[Subject]:
    match name:
        case "playhead":
            return playhead(folder, *ONE_OF_EACH)
        case "ceiling":
            return _ceiling()
        case "postgres":
            return _postgres(folder)
        case "positions":
            return _positions(folder)
    return _redis(name, folder)


@contextlib.contextmanager
def _ceiling() -> Iterator[Subject]:
    with running("benchmarks.peers.ceiling") as (url, pid):
        yield Subject(CEILING, url, pid)


@contextlib.contextmanager
def _redis(name: str, folder: Path) -> Iterator[Subject]:
    with (
        stores.redis(folder, "always" if name == REDIS_ALWAYS else "everysec") as (
            socket,
            store_pid,
        ),
        running("benchmarks.peers.redis_service", "--redis-socket", str(socket)) as (url, pid),
    ):
        yield Subject(name, url, pid, store_pid)


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[Subject]:
    with (
        stores.postgres(folder) as (socket, store_pid),
        running("benchmarks.peers.postgres_service", "--postgres-socket", str(socket)) as (
            url,
            pid,
        ),
    ):
        yield Subject(POSTGRES, url, pid, store_pid)


@contextlib.contextmanager
def _positions(folder: Path) -> Iterator[Subject]:
    """Where it is installed in `folder`."""
    with (
        stores.redis(folder, "always") as (socket, store_pid),
        listening(positions.command(folder, socket)) as (url, pid),
    ):
        yield Subject(POSITIONS, url, pid, store_pid)


def _let_pass(folder: Path) -> None:
    """Lets other users through to `folder`, if it is in a folder that is shared as /tmp is."""
    own = list(takewhile(lambda path: not _is_shared(path), [folder, *folder.parents]))
    if own[-1] != Path(folder.anchor):
        for path in own:
            path.chmod(path.stat().st_mode | stat.S_IXOTH)


def _is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_ISVTX)


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has ended, or the system does not tell
        return os.getsid(pid)
    return None


def _is_shard(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return SHARD in " ".join(process.cmdline())
    return False


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _memory_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    return 0
