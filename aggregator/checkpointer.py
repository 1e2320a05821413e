"""A checkpoint made by a process of its own, beside the shard that goes on meanwhile.

The snapshot before and the log up to the end of a segment say all that the shard knew
at that moment. So the shard neither copies its state nor shares its interpreter with
the one that writes it, which has a lower priority and ends with the shard.

    shard                                 process
    Order                          ──▶    loads the newest snapshot, replays the log after it
                                   ◀──    Report: ready to write
    an empty line, when no one
    reads the files                ──▶    writes the checkpoint
                                   ◀──    Report: written
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import psutil
import pyarrow as pa

from aggregator import checkpoint, logs
from aggregator.checkpoint import ALONE, Folders, Frozen
from aggregator.lifeline import EXIT_ORPHANED
from aggregator.recovery import replayed
from aggregator.rules import Rules
from aggregator.state import State
from persistence import snapshot
from persistence.errors import PersistenceError
from persistence.snapshot import Snapshot

#: Serving comes first, and yet the log does not grow for ever on a busy machine.
NICENESS = 10
#: It doubles a shard's memory: where that is too much, this process is to go, not the shard.
OOM_SCORE = 500
#: From <sys/prctl.h>: the signal that this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


class CheckpointError(PersistenceError):
    """No checkpoint was made; the log has everything."""


class Order(msgspec.Struct, frozen=True):
    """The checkpoint that is wanted: of a shard, up to a record that ends a segment."""

    folder: str
    shard: int
    owner: str
    rules: Rules
    hours_kept_days: int
    sequence: int


class Report(msgspec.Struct, frozen=True):
    """How a step ended; `failure` says why not well."""

    failure: str | None = None


@dataclass(slots=True)
class Checkpointer:
    """The shard's end. Call `prepare`, then `write`, from a thread; `kill` at any moment."""

    _process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, order: Order, lock: int) -> "Checkpointer":
        """`lock` is the descriptor of the shard's lock: no other has the folder meanwhile."""
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "aggregator.checkpointer", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lock],
        )
        started = cls(process)
        started._send(msgspec.json.encode(order))
        return started

    def prepare(self) -> None:
        """Has the state of the moment made anew. Raises `CheckpointError`."""
        self._receive()

    def write(self) -> None:
        """Raises `CheckpointError`."""
        self._send(b"")
        self._receive()

    def kill(self) -> None:
        """Ends it if it has not ended; a checkpoint cut short is as good as none."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # `_receive` finds how it ended
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CheckpointError(f"its process ended with code {self._process.wait()}")
        report = msgspec.json.decode(line, type=Report)
        if report.failure is not None:
            raise CheckpointError(report.failure)


def main() -> None:
    """The process: an `Order` and a go-ahead come in, two `Report`s go out."""
    _follow(int(sys.argv[1]))
    _yield_to_others()
    logs.configure("INFO")
    orders, reports = sys.stdin.buffer, sys.stdout.buffer
    order = msgspec.json.decode(orders.readline(), type=Order)
    try:
        folders = Folders.of(Path(order.folder), order.shard, order.owner)
        newest, damage = snapshot.load_newest(folders.snapshots, folders.owner)
        frozen = _frozen(folders, newest, order)
        _send(reports, Report())
        if orders.readline():
            if damage:  # else it would count among those that are kept
                snapshot.set_aside(folders.snapshots, damage)
            if newest is not None:  # the one that wrote it may have been killed before it could
                checkpoint.tidy_up(folders, alone=newest.extra[ALONE])
            checkpoint.write(folders, frozen)
            _send(reports, Report())
    except (OSError, PersistenceError) as error:
        _send(reports, Report(str(error)))


def _frozen(folders: Folders, newest: Snapshot | None, order: Order) -> Frozen:
    state = State(order.rules, order.hours_kept_days)
    recovered = replayed(folders, newest, state, order.sequence)
    if recovered.next_sequence != order.sequence + 1:
        raise CheckpointError(f"{folders.log} ends before record {order.sequence}")
    return Frozen.of(
        state,
        order.sequence,
        recovered.received_ms,
        recovered.producers.dump(),
        recovered.skipped,
        recovered.erasing,
    )


def _send(reports: IO[bytes], report: Report) -> None:
    try:
        reports.write(msgspec.json.encode(report) + b"\n")
        reports.flush()
    except BrokenPipeError:
        os._exit(EXIT_ORPHANED)


def _follow(parent: int) -> None:
    """Ends this process with its parent, however that ends: the next one needs the folder."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def _yield_to_others() -> None:
    os.nice(NICENESS)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with contextlib.suppress(OSError):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 7)
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


if __name__ == "__main__":
    main()
