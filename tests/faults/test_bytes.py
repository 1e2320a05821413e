"""Every byte of a data directory flipped, cut and swapped: the right totals, or a refusal.

A directory with a bit of everything in it is made once. Then one file of it is harmed
in one way, everything is opened and asked, and the directory is put back as it was.
Allowed are the very same answers, an error that names the file, or, where the end of
the log was cut, the answers before the last record.

Each run tries a sample of all ways; PLAYHEAD_ROUNDS=1000000 tries each.
"""

import asyncio
import json
import random
import shutil
import struct
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from aggregator import audit
from aggregator.backup import backup
from aggregator.commands import Command, Describe, Erase, Hide, MarkCompleted, SetPosition
from aggregator.event import Event
from aggregator.inspection import Inspection, inspect
from aggregator.regeneration import regenerate
from aggregator.router import shard_of
from aggregator.rules import Rules
from aggregator.shard import Shard
from aggregator.tables import tables_of
from persistence import log, manifest, snapshot
from persistence.directory import DataDirectory, read_manifest, shard_folder
from persistence.epoch import EPOCH
from persistence.errors import DamagedError, PersistenceError
from persistence.number_file import read_number
from persistence.store import Store
from tests.comparison import facts_of_state
from tests.disk import never_syncing
from tests.faults.conftest import rounds
from tests.shards import Clock, crash, export_pages, order, send, settings_of, state_of

RULES = Rules().as_dict()
SHARDS = 2
SEGMENT_BYTES = 900
DAY_MS = 86_400_000
USERS = ("ana", "ben", "cleo", "dora", "emil", "fay")
GONE = "gone"

#: The files of a data directory.
KINDS = (
    "MANIFEST.json",
    "EPOCH",
    "SYNCED",
    "*.log",
    "snapshots/*/MANIFEST.json",
    "snapshots/*/*.parquet",
    "date=*/*.parquet",
)

Contents = dict[str, bytes]
#: Facts, exports or tables: all of them compare by value.
Answers = dict[str, Any]

pytestmark = pytest.mark.timeout(max(120, rounds(60)))


# A directory with a bit of everything


@dataclass
class Made:
    """A directory that nothing works on, and what must come out of it."""

    folder: Path
    files: Contents = field(default_factory=dict)
    #: What was in each file before.
    older: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    answers: list[Answers] = field(default_factory=list)
    #: Without the last record of each shard.
    shortened: list[Answers] = field(default_factory=list)
    #: Where the last record of each shard begins: a file and an offset.
    last_record: list[tuple[str, int]] = field(default_factory=list)
    exports: list[Answers] = field(default_factory=list)
    #: Of all shards, and with one or more of them shortened.
    tables: Answers = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        """Whether this is of the first generation."""
        return "shard-0000/EPOCH" in self.files

    def remember(self) -> None:
        """Keeps the present content of all files, and what it replaces."""
        present = contents_of(self.folder)
        for name, content in self.files.items():
            if name in present and present[name] != content and content not in self.older[name]:
                self.older[name].append(content)
        self.files = present

    def restore(self) -> None:
        """Makes all files as they were remembered, and removes others."""
        for name, content in contents_of(self.folder).items():
            if name not in self.files:
                (self.folder / name).unlink()
            elif content != self.files[name]:
                (self.folder / name).write_bytes(content := self.files[name])
        for name, content in self.files.items():
            path = self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        for folder in {*self.folder.rglob("*.broken")}:
            if folder.is_dir():
                shutil.rmtree(folder)

    def shards_with(self, names: Iterable[str]) -> list[int]:
        """Those that have one of the files; all, if it is no shard's."""
        found = set[int]()
        for name in names:
            of = [number for number in range(SHARDS) if f"shard-{number:04}" in name]
            found.update(of or range(SHARDS))
        return sorted(found)


def contents_of(folder: Path) -> Contents:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("LOCK")
    }


@contextmanager
def opened(folder: Path, clock: Clock | None = None) -> Iterator[list[Shard]]:
    """All shards of a directory, which end as by a kill."""
    with ExitStack() as stack:
        directory = stack.enter_context(closing(DataDirectory.open(folder, RULES, SHARDS)))
        shards = []
        for number in range(SHARDS):
            shards.append(opened_shard(directory, number, clock))
            stack.callback(crash, shards[-1])
        yield shards


def opened_shard(directory: DataDirectory, number: int, clock: Clock | None = None) -> Shard:
    root = directory.manifest.root(directory.path)
    settings = settings_of(root, number, segment_bytes=SEGMENT_BYTES, hours_kept_days=1)
    return Shard(settings, clock or Clock())


def answers_of(shard: Shard) -> Answers:
    """All that it can be asked, and what it goes on from."""
    return {
        "facts": facts_of_state(state_of(shard)),
        "tables": sorted_tables(tables_of(state_of(shard))),
        "ids": sorted(state_of(shard).recent.to_arrow()["hash"].to_pylist()),
        "producers": shard._producers.dump(),
        "received_ms": shard._received_ms,
        "sequence": shard._applied_sequence,
    }


def sorted_tables(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Rows and columns in an order of their own."""
    columns = {name: sorted(table.column_names) for name, table in tables.items()}
    return {
        name: table.select(columns[name])
        .sort_by([(column, "ascending") for column in columns[name]])
        .combine_chunks()
        for name, table in tables.items()
    }


def exported(shard: Shard) -> Answers:
    """What is stored of each user."""
    with asyncio.Runner() as run:
        return {user: run.run(export_pages(shard, user, 100)) for user in (*USERS, GONE)}


class Traffic:
    """Events and commands of all kinds, drawn."""

    def __init__(self, run: asyncio.Runner, made: Made, clock: Clock) -> None:
        self._run, self._made, self._clock = run, made, clock
        self._random = random.Random(4)  # noqa: S311
        self._frame = 0

    def send(self, shards: list[Shard], frames: int, users: Iterable[str] = USERS) -> None:
        for _ in range(frames):
            for number, shard in enumerate(shards):
                own = [user for user in users if shard_of(user, len(shards)) == number]
                self._frame += 1
                self._clock.now_ms += self._random.randrange(60_000)
                events = [self._event(self._random.choice(own)) for _ in range(3)]
                key = f"key-{self._frame}" if self._random.random() < 0.3 else None
                self._run.run(send(shard, self._frame, [*events, events[0]], key))
        self._made.remember()

    def order(self, shards: list[Shard], *commands: Command) -> None:
        for command in commands:
            for number, shard in enumerate(shards):
                user = getattr(command, "user", None)
                if user is None or shard_of(user, len(shards)) == number:
                    self._frame += 1
                    self._run.run(order(shard, self._frame, command))
        self._made.remember()

    def checkpoint(self, shards: list[Shard]) -> None:
        for shard in shards:
            self._run.run(shard.checkpoint())
        self._made.remember()

    def _event(self, user: str) -> Event:
        drawn = self._random
        return Event(
            user,
            drawn.choice(("film", "série", "x")),
            drawn.randrange(200) * 10.0,
            session=drawn.choice((None, "tv", "phone")),
            id=f"id-{drawn.randrange(40)}" if drawn.random() < 0.5 else None,
            ts=self._clock.now_ms - drawn.randrange(DAY_MS) if drawn.random() < 0.2 else None,
            duration=2000.0 if drawn.random() < 0.3 else None,
        )


def make(folder: Path, generation: int) -> Made:
    """Two snapshots, stored events of several days, and segments with records after both."""
    made, clock = Made(folder), Clock()
    with asyncio.Runner() as run, never_syncing():
        traffic = Traffic(run, made, clock)
        if generation > 1:
            _live(traffic, folder, clock)
            directory = DataDirectory.open(folder, rules=None)
            regenerate(directory, SHARDS, Rules(), 1, lambda *_: None)
            directory.close()
            made.remember()
        _live(traffic, folder, clock)
        with opened(folder, clock=clock) as shards:
            traffic.send(shards, 8)
            traffic.order(shards, Hide("ana", "film"), SetPosition("ben", "x", 5_000))
            made.shortened = [answers_of(shard) for shard in shards]
            ends = {name: len(content) for name, content in made.files.items()}
            traffic.send(shards, 1)
            made.answers = [answers_of(shard) for shard in shards]
            made.exports = [exported(shard) for shard in shards]
            for shard in shards:
                newest = str(log.segments(shard._folders.log)[-1].relative_to(folder.resolve()))
                made.last_record.append((newest, ends[newest]))
        made.remember()
        content = inspect(folder)
        made.tables, made.events = sorted_tables(content.tables()), events_of(content)
    return made


def _live(traffic: Traffic, folder: Path, clock: Clock) -> None:
    """Some days."""
    with opened(folder, clock=clock) as shards:
        traffic.order(shards, Describe("film", 2_000_000, "Film"))
        traffic.send(shards, 4)
        traffic.send(shards, 2, [*USERS, GONE, f"{GONE}2"])
        traffic.checkpoint(shards)
        clock.now_ms += DAY_MS
        traffic.send(shards, 2)
        traffic.order(shards, MarkCompleted("ana", "x"), Erase(GONE), Erase("fay", "film"))
        traffic.checkpoint(shards)
    with opened(folder, clock=clock) as shards:
        traffic.send(shards, 3)
        traffic.checkpoint(shards)


@pytest.fixture(scope="module", params=[1, 2], ids=["first", "second"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A directory of its first, and of its second generation."""
    return make(tmp_path_factory.mktemp("bytes") / "data", request.param)


def test_there_is_a_bit_of_everything(made: Made) -> None:
    """Or less would be tried than it seems."""
    root = str(read_manifest(made.folder).root(made.folder).relative_to(made.folder))
    names = [Path(name).relative_to(root) for name in made.files if name != manifest.NAME]
    for number in range(SHARDS):
        own = [str(name) for name in names if f"shard-{number:04}" in str(name)]
        assert sum("/log/" in name for name in own) >= 4
        assert sum(name.endswith(manifest.NAME) for name in own) == 2
        stored = [Path(name) for name in own if name.startswith("events/")]
        assert len(stored) >= 3
        assert len({path.parent for path in stored}) >= 2
        last, start = made.last_record[number]
        assert len(made.files[last]) > start > 100
    assert made.shortened != made.answers
    assert any("EPOCH" in name for name in made.older)
    made.restore()
    with never_syncing(), opened(made.folder) as shards:
        assert [answers_of(shard) for shard in shards] == made.answers
    made.restore()


# What is done to files

#: A length that no file has: as the number of bytes or events, or as an offset.
HUGE = struct.pack("<I", 2**32 - 1)
LARGE = struct.pack("<I", 2**30)


def flipped(content: bytes, at: int) -> bytes:
    harmed = bytearray(content)
    harmed[at // 8] ^= 1 << at % 8
    return bytes(harmed)


def overwritten(content: bytes, at: int, by: bytes) -> bytes:
    """Of the same length."""
    return (content[:at] + by + content[at + len(by) :])[: len(content)]


def noise(content: bytes, at: int, size: int) -> bytes:
    """The same for the same content and place."""
    return random.Random(f"{len(content)} {at}").randbytes(size)  # noqa: S311


#: By name, what becomes of a file's content harmed at a place.
WAYS: dict[str, Callable[[bytes, int], bytes | None]] = {
    "bit flipped": flipped,
    "cut at": lambda content, at: content[:at],
    "zero at": lambda content, at: overwritten(content, at, bytes(1)),
    "8 zeros at": lambda content, at: overwritten(content, at, bytes(8)),
    "100 zeros at": lambda content, at: overwritten(content, at, bytes(100)),
    "zeros from": lambda content, at: overwritten(content, at, bytes(len(content))),
    "huge length at": lambda content, at: overwritten(content, at, HUGE),
    "large length at": lambda content, at: overwritten(content, at, LARGE),
    "garbage at": lambda content, at: overwritten(content, at, noise(content, at, 20)),
    "garbage from": lambda content, at: overwritten(content, at, noise(content, at, len(content))),
    "left out": lambda content, at: content[:at] + content[at + 1 :],
    "put in": lambda content, at: content[:at] + noise(content, at, 1) + content[at:],
    "garbage behind": lambda content, at: content + noise(content, at, at),
    "zeros behind": lambda content, at: content + bytes(at),
    "its end behind": lambda content, at: content + content[-at:],
    "deleted": lambda *_: None,
}
#: Ways that are tried at other places than each byte.
BEHIND = ("garbage behind", "zeros behind", "its end behind")
BEHIND_BYTES = (1, 4, 12, 32, 63, 64, 65, 200, 5_000)
#: Numbers are so short that each bit is flipped.
SMALL_BYTES = 64


@dataclass(frozen=True)
class Harm:
    """One way to harm a file; `other` is what it is swapped with, or replaced by."""

    file: str
    way: str
    at: int = 0
    other: str = ""

    def changes(self, made: Made) -> dict[str, bytes | None]:
        own = made.files[self.file]
        if self.way == "swapped with":
            return {self.file: made.files[self.other], self.other: own}
        if self.way == "replaced by":
            return {self.file: made.files[self.other]}
        if self.way == "as it was before, version":
            return {self.file: made.older[self.file][self.at]}
        return {self.file: WAYS[self.way](own, self.at)}


def harms_of(made: Made, file: str, drawn: random.Random) -> dict[str, Sequence[Any]]:
    """All that is done to a file: the places of each way, or what else there is to choose."""
    size = len(made.files[file])
    others = [other for other in made.files if made.files[other] != made.files[file]]
    harms: dict[str, Sequence[Any]] = dict.fromkeys(WAYS, range(size))
    harms["bit flipped"] = (
        range(size * 8)
        if size <= SMALL_BYTES
        else [byte * 8 + drawn.randrange(8) for byte in range(size)]
    )
    harms |= dict.fromkeys(BEHIND, BEHIND_BYTES)
    harms["deleted"] = range(1)
    harms["as it was before, version"] = range(len(made.older[file]))
    harms["replaced by"] = others
    harms["swapped with"] = [other for other in others if other > file]
    return harms


def sample(made: Made, pattern: str, each: int, seed: int) -> list[Harm]:
    """So many harms of each way of files like this, or all if there are no more.

    They are chosen by number, as there are millions.
    """
    drawn = random.Random(seed)  # noqa: S311
    by_way = defaultdict[str, list[tuple[str, Sequence[Any]]]](list)
    for file in made.files:
        if Path(file).match(pattern):
            for way, choices in harms_of(made, file, drawn).items():
                by_way[way].append((file, choices))
    harms = []
    for way, of_files in by_way.items():
        total = sum(len(choices) for _, choices in of_files)
        numbers = drawn.sample(range(total), min(rounds(each), total))
        harms += sorted((numbered(way, of_files, number) for number in numbers), key=str)
    return harms


def numbered(way: str, of_files: list[tuple[str, Sequence[Any]]], number: int) -> Harm:
    """The harm with this number, counted through the choices of all files."""
    for file, choices in of_files:
        if number < len(choices):
            chosen = choices[number]
            return Harm(file, way, **{"other" if isinstance(chosen, str) else "at": chosen})
        number -= len(choices)
    raise IndexError(number)


# What must come of it


def tried(made: Made, harms: Iterable[Harm], judge: Callable[[Harm], str | None]) -> None:
    """Has each harm done, judged and undone."""
    wrong = []
    with never_syncing():
        for harm in harms:
            changes = harm.changes(made)
            if all(made.files[name] == content for name, content in changes.items()):
                continue
            try:
                for name, content in changes.items():
                    path = made.folder / name
                    path.unlink() if content is None else path.write_bytes(content)
                complaint = judge(harm)
            except Exception as error:  # noqa: BLE001 - to go on, and name the harm
                complaint = f"{error!r}"
            if complaint:
                wrong.append(f"{harm}: {complaint}")
            made.restore()
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:40])


def names(made: Made, harm: Harm, error: object) -> bool:
    """Whether what is said names a file that was harmed, or what is missing."""
    said = str(error)
    for name, content in harm.changes(made).items():
        if str(made.folder / name) in said:
            return True
        if str((made.folder / name).parent.parent) in said:
            if content is None:
                return "missing" in said or "not there" in said
            if is_old(harm):
                return "`playhead check` says in which files" in said
    return False


def judge_start(made: Made, harm: Harm) -> str | None:
    """What is wrong with how shards start on the harmed files, if anything."""
    before = contents_of(made.folder)
    complaint = None
    try:
        directory = DataDirectory.open(made.folder, RULES, SHARDS)
    except PersistenceError as error:
        return refusal(made, harm, error, before, "")
    with closing(directory):
        for number in made.shards_with(harm.changes(made)):
            try:
                shard = opened_shard(directory, number)
            except PersistenceError as error:
                complaint = refusal(made, harm, error, before, f"shard-{number:04}")
            else:
                try:
                    complaint = judge_answers(made, harm, number, shard)
                finally:
                    crash(shard)
            if complaint:
                break
    return complaint


def judge_answers(made: Made, harm: Harm, number: int, shard: Shard) -> str | None:
    found = answers_of(shard)
    if found == made.answers[number]:
        return None
    if not (tail := cut_tail(made, harm, number)):
        return "other answers"
    if found != made.shortened[number]:
        return "not the answers before the last record"
    kept = b"".join(path.read_bytes() for path in log.broken_tails(shard._folders.log))
    return None if kept == tail[0] else "what was cut is not kept"


def cut_tail(made: Made, harm: Harm, number: int) -> list[bytes]:
    """What is left of the last record, if that has lost bytes, and nothing else has."""
    name, start = made.last_record[number]
    own, harmed = made.files[name], harm.changes(made).get(name)
    if harmed is None or len(harmed) >= len(own) or harmed[:start] != own[:start]:
        return []
    return [harmed[start:]]


def refusal(
    made: Made, harm: Harm, error: PersistenceError, before: Contents, within: str
) -> str | None:
    """What is wrong with it: it names another file, or came too late."""
    if not names(made, harm, error):
        return f"the refusal names something else: {error}"
    after = contents_of(made.folder)
    changed = [
        name
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and within in name and Path(name).name != "EPOCH"
    ]
    return f"it was refused, and {changed} changed" if changed else None


@pytest.mark.parametrize("pattern", KINDS)
def test_a_start_is_right_or_names_the_file(made: Made, pattern: str, seed: int) -> None:
    tried(made, sample(made, pattern, 1, seed), lambda harm: judge_start(made, harm))


def test_no_byte_is_read_that_was_not_written(made: Made, seed: int) -> None:
    """Snapshots and stored files, as they are read: faster, so that each byte can be tried."""
    found = read_manifest(made.folder)
    root = found.root(made.folder.resolve())
    drawn = random.Random(seed)  # noqa: S311
    wrong = []
    for number in range(SHARDS):
        for place in snapshot.complete(shard_folder(root, number) / "snapshots"):
            load = partial(snapshot.load, place, found.owner(number))
            for path in sorted(place.iterdir()):
                wrong += misread(path, drawn, load)
        store = Store(root / "events", number)
        for file in store.files():
            wrong += misread(file.path, drawn, partial(facts_in, store))
    assert not wrong, "\n".join(wrong[:40])


def facts_in(store: Store) -> pa.Table:
    return pa.concat_tables(store.read())


def misread(path: Path, drawn: random.Random, read: Callable[[], Any]) -> list[str]:
    """What was flipped or cut in a file, and read as if it was something else."""
    content, whole, wrong = path.read_bytes(), read(), []
    flips = [(flipped, byte * 8 + drawn.randrange(8)) for byte in range(len(content))]
    cuts = [(WAYS["cut at"], size) for size in range(len(content))]
    for ways in (flips, cuts):
        for way, at in drawn.sample(ways, min(rounds(4), len(ways))):
            harmed = way(content, at)
            assert harmed is not None
            path.write_bytes(harmed)
            try:
                if read() != whole:
                    wrong.append(f"{path}, {len(harmed)} bytes, harmed at {at}")
            except PersistenceError as error:
                if str(path) not in str(error):
                    wrong.append(f"{path}, harmed at {at}: {error}")
            except Exception as error:  # noqa: BLE001 - to go on, and name the harm
                wrong.append(f"{path}, harmed at {at}: {error!r}")
    path.write_bytes(content)
    return wrong


def test_a_deleted_newest_stored_file_is_missed(made: Made) -> None:
    """A shard would store its records again, with duplicates and with what was erased."""
    for number in range(SHARDS):
        newest = max(name for name in made.files if f"/shard-{number:04}-" in name)
        tried(made, [Harm(newest, "deleted")], lambda harm: must_refuse(made, harm))


def must_refuse(made: Made, harm: Harm) -> str | None:
    before = contents_of(made.folder)
    try:
        with opened(made.folder):
            return "it was not refused"
    except PersistenceError as error:
        return refusal(made, harm, error, before, "nowhere")


# What is read besides


def judge_export(made: Made, harm: Harm) -> str | None:
    """What is wrong with what users get of their own, if anything."""
    with suppress(PersistenceError), opened(made.folder) as shards:
        for number in made.shards_with(harm.changes(made)):
            try:
                if exported(shards[number]) != made.exports[number]:
                    return "another export"
            except PersistenceError as error:
                if not names(made, harm, error):
                    return f"the export names something else: {error}"
    return None


def test_an_export_is_right_or_names_the_file(made: Made, seed: int) -> None:
    harms = [harm for harm in sample(made, "date=*/*.parquet", 1, seed) if not is_old(harm)]
    tried(made, harms, lambda harm: judge_export(made, harm))


def is_old(harm: Harm) -> bool:
    """Whether a stored file is whole, and only from before an erase."""
    return harm.way == "as it was before, version" and harm.file.endswith(".parquet")


def events_of(content: Inspection) -> list[Any]:
    with duckdb.connect() as connection:
        content.create_facts(connection)
        return connection.sql("FROM facts ORDER BY ALL").fetchall()


def judge_inspection(made: Made, harm: Harm) -> str | None:
    """What is wrong with what SQL finds, if anything."""
    before = contents_of(made.folder)
    try:
        content = inspect(made.folder)
        tables, events = sorted_tables(content.tables()), events_of(content)
    except PersistenceError as error:
        return refusal(made, harm, error, before, "")
    if (tables, events) == (made.tables, made.events):
        return None
    is_cut = any(cut_tail(made, harm, number) for number in range(SHARDS))
    return None if is_cut and len(events) < len(made.events) else "other totals or events"


def test_sql_is_right_or_names_the_file(made: Made, seed: int) -> None:
    harms = [harm for pattern in KINDS for harm in sample(made, pattern, 1, seed)]
    harms = random.Random(seed).sample(harms, min(rounds(12), len(harms)))  # noqa: S311
    harms = [harm for harm in harms if not is_old(harm)]
    tried(made, harms, lambda harm: judge_inspection(made, harm))


def judge_audit(made: Made, harm: Harm) -> str | None:
    """What is wrong with what a check reports, if anything."""
    changes = harm.changes(made)
    try:
        shards = audit.check(made.folder).shards
    except PersistenceError as error:
        return None if names(made, harm, error) else f"the check names something else: {error}"
    said = [line for shard in shards for line in (*shard.problems, *shard.left_out)]
    if any(names(made, harm, line) or Path(harm.file).name in line for line in said):
        return None
    if all(is_no_damage(made, name) for name in changes):
        return None
    return f"the check says {said}"


def is_no_damage(made: Made, name: str) -> bool:
    """Whether it says the same in another layout, or a number that it may have."""
    path = made.folder / name
    if path.name in (EPOCH, log.SYNCED):
        with suppress(DamagedError):
            return read_number(path) >= 0
    if name == manifest.NAME:
        return read_manifest(made.folder).shards == SHARDS
    if path.name == manifest.NAME:
        with suppress(ValueError):
            return bool(json.loads(path.read_bytes()) == json.loads(made.files[name]))
    return False


def test_a_check_finds_every_harm(made: Made, seed: int) -> None:
    harms = [harm for pattern in KINDS for harm in sample(made, pattern, 1, seed)]
    harms = random.Random(seed).sample(harms, min(rounds(6), len(harms)))  # noqa: S311
    harms += [harm for harm in sample(made, "date=*/*.parquet", 1, seed) if is_old(harm)]
    tried(made, harms, lambda harm: judge_audit(made, harm))


def judge_split(made: Made, harm: Harm) -> str | None:
    """What is wrong with a new split of the data, if anything: it must carry no damage over."""
    before = contents_of(made.folder)
    try:
        with closing(DataDirectory.open(made.folder, RULES)) as directory:
            regenerate(directory, SHARDS + 1, Rules(), 1, lambda *_: None)
    except PersistenceError as error:
        return refusal(made, harm, error, before, "shard-" if made.is_first else "generation-0002")
    if sorted_tables(inspect(made.folder).tables()) == made.tables:
        return None
    return "other totals"


def test_a_new_split_carries_no_harm_over(made: Made, seed: int) -> None:
    harms = [harm for pattern in KINDS for harm in sample(made, pattern, 1, seed)]
    harms = random.Random(seed).sample(harms, min(rounds(5), len(harms)))  # noqa: S311
    harms += [harm for harm in sample(made, "date=*/*.parquet", 1, seed) if is_old(harm)]
    tried(made, harms, lambda harm: judge_split(made, harm))


def test_a_backup_of_harmed_data_is_no_better_and_no_worse(
    made: Made, seed: int, tmp_path: Path
) -> None:
    harms = [harm for pattern in KINDS for harm in sample(made, pattern, 1, seed)]

    def judge(harm: Harm) -> str | None:
        target = tmp_path / f"{harm}".replace("/", "-")[:100]
        try:
            backup(made.folder, target, lambda *_: None)
        except PersistenceError as error:
            return None if names(made, harm, error) else f"it names something else: {error}"
        copied, own = contents_of(target), contents_of(made.folder)
        shutil.rmtree(target)
        return None if copied == own else "it is not the same"

    harms = random.Random(seed).sample(harms, min(rounds(5), len(harms)))  # noqa: S311
    tried(made, harms, judge)


# Memory


def test_no_length_is_believed(made: Made) -> None:
    """Of a length that is not true, no more is read than there is."""
    limit = 4 * max(map(len, made.files.values())) + (1 << 20)
    files = [name for name in made.files if name.startswith(made.last_record[0][0][:-26])]
    harms = [
        Harm(name, way, at)
        for name in files
        for way in ("huge length at", "large length at")
        for at in range(0, len(made.files[name]), 4)
    ]
    shares = random.Random(1).sample(harms, min(rounds(15), len(harms)))  # noqa: S311

    def judge(harm: Harm) -> str | None:
        tracemalloc.start()
        try:
            judge_start(made, harm)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return None if most < limit else f"{most} bytes were allocated"

    tried(made, shares, judge)
