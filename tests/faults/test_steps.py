"""A crash at every step of what changes files: all is as before, and it can be done again."""

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from aggregator import shard
from aggregator.commands import Describe, Erase, Hide, MarkCompleted, SetPosition, UnmarkCompleted
from aggregator.event import Event
from aggregator.router import shard_of
from persistence import log
from persistence.records import Record
from tests.disk import KilledError, failing_at, files_with, never_syncing
from tests.faults.conftest import rounds
from tests.faults.data import Data, Model
from tests.shards import NOW_MS, watch

#: Found in no file by chance.
GONE, STAYS, OTHER = "gone-28c1", "stays-91c2", "other-40de"
DAY_MS = 86_400_000

#: It goes through hundreds of ends and starts.
pytestmark = pytest.mark.timeout(rounds(600))


@dataclass(frozen=True)
class Before:
    """A data directory that no one works on, and what it must hold."""

    folder: Path
    model: Model

    def copy(self) -> "Before":
        names = (self.folder.with_name(f"{self.folder.name}-{n}") for n in count(1))
        folder = next(name for name in names if not name.exists())
        if self.folder.exists():
            shutil.copytree(self.folder, folder)
        return Before(folder, deepcopy(self.model))


@pytest.fixture(scope="module", autouse=True)
def _chores_at_once() -> Iterator[None]:
    """Else the time decides at which step they are done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "CHORES_DELAY_S", 0.0)
        yield


def test_the_names_are_where_they_should_be() -> None:
    assert [shard_of(name, 2) for name in (GONE, STAYS, OTHER)] == [0, 0, 1]


def live(data: Data) -> None:
    """Leaves traces of users everywhere, over several days; two snapshots are there."""
    data.submit(watch(GONE, "m", 0, 100) + watch(STAYS, "m", 0, 50) + watch(OTHER, "m", 0, 50))
    data.submit([Event(GONE, "n", 1.0, session="tv", id="x"), Event(STAYS, "n", 2.0)], key="k")
    data.order(SetPosition(GONE, "m", 5_000), Hide(STAYS, "m"))
    data.checkpoint()
    data.model.clock.now_ms += DAY_MS
    data.submit([*watch(STAYS, "o", 0, 200, 5), Event(GONE, f"only-{GONE}", 1.0)])
    data.order(MarkCompleted(STAYS, "m"), Describe("m", 100_000, "Title"))
    data.checkpoint()
    for sequence in range(4, 9):
        data.model.clock.now_ms += DAY_MS // 4 * (sequence % 2) + DAY_MS // 2
        data.submit([Event(GONE, "m", 7.0), *watch(STAYS, "m", 0, 30), Event(OTHER, "n", 3.0)])
    data.submit([Event(GONE, "n", 1.0, id="x"), Event(STAYS, "n", 9.0, id="y")])
    data.order(SetPosition(STAYS, "m", 1_000, if_versions=[1]), UnmarkCompleted(STAYS, "m"))


def erase(data: Data) -> None:
    data.order(Erase(GONE), Erase(STAYS, "o"), Hide("nobody", "m"))


def lived(folder: Path, model: Model, *more: Callable[[Data], None]) -> Before:
    data = Data(folder, model)
    data.open()
    live(data)
    for step in more:
        step(data)
    data.end()
    return Before(folder, model)


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """Two shards; of one, what was erased is still on disk, and an append was cut short."""
    with never_syncing():
        before = lived(tmp_path_factory.mktemp("erased") / "data", Model(2), erase)
        leave_a_torn_tail(before.folder / "shard-0000" / "log")
        yield before


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """One shard with nothing erased."""
    with never_syncing():
        yield lived(tmp_path_factory.mktemp("kept") / "data", Model(1))


def leave_a_torn_tail(folder: Path) -> None:
    """As a crash does in the middle of an append."""
    record = Record(999, NOW_MS, 1, 99, f'["{GONE}"]'.encode() * 20)
    with log.segments(folder)[-1].open("ab") as file:
        file.write(record.encode(9)[:-1])


def test_what_there_is_to_lose(erased: Before) -> None:
    """Else the tests below would have nothing to find."""
    found = {path.relative_to(erased.folder).parts[:2] for path in files_with(erased.folder, GONE)}
    assert {("shard-0000", "log"), ("shard-0000", "snapshots")} < found
    assert ("events", "date=2023-11-14") in found
    days = {fact.received_ms // DAY_MS for fact in erased.model.shards[0].facts}
    assert len(days) > 3


def chosen(names: list[str]) -> list[int]:
    """The first step of each name, from 1 on, tables being alike; all steps in a soak."""
    if rounds(1) > 1:
        return [*range(1, len(names) + 1)]
    kinds = [re.sub(r"[a-z_]+\.parquet", "….parquet", name) for name in names]
    return [kinds.index(kind) + 1 for kind in dict.fromkeys(kinds)]


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Says with a failure at which step it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


def at_each_step(
    before: Before,
    do: Callable[[Data], None],
    then: Callable[[Data], None],
    error: BaseException | None = None,
    begin: Callable[[Data], None] = Data.open,
) -> list[str]:
    """Does something, and each time another step fails, or the process ends there.

    After an end the data directory is opened again. Returns the names of all steps.
    """

    def done(step: int, then: Callable[[Data], None]) -> list[str]:
        copy = before.copy()
        data = Data(copy.folder, copy.model)
        begin(data)
        failing = failing_at(step, error or KilledError(), copy.folder)
        with failing as steps, contextlib.suppress(KilledError):
            do(data)
        assert steps.happened == (step > 0)
        assert step > 0 or steps.not_synced() == []
        if error is None:
            data.crash_and_open()
        then(data)
        data.end()
        shutil.rmtree(copy.folder)
        return steps.names

    names = done(0, then)
    for step in chosen(names):
        with told(f"{error or 'killed'} at step {step}: {names[step - 1]}"):
            assert done(step, then)[:step] == names[:step]
    return names


# Checkpoints: a rotation of the log, the archive, a purge, a snapshot, tidying up


def checkpoint(data: Data) -> None:
    data.run(data.shards[0].checkpoint())


def completed(data: Data) -> None:
    """What was there is there, once; then a checkpoint completes, and it is there still."""
    data.check()
    data.check_facts()
    data.resend()
    checkpoint(data)
    assert not [*data.folder.rglob("*.tmp")]
    data.crash_and_open()
    assert "0 from the log" in data.shards[0].recovered
    data.check()
    data.check_facts()


def completed_with_erases(data: Data) -> None:
    assert data.shards[0]._checkpoints.erasing or not files_with(data.folder, GONE)
    completed(data)
    assert not data.shards[0]._checkpoints.erasing
    taken = data.shards[0]._checkpoints.sequence
    aside = [path.name.partition(".")[0] for path in data.folder.rglob("*.broken")]
    assert all(int(first) > taken for first in aside)
    assert files_with(data.folder, GONE) == []
    assert files_with(data.folder, STAYS)


PARTS = {
    "create shard-N/log/N.log",
    "fsync shard-N/log/N.log",
    "fsync shard-N/log",
    "fsync events/date=N-N-N/shard-N-N-N.parquet.tmp",
    "replace events/date=N-N-N/shard-N-N-N.parquet",
    "fsync events/date=N-N-N",
    "mkdir shard-N/snapshots/N.tmp",
    "fsync shard-N/snapshots/N.tmp/pairs.parquet.tmp",
    "replace shard-N/snapshots/N.tmp/MANIFEST.json",
    "fsync shard-N/snapshots/N.tmp",
    "rename shard-N/snapshots/N",
    "fsync shard-N/snapshots",
    "unlink shard-N/snapshots/N/pairs.parquet",
    "rmdir shard-N/snapshots/N",
    "unlink shard-N/log/N.log",
}


def test_killed_in_a_checkpoint(kept: Before) -> None:
    assert set(at_each_step(kept, checkpoint, completed)) > PARTS


def test_killed_in_a_checkpoint_after_an_erase(erased: Before) -> None:
    names = at_each_step(erased, checkpoint, completed_with_erases)
    assert set(names) > {*PARTS, "unlink shard-N/log/N.log.N.broken"}
    purged = names.count("replace events/date=N-N-N/shard-N-N-N.parquet")
    assert purged == names.count("mkdir events/date=N-N-N") + 2  # of the days before


def test_a_disk_that_fails_in_a_checkpoint(erased: Before) -> None:
    """The checkpoint is given up, whatever failed; the next one does all of it."""

    def then(data: Data) -> None:
        assert not [*data.folder.rglob("*.tmp")]
        completed_with_erases(data)

    at_each_step(erased, checkpoint, then, OSError(errno.ENOSPC, "No space left on device"))


# Appends, and the rotation of the log that comes with them


def test_killed_in_an_append(kept: Before) -> None:
    """What was not answered is sent again, and counts once."""
    parts = [
        [*watch(STAYS, "m", 0, 1_500), Event(STAYS, "m", 9.0, id="z")],
        [Event(STAYS, "m", 9.0, id="z"), Event(OTHER, "m", 9.0, id="y")],
    ]
    under_way: list[tuple[bytes, list[Event]]] = []

    def append(data: Data) -> None:
        for events in parts:
            frame, is_answered = data.begin_to_submit(0, events)
            under_way[:] = [(frame, events)]
            if not is_answered:
                return
            data.submit_again(0, frame, events)
            under_way.clear()

    def sent_again(data: Data) -> None:
        for frame, events in under_way:
            data.submit_again(0, frame, events)
        completed(data)

    names = at_each_step(kept, append, sent_again)
    assert set(names) >= {
        "write shard-N/log/N.log",
        "fdatasync shard-N/log/N.log",
        "create shard-N/log/N.log",
        "fsync shard-N/log",
    }


# Another number of shards


def test_killed_in_a_new_split(kept: Before) -> None:
    """There is the old generation or the new one, and nothing of the other."""

    def split(data: Data) -> None:
        data.regenerate(2)

    def split_for_good(data: Data) -> None:
        shards = data.manifest().shards
        folders = {path.name for path in data.folder.iterdir() if path.is_dir()}
        assert folders == {1: {"events", "shard-0000"}, 2: {"generation-0002"}}[shards]
        if shards == 2:
            data.model.split(2)
        data.check()
        data.check_facts()
        if shards == 1:
            data.split(2)
            data.check()
            data.check_facts()

    names = at_each_step(kept, split, split_for_good, begin=lambda _: None)
    assert names.index("replace MANIFEST.json") < names.index("unlink shard-N/log/N.log")
    assert set(names) > {
        "mkdir generation-N",
        "replace generation-N/events/date=N-N-N/shard-N-N-N.parquet",
        "create generation-N/shard-N/EPOCH",
        "rename generation-N/shard-N/snapshots/N",
        "fsync MANIFEST.json.tmp",
        "rmdir events",
    }


# The beginning


def test_what_a_killed_process_did_not_live_to_sync_is_synced(kept: Before) -> None:
    """It is relied on from the next acknowledgement on, and power may be lost after that."""
    copy = kept.copy()
    data = Data(copy.folder, copy.model)
    with failing_at(0, KilledError(), copy.folder) as steps:
        data.open()
    assert {
        "fsync .",
        "fsync shard-N",
        "fsync shard-N/log",
        "fsync shard-N/snapshots",
        "fsync events",
        "fsync events/date=N-N-N",
    } <= set(steps.names)
    data.end()


def test_killed_while_a_data_directory_is_made(tmp_path: Path) -> None:
    def used(data: Data) -> None:
        live(data)
        data.crash_and_open()
        data.check()
        data.check_facts()

    with never_syncing():
        nothing = Before(tmp_path / "data", Model(2))
        names = at_each_step(nothing, Data.open, used, begin=lambda _: None)
    assert set(names) > {
        "create LOCK",
        "replace MANIFEST.json",
        "create shard-N/EPOCH",
        "fsync shard-N/EPOCH",
        "create shard-N/log/N.log",
    }
