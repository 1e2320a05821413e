"""Making all totals anew from the facts: for another number of shards, or other rules.

The facts of all shards, in the order in which they were received, go to new shards
in a folder of their own. What is there stays as it is until the new one is complete:
killed at any moment, a data directory has its old generation or its new one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator import changes, checkpoint
from aggregator.checkpoint import Folders, Frozen, erasure_of
from aggregator.commands import (
    Command,
    Describe,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.inspection import NEVER_FOLD_DAYS, newest_snapshot, tail_after
from aggregator.names import RETIRED
from aggregator.recent import RecentHashes
from aggregator.recovery import Recovered, check_ends, replayed
from aggregator.router import shard_of
from aggregator.rules import Rules
from aggregator.state import State
from kernels.rows import NONE
from persistence import log
from persistence.batch import Batch
from persistence.directory import DataDirectory, shard_folder
from persistence.epoch import Epoch
from persistence.erasure import Erasure
from persistence.errors import DamagedError
from persistence.facts import SCHEMA, codes_of, names_of, one_chunk
from persistence.files import FolderLock, make_folder
from persistence.log import Log
from persistence.store import Store
from persistence.strings import Strings

#: Facts are read and counted so many at a time, and stored in files of at least so many.
FACTS_AT_ONCE = 500_000
#: Spreads hashes: 2^64 by the golden ratio.
_ODD = np.uint64(0x9E3779B97F4A7C15)
#: A shard of a server that was killed may take this long to end.
LOCK_WAIT_S = 10.0

#: Gets how many facts are done, and how many there are.
Tell = Callable[[int, int], None]


@dataclass(slots=True)
class _OldShard:
    """Where the facts of a shard are, and what it remembers."""

    store: Store
    tail: pa.Table
    erasure: Erasure
    recent: RecentHashes
    #: As of `_digest_of`.
    counted: int

    def facts(self) -> Iterator[pa.Table]:
        """In order of arrival, without those erased; stored files are checked as they are read."""
        for facts in chain(self.store.read(), [self.tail]):
            kept = facts.filter(pa.array(~self.erasure.hits(one_chunk(facts))))
            for start in range(0, len(kept), FACTS_AT_ONCE):
                yield kept.slice(start, FACTS_AT_ONCE)

    def __len__(self) -> int:
        return sum(file.rows for file in self.store.files()) + len(self.tail)


class _NewShard:
    """A shard in the making. What was received at one time is a record of a log it never had."""

    def __init__(
        self, number: int, folder: Path, owner: str, rules: Rules, hours_kept_days: int
    ) -> None:
        make_folder(folder)
        self._folder = folder
        self._folders = Folders.of(folder, number, owner)
        self._state = State(rules, hours_kept_days)
        self._sequence = self._stored = 0
        self._received_ms = 0
        self._waiting: list[pa.Table] = []

    def add(self, facts: pa.Table) -> None:
        """Counts facts in order of arrival, and stores them."""
        if not len(facts):
            return
        received_ms = facts["received_ms"].to_numpy()
        starts = _starts_of(received_ms)
        lengths = np.diff(starts, append=len(facts))
        columns = {
            "sequence": np.repeat(self._sequence + 1 + np.arange(len(starts)), lengths),
            "index": (np.arange(len(facts)) - np.repeat(starts, lengths)).astype(np.int32),
        }
        self._sequence += len(starts)
        self._received_ms = int(received_ms[-1])
        count(self._state, facts)
        for name, column in columns.items():
            at = SCHEMA.get_field_index(name)
            facts = facts.set_column(at, SCHEMA.field(name), pa.array(column))
        self._waiting.append(facts)
        if sum(map(len, self._waiting)) >= FACTS_AT_ONCE:
            self._store()

    @property
    def counted(self) -> int:
        return _digest_of(self._state)

    def finish(self, recent: pa.Table, young_since_ms: int) -> None:
        """Stores the rest, a snapshot, and the beginning of a log."""
        self._store()
        self._state.recent.load_arrow(recent, young_since_ms)
        epoch = Epoch(self._folder)
        folders = self._folders
        Log(folders.log, folders.owner, epoch, self._sequence + 1, segment_bytes=1).close()
        epoch.close()
        frozen = Frozen.of(self._state, self._sequence, self._received_ms, [], {}, [])
        checkpoint.write(folders, frozen)

    def _store(self) -> None:
        if self._waiting:
            facts = one_chunk(pa.concat_tables(self._waiting))
            self._folders.store.archive(facts, self._stored + 1, self._sequence)
            self._stored, self._waiting = self._sequence, []


def regenerate(
    directory: DataDirectory, shards: int, rules: Rules, hours_kept_days: int, tell: Tell
) -> None:
    """Makes a new generation of an open data directory that no shard works on.

    1. Read the end of each shard's log.
    2. Count and store all facts in new shards, in a folder beside the old ones.
    3. Replace the manifest: from here on the new generation is the data.
    4. Remove the old one.

    Raises `PersistenceError` or `OSError`, and then the old generation is the data.
    """
    manifest = directory.manifest.following(shards, rules.as_dict())
    folder = directory.prepare(manifest)
    old = [_read_old(directory, number) for number in range(directory.manifest.shards)]
    new = [
        _NewShard(
            number, shard_folder(folder, number), manifest.owner(number), rules, hours_kept_days
        )
        for number in range(shards)
    ]
    done, total = 0, sum(map(len, old))
    catalogue: dict[str, tuple[int | None, str | None]] = {}
    for facts in _in_order(old):
        kept = _without_repeats(facts, catalogue)
        for shard, part in zip(new, _split(kept, shards), strict=True):
            shard.add(part)
        done += len(facts)
        tell(done, total)
    _compare(old, new)
    recent, young_since_ms = _remembered(old)
    for shard in new:
        shard.finish(recent, young_since_ms)
    directory.switch(manifest)


def _compare(old: list[_OldShard], new: list[_NewShard]) -> None:
    """Stored files that are whole may be those of another time, from before an erase say."""
    counts = [sum(shard.counted for shard in shards) % 2**64 for shards in (old, new)]
    if counts[0] != counts[1]:
        what = "other events are stored than were counted; `playhead check` says in which files"
        raise DamagedError(old[0].store.folder, 0, what)


def _read_old(directory: DataDirectory, number: int) -> _OldShard:
    folder = directory.shard_folder(number)
    FolderLock(folder, LOCK_WAIT_S).release()  # a server that was killed may have left a shard
    folders = Folders.of(folder, number, directory.manifest.owner(number))
    state = State(Rules(**directory.manifest.rules), NEVER_FOLD_DAYS)
    recovered = replayed(folders, newest_snapshot(folders), state)
    _check_log(folders, recovered)
    tail = tail_after(folders, folders.store.archived_sequence(), recovered)
    erasure = erasure_of(recovered.erasing)
    counted = _digest_of(recovered.state)
    return _OldShard(folders.store, tail, erasure, recovered.state.recent, counted)


def _check_log(folders: Folders, recovered: Recovered) -> None:
    """A start may go on without a last record that is cut, and keeps what is left of it."""
    check_ends(folders, recovered)
    if recovered.next_sequence <= (synced := log.synced(folders.log)):
        what = (
            f"its last record, {synced}, was acknowledged and is cut; "
            "a start as before, with as many shards, goes on without it"
        )
        raise DamagedError(log.segments(folders.log)[-1], 0, what)


def _digest_of(state: State) -> int:
    """Of how many events each pair has: that of several states is the sum, by any rules."""
    pairs = state.pairs
    kept = np.flatnonzero(pairs.exist())
    users, movies = state.user_names.hashes(), state.movie_names.hashes()
    pair = users[pairs["user"][kept]] * _ODD + movies[pairs["movie"][kept]]
    mixed = (pair ^ (pair >> np.uint64(29))) * _ODD
    return int((mixed * (pairs.of("events", kept).astype(np.uint64) + np.uint64(1))).sum())


def _in_order(old: list[_OldShard]) -> Iterator[pa.Table]:
    """All facts of all shards as they were received; each column is one chunk."""
    sources = [shard.facts() for shard in old]
    waiting: dict[int, pa.Table] = {}
    while True:
        for number in range(len(sources)):
            while number not in waiting or not len(waiting[number]):
                facts = next(sources[number], None)
                if facts is None:
                    waiting.pop(number, None)
                    break
                waiting[number] = facts
        if not waiting:
            return
        # Whatever comes later was received later than the end of what it comes after.
        until = min(facts["received_ms"][-1].as_py() for facts in waiting.values())
        parts = []
        for number, facts in waiting.items():
            end = int(np.searchsorted(facts["received_ms"].to_numpy(), until, "right"))
            parts.append(facts.slice(0, end))
            waiting[number] = facts.slice(end)
        yield _sorted(one_chunk(pa.concat_tables(parts)))


def _sorted(facts: pa.Table) -> pa.Table:
    """By the time of receipt; of each shard in order of arrival, as they are."""
    order = np.argsort(facts["received_ms"].to_numpy(), kind="stable")
    return one_chunk(facts.take(pa.array(order)))


def _without_repeats(
    facts: pa.Table, catalogue: dict[str, tuple[int | None, str | None]]
) -> pa.Table:
    """Each old shard has all entries of the catalogue: what repeats the last one goes."""
    is_new = np.ones(len(facts), np.bool_)
    for row in np.flatnonzero(codes_of(facts, "user") < 0).tolist():
        slug, duration_ms, title = (
            facts[name][row].as_py() for name in ("slug", "duration_ms", "title")
        )
        is_new[row] = catalogue.get(slug) != (duration_ms, title)
        catalogue[slug] = duration_ms, title
    return facts if is_new.all() else one_chunk(facts.filter(pa.array(is_new)))


def _split(facts: pa.Table, shards: int) -> Iterator[pa.Table]:
    """The facts for each new shard. What is no one's, as the catalogue is, is for all."""
    of_name = [shard_of(name, shards) for name in names_of(facts, "user")]
    shard = np.array([*of_name, NONE], np.int64)[codes_of(facts, "user")]  # code -1 is no one
    for number in range(shards):
        yield one_chunk(facts.filter(pa.array((shard == number) | (shard == NONE))))


def count(state: State, facts: pa.Table) -> None:
    """Applies facts in order of arrival; each column is one chunk."""
    kinds = names_of(facts, "kind")
    is_event = np.array([kind == "event" for kind in kinds])[codes_of(facts, "kind")]
    batch, received_ms = _batch_of(facts), facts["received_ms"].to_numpy()
    for start, end in _stretches(is_event):
        if is_event[start]:
            which = np.arange(start, end)
            part = batch if len(which) == len(batch) else batch.take(which)
            state.apply(part, received_ms[start:end])
        else:
            for row in facts.slice(start, end - start).to_pylist():
                changes.apply(state, _command_of(row), row["received_ms"])


def _stretches(is_event: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where neighbours are all events, or none is."""
    return pairwise([*_starts_of(is_event).tolist(), len(is_event)])


def _starts_of(column: NDArray[Any]) -> NDArray[np.intp]:
    """Where each stretch of equal neighbours begins."""
    return np.flatnonzero(np.append(True, column[1:] != column[:-1]))


def _batch_of(facts: pa.Table) -> Batch:
    """All rows as events; those of others are not to be used."""
    names = {column: names_of(facts, column) for column in ("user", "slug", "session")}
    codes = {column: codes_of(facts, column) for column in names}
    return Batch(
        users=Strings.of([*names["user"], RETIRED]),
        slugs=Strings.of(names["slug"]),
        sessions=Strings.of([*names["session"], ""]),  # code -1 finds the last
        user=codes["user"] % (len(names["user"]) + 1),
        slug=codes["slug"],
        session=codes["session"] % (len(names["session"]) + 1),
        at_ms=facts["at_ms"].fill_null(0).to_numpy(),
        ts_ms=facts["ts_ms"].fill_null(NONE).to_numpy(),
        duration_ms=facts["duration_ms"].fill_null(0).to_numpy(),
    )


def _command_of(row: dict[str, Any]) -> Command:
    match row["kind"]:
        case "position":
            return SetPosition(row["user"], row["slug"], row["at_ms"])
        case "completed":
            return MarkCompleted(row["user"], row["slug"])
        case "uncompleted":
            return UnmarkCompleted(row["user"], row["slug"])
        case "hidden":
            return Hide(row["user"], row["slug"])
        case "movie":
            return Describe(row["slug"], row["duration_ms"], row["title"])
    raise ValueError(f"a fact of kind {row['kind']} is not known")


def _remembered(old: list[_OldShard]) -> tuple[pa.Table, int]:
    """The ids that any old shard remembers: all new ones do, as no id says whose it is."""
    tables = [shard.recent.to_arrow() for shard in old]
    joined = pa.concat_tables(tables).group_by("hash").aggregate([("is_young", "max")])
    since = [shard.recent.young_since_ms for shard in old if len(shard.recent)]
    return joined.rename_columns(["hash", "is_young"]), min(since, default=0)
