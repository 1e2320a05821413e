"""All that is known of a shard, in ways that do not depend on each other.

These are the memory of the running server, each snapshot with the log after it, and
SQL over stored events: all as of the same record. While the server goes on, that
takes some care; see `gather`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from aggregator import entries, sockets
from aggregator.checkpoint import Erasing, Folders
from aggregator.fact_copy import FactCopy
from aggregator.inspection import (
    ATTEMPTS,
    PAUSE_S,
    Tables,
    file_names,
    folded,
    kept_snapshots,
    replayed,
    tail_after,
)
from aggregator.messages import Refused, Tabled
from aggregator.recovery import Recovered
from aggregator.rules import Rules
from aggregator.tables import tables_of
from persistence import log, snapshot
from persistence.errors import PersistenceError
from persistence.facts import SCHEMA
from persistence.snapshot import Snapshot

#: Gets what is being done, and how much of it is done and in all.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """One way to the tables of a shard; `name` is for sentences, `place` is where to look."""

    name: str
    place: Path | None
    tables: Tables
    fold_before: int


@dataclass(slots=True)
class Evidence:
    """What one attempt found."""

    #: The record after which all of it is, None when that could not be told.
    last: int | None = None
    sources: list[Source] = field(default_factory=list)
    #: Facts in the log alone, and erases that may not have been carried out in stored files.
    tail: pa.Table = field(default_factory=SCHEMA.empty_table)
    erasing: list[Erasing] = field(default_factory=list)
    #: What cannot be trusted, or could not be read.
    damage: list[str] = field(default_factory=list)
    #: What was not looked at, and why.
    left_out: list[str] = field(default_factory=list)

    @property
    def has_files(self) -> bool:
        """Whether a snapshot or the log is among the sources."""
        return any(source.place for source in self.sources)

    def fold(self) -> int:
        """Has the hours of all sources in days alike; before which hour."""
        fold_before = max((source.fold_before for source in self.sources), default=0)
        self.sources = [
            Source(
                source.name,
                source.place,
                {**source.tables, "hours": folded(source.tables["hours"], fold_before)},
                fold_before,
            )
            for source in self.sources
        ]
        return fold_before


@dataclass(frozen=True, slots=True)
class Shard:
    """Which shard it is, and where."""

    number: int
    folder: Path
    folders: Folders
    rules: Rules
    #: The id of the data directory.
    data_id: str


def gather(shard: Shard, copy: FactCopy, tell: Tell) -> Evidence:
    """Everything but SQL over the facts, and `copy` as it is needed for that.

    1. Copy stored facts. That takes longest, and the server goes on.
    2. Ask the server for its tables. They are those after some record, call it M.
    3. Read snapshots and log up to M.
    4. See that since step 1 no stored file was replaced, and that nothing which could
       not be read has just been removed. Else begin again; step 1 has little to do now.

    So an erase that is final in what was copied was before M, and one that was before M
    is final there or still in the log.
    """
    for _ in range(ATTEMPTS):
        names = file_names(shard.folders)
        evidence = _attempt(shard, copy, tell)
        is_current = copy.is_current()
        if is_current and not (evidence.damage and file_names(shard.folders) != names):
            return evidence
        time.sleep(PAUSE_S)
    if not is_current:
        evidence.damage.append(
            "the server replaced stored files each time while they were compared: check again later"
        )
    return evidence


def _attempt(shard: Shard, copy: FactCopy, tell: Tell) -> Evidence:
    evidence = Evidence()
    copy.catch_up(lambda done, of: tell("stored events", done, of))
    evidence.damage += map(str, copy.damage)
    tell("memory", 0, 1)
    memory = sockets.ask_for_tables(sockets.namespace_of(shard.data_id), shard.number, shard.folder)
    match memory:
        case Tabled(sequence, fold_before):
            evidence.last = sequence
            evidence.sources.append(Source("memory", None, memory.decoded(), fold_before))
        case Refused(reason):
            evidence.left_out.append(f"memory: {reason}")
        case None:
            evidence.left_out.append("memory: no server of this data was found running here")
    _read_log(shard.folders, evidence, tell)
    _read_snapshots(shard, evidence, copy.stored_sequence, tell)
    return evidence


def _read_log(folders: Folders, evidence: Evidence, tell: Tell) -> None:
    """Reads all records, also those that no one needs any more; for their checksums."""
    segments = log.segments(folders.log)
    if not segments:
        return
    first, last_segment = (int(path.stem) for path in (segments[0], segments[-1]))
    try:
        for entry in entries.read(folders.log, first - 1, repair=False):
            done = min(entry.record.sequence, last_segment) - first
            tell("log", done, last_segment - first)
    except (FileNotFoundError, PersistenceError) as error:
        evidence.damage.append(str(error))


def _read_snapshots(shard: Shard, evidence: Evidence, stored: int, tell: Tell) -> None:
    """Each snapshot, newest first, with the log after it; the log alone if there is none."""
    kept = kept_snapshots(shard.folders)
    for number, path in enumerate(kept):
        tell("snapshots", number, len(kept))
        try:
            loaded = snapshot._load(path)
        except PersistenceError as error:
            evidence.damage.append(str(error))
            continue
        if evidence.last is None or loaded.sequence <= evidence.last:
            _follow(shard, evidence, loaded, path, stored)
    segments = log.segments(shard.folders.log)
    has_all = segments and int(segments[0].stem) == 1
    if not kept or (has_all and not evidence.has_files):
        _follow(shard, evidence, None, shard.folders.log, stored)


def _follow(
    shard: Shard, evidence: Evidence, start: Snapshot | None, place: Path, stored: int
) -> None:
    """Adds what `start` and the log after it come to."""
    try:
        recovered = replayed(shard.folders, start, shard.rules, evidence.last)
        if not evidence.has_files:
            _take_rest(shard.folders, evidence, recovered, stored)
    except (FileNotFoundError, PersistenceError) as error:
        evidence.damage.append(str(error))
        return
    name = f"snapshot {start.sequence} with the log after it" if start else "the log"
    fold_before = recovered.state.hours.fold_before
    evidence.sources.append(Source(name, place, tables_of(recovered.state), fold_before))


def _take_rest(folders: Folders, evidence: Evidence, recovered: Recovered, stored: int) -> None:
    """What the newest snapshot and the log after it say besides; without a server, the end."""
    last = recovered.next_sequence - 1
    wanted = max(evidence.last or 0, stored)
    if last < wanted:
        what = "the server has record" if evidence.last else "there are stored events of record"
        evidence.damage.append(f"{folders.log} ends with record {last}, and {what} {wanted}")
    evidence.last = last
    evidence.tail = tail_after(folders, stored, recovered)
    evidence.erasing = recovered.erasing
