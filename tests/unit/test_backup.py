"""Backups: what is copied is whole, whatever the shards and other backups do meanwhile."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from tenacity import stop_after_delay

from aggregator import backup, sockets, wire
from aggregator.loop_thread import LoopThread
from aggregator.rules import Rules
from aggregator.shard import Shard
from persistence.directory import DataDirectory, linking
from persistence.errors import BackupUnderWayError, PersistenceError
from tests.comparison import Facts, facts_of_state
from tests.shards import crash, in_tasks, send, settings_of, state_of, watch

T = TypeVar("T")

#: Each frame begins another one.
SEGMENT_BYTES = 100


class Running:
    """A data directory and its shards, each in a thread of its own and on a socket."""

    def __init__(self, data: Path, shards: int, folder: Path) -> None:
        self.data = data
        self.directory = DataDirectory.open(data, Rules().as_dict(), shards)
        self._folder = folder
        self._servers: list[asyncio.AbstractServer] = []
        self._loops = [LoopThread("shard") for _ in range(shards)]
        self.shards = [self.call(number, self._start(number)) for number in range(shards)]
        self._sent = 0

    def call(self, number: int, what: Awaitable[T]) -> T:
        async def run() -> T:
            return await what

        return asyncio.run(self._loops[number].run(run()))

    async def _start(self, number: int) -> Shard:
        shard = Shard(settings_of(self.data, number, segment_bytes=SEGMENT_BYTES))
        shard.start()
        path = sockets.socket_path(self._folder, number)
        self._servers.append(await wire.serve(path, in_tasks(shard.handle)))
        return shard

    def take(self, number: int, frames: int = 10) -> None:
        for _ in range(frames):
            self._sent += 1
            some = watch(f"u{self._sent}", "m", 0, 300)
            self.call(number, send(self.shards[number], self._sent, some))

    def checkpoint(self, number: int) -> None:
        self.call(number, self.shards[number].checkpoint())

    def facts(self) -> list[Facts]:
        return [facts_of_state(state_of(shard)) for shard in self.shards]

    def end(self) -> None:
        for number, shard in enumerate(self.shards):
            self.call(number, self._end(shard, self._servers[number]))
        self.directory.close()

    async def _end(self, shard: Shard, server: asyncio.AbstractServer) -> None:
        server.close()
        await server.wait_closed()
        crash(shard)


@contextmanager
def running(data: Path, shards: int = 1) -> Iterator[Running]:
    directory = DataDirectory.open(data, Rules().as_dict(), shards)
    prefix = sockets.folder_prefix(sockets.namespace_of(directory.manifest.id))
    directory.close()
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    made = Running(data, shards, folder)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder)


def facts_in(copy: Path, shards: int = 1) -> list[Facts]:
    """Of a copy that opens."""
    found = []
    for number in range(shards):
        shard = Shard(settings_of(copy, number, segment_bytes=SEGMENT_BYTES))
        found.append(facts_of_state(state_of(shard)))
        crash(shard)
    return found


def listing(monkeypatch: pytest.MonkeyPatch, then: Callable[[Path], None]) -> None:
    """Has `then` called for each folder that is listed, before its files are taken."""
    ignore = backup._NOT_COPIED

    def listed(folder: str, names: list[str]) -> set[str]:
        then(Path(folder))
        return ignore(folder, names)

    monkeypatch.setattr(backup, "_NOT_COPIED", listed)


def test_records_that_come_while_files_are_linked_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin segments that are not linked any more; SYNCED must not speak of them."""
    with running(tmp_path / "data") as live:
        live.take(0)
        before = live.facts()
        log = live.data / "shard-0000" / "log"
        listing(monkeypatch, lambda folder: live.take(0) if folder == log else None)
        backup.backup(live.data, tmp_path / "copy", lambda *_: None)
        assert live.facts() != before
    assert facts_in(tmp_path / "copy") == before


def test_two_backups_at_a_time_do_not_take_each_others_files(tmp_path: Path) -> None:
    with running(tmp_path / "data") as live:
        live.take(0)
        refused: list[str] = []

        def tell(*_: int) -> None:
            """The first one copies, and the server goes on."""
            if not refused:
                live.take(0)
                live.checkpoint(0)
                with pytest.raises(BackupUnderWayError, match="wait until it has ended") as error:
                    backup.backup(live.data, tmp_path / "second", lambda *_: None)
                refused.append(str(error.value))

        before = live.facts()
        backup.backup(live.data, tmp_path / "first", tell)
        assert refused
        assert not (tmp_path / "second").exists()
        backup.backup(live.data, tmp_path / "second", lambda *_: None)
        assert facts_in(tmp_path / "second") == live.facts()
    assert facts_in(tmp_path / "first") == before


def test_a_server_that_starts_leaves_the_links_of_a_backup(tmp_path: Path) -> None:
    data = tmp_path / "data"
    DataDirectory.open(data, Rules().as_dict()).close()
    with linking(data) as links:
        links.mkdir()
        DataDirectory.open(data, Rules().as_dict()).close()
        assert links.is_dir()
    links.mkdir()  # as one that was killed leaves it
    DataDirectory.open(data, Rules().as_dict()).close()
    assert not links.exists()


def test_a_server_that_starts_waits_while_files_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "data") as live:
        live.take(0)
    refused: list[str] = []

    def start(folder: Path) -> None:
        if live.data / "backup.tmp" in (folder, *folder.parents):
            return  # the copying goes on without
        with pytest.raises(PersistenceError, match="is held by another process"):
            Shard(settings_of(live.data))
        refused.append(folder.name)

    monkeypatch.setattr("aggregator.shard.LOCK_WAIT_S", 0.01)
    listing(monkeypatch, start)
    backup.backup(live.data, tmp_path / "copy", lambda *_: None)
    assert "log" in refused


def test_files_that_changed_while_they_were_linked_are_linked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was asked first may have waited for as long as it may when the last one has."""
    with running(tmp_path / "data", shards=2) as live:
        for number in (0, 1):
            live.take(number)
            live.checkpoint(number)
        monkeypatch.setattr(backup, "HOLD_S", 0.3)
        attempts: list[int] = []

        def let_it_run_out(folder: Path) -> None:
            """Between stored events and the shard that goes on, which belong together."""
            if folder == live.data / "shard-0000":
                attempts.append(len(attempts))
                if len(attempts) == 1:
                    time.sleep(0.5)
                    live.take(0)
                    live.checkpoint(0)
                    live.take(0)
                    live.checkpoint(0)

        listing(monkeypatch, let_it_run_out)
        backup.backup(live.data, tmp_path / "copy", lambda *_: None)
        assert len(attempts) == 2
        after = live.facts()
    assert facts_in(tmp_path / "copy", shards=2) == after


def test_a_server_that_never_keeps_still_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "data") as live:
        live.take(0)
        monkeypatch.setattr(backup, "HOLD_S", 0.01)
        listing(monkeypatch, lambda _: time.sleep(0.05))
        with pytest.raises(backup.UnsteadyError, match="3 times: try again"):
            backup.backup(live.data, tmp_path / "copy", lambda *_: None)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_server_that_is_not_found_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "data") as live:
        monkeypatch.setattr(backup._retrying, "stop", stop_after_delay(0))
        monkeypatch.setattr(sockets, "find", lambda *_: None)
        with pytest.raises(backup.UnsteadyError, match="with its TMPDIR"):
            backup.backup(live.data, tmp_path / "copy", lambda *_: None)


def test_a_draft_is_its_owners_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    DataDirectory.open(data, Rules().as_dict()).close()
    seen: list[int] = []

    def tell(*_: int) -> None:
        seen.extend(draft.stat().st_mode & 0o777 for draft in tmp_path.glob("copy.*.tmp"))

    backup.backup(data, tmp_path / "copy", tell)
    assert seen
    assert set(seen) == {0o700}
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
