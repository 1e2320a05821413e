"""Checkpoints made by a process beside the shard: the same as its own, and it ends with it."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aggregator import checkpoint, checkpointer
from aggregator.checkpoint import Frozen
from aggregator.checkpointer import Checkpointer, CheckpointError, Order
from aggregator.commands import Erase, MarkCompleted, SetPosition
from aggregator.event import Event
from aggregator.shard import Shard
from persistence import snapshot
from persistence.files import FolderLock
from tests.comparison import facts_of_state
from tests.disk import files_with
from tests.shards import Clock, crash, order, send, settings_of, state_of, watch


@asynccontextmanager
async def lived(folder: Path) -> AsyncIterator[Shard]:
    """A shard with some of everything, whose log has a segment end after record 5."""
    shard = Shard(settings_of(folder), clock := Clock())
    await send(shard, 1, [Event("u", "m", 10.0, id="1"), *watch("v", "m", 0, 300)], "a key")
    await send(shard, 2, [Event("u", "m", 20.0, id="1"), Event("u", "m", 30.0, duration=100.0)])
    clock.now_ms += 3_600_000
    await order(shard, 1, MarkCompleted("u", "m"), SetPosition("v", "m", 5_000))
    await send(shard, 3, watch("gone", "m", 0, 50), producer=7)
    await order(shard, 2, Erase("gone"))
    assert shard._checkpoints._end_segment()
    yield shard
    crash(shard)


def wanted(shard: Shard, sequence: int) -> Order:
    settings = shard._settings
    folder, rules, days = str(settings.folder), settings.rules, settings.hours_kept_days
    return Order(folder, settings.number, settings.owner, rules, days, sequence)


def test_it_writes_what_the_shard_would(tmp_path: Path) -> None:
    async def run() -> None:
        async with lived(tmp_path) as shard:
            frozen = Frozen.of(
                state_of(shard),
                shard._applied_sequence,
                shard._received_ms,
                shard._producers.dump(),
                shard._checkpoints.skipped,
                shard._checkpoints.erasing,
            )
            await send(shard, 4, watch("u", "m", 50, 90))  # goes on meanwhile
            await shard._checkpoints._write_beside(5)
            (made,) = snapshot.complete(shard._folders.snapshots)
            written = snapshot.load(made, shard._settings.owner)
            assert written.sequence == 5
            for name, table in frozen.tables.items():  # the order of their rows means nothing
                rows = [tuple(row.values()) for row in table.to_pylist()]
                assert {tuple(r.values()) for r in written.tables[name].to_pylist()} == {*rows}
                assert len(written.tables[name]) == len(rows)
            assert written.extra == frozen.extra | {"alone": True}
            assert files_with(tmp_path, "gone") == []
            before = facts_of_state(state_of(shard))
        shard = Shard(settings_of(tmp_path), Clock())
        assert facts_of_state(state_of(shard)) == before
        assert shard.recovered.startswith("33 events from the snapshot, 5 from the log")
        crash(shard)

    asyncio.run(run())


def test_a_snapshot_and_the_log_after_it_are_enough(tmp_path: Path) -> None:
    async def run() -> None:
        async with lived(tmp_path) as shard:
            await shard._checkpoints._write_beside(5)
            await send(shard, 4, watch("u", "m", 50, 90))
            before = facts_of_state(state_of(shard))
            assert shard._checkpoints._end_segment()
            await shard._checkpoints._write_beside(6)
        shard = Shard(settings_of(tmp_path), Clock())
        assert shard._checkpoints.sequence == 6
        assert facts_of_state(state_of(shard)) == before
        crash(shard)

    asyncio.run(run())


def test_what_stands_in_its_way_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        async with lived(tmp_path) as shard:
            with pytest.raises(CheckpointError, match="ends before record 99"):
                await shard._checkpoints._write_beside(99)
            stored = tmp_path / "events"
            stored.touch()  # where a folder is to be
            with pytest.raises(CheckpointError, match=str(stored)):
                await shard._checkpoints._write_beside(5)
            assert snapshot.complete(shard._folders.snapshots) == []
            stored.unlink()
            await shard._checkpoints._write_beside(5)

    asyncio.run(run())


def test_one_that_is_killed_is_said_to_be(tmp_path: Path) -> None:
    async def run() -> None:
        async with lived(tmp_path) as shard:
            started = Checkpointer.start(wanted(shard, 5), shard._lock.descriptor)
            started.prepare()
            started._process.kill()
            with pytest.raises(CheckpointError, match=f"code -{int(signal.SIGKILL)}"):
                started.write()
            started.kill()

    asyncio.run(run())


def test_nothing_is_written_while_the_files_are_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with lived(tmp_path) as shard:
            async with shard._files.reading():
                writing = asyncio.create_task(shard._checkpoints._write_beside(5))
                done, _ = await asyncio.wait([writing], timeout=2)
                assert not done
                assert snapshot.complete(shard._folders.snapshots) == []
            await writing
            assert len(snapshot.complete(shard._folders.snapshots)) == 1

    asyncio.run(run())


def test_closing_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        begun, prepare = asyncio.Event(), asyncio.to_thread

        def begin(*arguments: Any) -> Any:
            begun.set()
            return prepare(*arguments)

        monkeypatch.setattr(asyncio, "to_thread", begin)
        async with lived(tmp_path) as shard:
            before = facts_of_state(state_of(shard))
        shard = Shard(settings_of(tmp_path, snapshot_log_bytes=1), Clock())
        await send(shard, 9, [Event("gone", "m", 1.0)])
        await asyncio.wait_for(begun.wait(), 20)
        assert shard._checkpoints._checkpointer is not None
        process = shard._checkpoints._checkpointer._process
        os.kill(process.pid, signal.SIGSTOP)  # it would take for ever
        await order(shard, 9, Erase("gone"))
        await shard.close()
        assert process.poll() is not None
        shard = Shard(settings_of(tmp_path), Clock())
        assert facts_of_state(state_of(shard)) == before
        crash(shard)

    asyncio.run(run())


#: A shard's process that is killed while a checkpoint is made, and says who made it.
_KILLED = """
import os, signal, sys
from pathlib import Path
from aggregator.checkpointer import Checkpointer, Order
from aggregator.rules import Rules
from persistence.files import FolderLock

folder = Path(sys.argv[1])
lock = FolderLock(folder)
order = Order(str(folder), 0, sys.argv[2], Rules(), 35, 5)
started = Checkpointer.start(order, lock.descriptor)
started.prepare()
print(started._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_the_shard_and_keeps_the_lock_until_then(tmp_path: Path) -> None:
    async def run() -> str:
        async with lived(tmp_path) as shard:
            return shard._settings.owner

    owner, folder = asyncio.run(run()), tmp_path / "shard-0000"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder), owner],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    FolderLock(folder, wait_s=10.0).release()
    pid = int(killed.stdout)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_one_whose_shard_has_gone_does_nothing() -> None:
    """Before it could ask to end with it: it held the folder's lock, and read all of it."""
    command = [sys.executable, "-m", "aggregator.checkpointer", "1"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_it_yields_to_others() -> None:
    script = "import os; from aggregator import checkpointer as c; c._yield_to_others(); "
    found = subprocess.check_output([sys.executable, "-c", f"{script}print(os.nice(0))"])
    assert int(found) == os.nice(0) + checkpointer.NICENESS


def test_an_erase_is_final_though_the_one_before_could_not_tidy_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found its snapshot written, with nothing more to erase, and kept the one before."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, [*watch("gone", "m", 0, 100), *watch("stays", "m", 0, 50)])
        await shard.checkpoint()
        aside = tmp_path / "shard-0000" / "log" / f"{1:020}.log.1.broken"
        aside.write_bytes(b"of an event of gone")
        await order(shard, 1, Erase("gone"))
        with monkeypatch.context() as failing:
            failing.setattr(checkpoint, "tidy_up", fail)
            await shard.checkpoint()
        assert shard._checkpoints.erasing
        assert files_with(tmp_path, "gone")
        await shard._checkpoints._write_beside(2)
        assert files_with(tmp_path, "gone") == []
        crash(shard)
        assert len(snapshot.complete(shard._folders.snapshots)) == 1

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    asyncio.run(run())
