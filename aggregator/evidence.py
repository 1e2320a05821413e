"""All that is known of a shard, in ways that do not depend on each other.

These are the memory of the running server, each snapshot with the log after it, and
SQL over stored events: all as of the same record. While the server goes on, that
takes some care; see `gather`.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from aggregator import entries
from aggregator.checkpoint import Erasing, Folders
from aggregator.fact_copy import FactCopy
from aggregator.inspection import (
    ATTEMPTS,
    NEVER_FOLD_DAYS,
    PAUSE_S,
    Tables,
    file_names,
    folded,
    tail_after,
)
from aggregator.messages import Refused
from aggregator.recovery import Recovered, replayed
from aggregator.rules import Rules
from aggregator.sockets import RunningShard
from aggregator.state import State
from aggregator.tables import tables_of
from persistence import log, snapshot
from persistence.epoch import EPOCH
from persistence.errors import PersistenceError
from persistence.facts import SCHEMA
from persistence.number_file import read_number
from persistence.snapshot import Snapshot

#: A server waits so long with its next checkpoint, at most, if it hears nothing more.
HOLD_S = 60.0

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
    #: Whether the copied facts and what follows are all there is.
    has_all_facts: bool = False
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
    #: The same in a server that runs on the data, if there is one.
    running: RunningShard | None

    def hold(self) -> None:
        """Has the server leave the files as they are, from now on."""
        if self.running is not None:
            self.running.hold(HOLD_S)


def gather(shard: Shard, copy: FactCopy, tell: Tell) -> Evidence:
    """Everything but SQL over the facts, and `copy` as it is needed for that.

    1. Copy stored facts. That takes longest, and the server goes on.
    2. Have the server leave its files as they are, and copy those that it has changed.
    3. Ask it for its tables. They are those after some record, call it M.
    4. Read snapshots and log up to M, then let the server go on.
    5. See that since step 2 no stored file was replaced, and that nothing which could
       not be read has just been removed: if it did take too long, go back to step 2.

    So an erase before M is final in what was copied or still in the log, and one after
    M is not in it.
    """
    copy.catch_up(partial(tell, "stored events"))
    for _ in range(ATTEMPTS):
        names = file_names(shard.folders)
        with shard.running.holding(HOLD_S) if shard.running else nullcontext():
            evidence = _attempt(shard, copy, tell)
            is_settled = copy.is_current()
            has_moved = file_names(shard.folders) != names
        if is_settled and not (evidence.damage and has_moved):
            return evidence
        time.sleep(PAUSE_S)
    if not is_settled:
        evidence.has_all_facts = False
        evidence.damage.append(
            f"the server replaces stored events while {shard.folder} is read: try again later"
        )
    return evidence


def _attempt(shard: Shard, copy: FactCopy, tell: Tell) -> Evidence:
    evidence = Evidence()
    copy.catch_up(partial(tell, "stored events"))
    evidence.damage += map(str, copy.damage)
    tell("memory", 0, 1)
    _ask(shard.running, evidence)
    shard.hold()
    _read_log(shard, evidence, tell)
    _read_snapshots(shard, evidence, copy, tell)
    return evidence


def _ask(running: RunningShard | None, evidence: Evidence) -> None:
    """Adds what the running shard has in memory."""
    try:
        reply = running.tables() if running else Refused("no server of this data was found here")
    except OSError as error:
        reply = Refused(f"its server was there and has no answer: {error!r}")
    if isinstance(reply, Refused):
        evidence.left_out.append(f"memory: {reply.reason}")
        return
    evidence.last = reply.sequence
    evidence.sources.append(Source("memory", None, reply.decoded(), reply.fold_before))


def _read_log(shard: Shard, evidence: Evidence, tell: Tell) -> None:
    """Reads all records, also those that no one needs any more; for their checksums."""
    folders = shard.folders
    segments = log.segments(folders.log)
    if not segments:
        return
    first, last_segment = (int(path.stem) for path in (segments[0], segments[-1]))
    last, epoch = first - 1, 0
    try:
        synced = log.synced(folders.log)  # before the records, as these go on to be written
        for found in entries.read(folders.log, folders.owner, first - 1, repair=False):
            last, epoch = found.run.last, max(epoch, int(found.run.rows["epoch"].max()))
            tell("log", min(last, last_segment) - first, last_segment - first)
        _check_end(shard, evidence, last, synced)
        _check_numbers(shard, evidence, epoch)
    except (FileNotFoundError, PersistenceError) as error:
        evidence.damage.append(str(error))


def _check_end(shard: Shard, evidence: Evidence, last: int, synced: int) -> None:
    """What a start would cut from the log: of one record, that may have been acknowledged."""
    newest = log.segments(shard.folders.log)[-1]
    if last < synced:
        evidence.damage.append(f"{newest}: the last record, {synced}, was acknowledged and is cut")
    elif shard.running is None and (unfinished := log.unfinished(shard.folders.log)):
        path, end = unfinished
        evidence.left_out.append(f"{path} from byte {end} on: it holds no whole record")


def _check_numbers(shard: Shard, evidence: Evidence, epoch: int) -> None:
    """The files of a shard that nothing else is compared with; `epoch` wrote into the log."""
    path = shard.folder / EPOCH
    if (found := read_number(path)) < epoch:
        evidence.damage.append(f"{path} has epoch {found}, and the log has records of {epoch}")
    noted = shard.folders.log / log.SYNCED
    if epoch and not noted.exists():
        evidence.damage.append(f"{noted} is missing: a log that lost its end would not be noticed")


def _read_snapshots(shard: Shard, evidence: Evidence, copy: FactCopy, tell: Tell) -> None:
    """Each snapshot, newest first, with the log after it; the log alone if there is none."""
    kept = snapshot.complete(shard.folders.snapshots)
    for number, path in enumerate(kept):
        tell("snapshots", number, len(kept))
        shard.hold()
        try:
            loaded = snapshot.load(path, shard.folders.owner)
        except PersistenceError as error:
            evidence.damage.append(str(error))
            continue
        if evidence.last is None or loaded.sequence <= evidence.last:
            _follow(shard, evidence, loaded, path, copy)
    segments = log.segments(shard.folders.log)
    has_all = segments and int(segments[0].stem) == 1
    if not kept or (has_all and not evidence.has_files):
        _follow(shard, evidence, None, shard.folders.log, copy)


def _follow(
    shard: Shard, evidence: Evidence, start: Snapshot | None, place: Path, copy: FactCopy
) -> None:
    """Adds what `start` and the log after it come to."""
    try:
        recovered = replayed(
            shard.folders, start, State(shard.rules, NEVER_FOLD_DAYS), evidence.last
        )
        if not evidence.has_files:
            _take_rest(shard.folders, evidence, recovered, copy)
    except (FileNotFoundError, PersistenceError) as error:
        evidence.damage.append(str(error))
        return
    name = f"snapshot {start.sequence} with the log after it" if start else "the log"
    fold_before = recovered.state.hours.fold_before
    evidence.sources.append(Source(name, place, tables_of(recovered.state), fold_before))


def _take_rest(folders: Folders, evidence: Evidence, recovered: Recovered, copy: FactCopy) -> None:
    """What the newest snapshot and the log after it say besides; without a server, the end."""
    last, stored = recovered.next_sequence - 1, copy.stored_sequence
    wanted = max(evidence.last or 0, stored)
    if last < wanted:
        what = "the server has record" if evidence.last else "there are stored events of record"
        evidence.damage.append(f"{folders.log} ends with record {last}, and {what} {wanted}")
    evidence.last = last
    if copy.damage:
        return  # which facts are in the log alone is not known
    evidence.tail = tail_after(folders, stored, recovered)
    evidence.erasing = recovered.erasing
    evidence.has_all_facts = True
