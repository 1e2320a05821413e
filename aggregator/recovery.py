"""From what is on disk back to the state: the newest snapshot, then the log after it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import collector, entries
from aggregator.changes import carry_out
from aggregator.checkpoint import ALONE, Erasing, Folders, erases_in, tidy_up
from aggregator.commands import Command
from aggregator.entries import Found
from aggregator.messages import Applied, Done, Refused
from aggregator.state import State
from persistence import log, snapshot
from persistence.batch import EncodedBatches
from persistence.errors import DamagedError
from persistence.files import sync_folder
from persistence.records import Record
from persistence.snapshot import Snapshot

#: A producer that was silent for this long has ended; a router asks again within seconds.
PRODUCER_AGE_MS = 3_600_000

Remembered = Applied | Done


class Producers:
    """The last frame of each producer and the reply to it, so that a resend is not counted."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Remembered]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def reply_to(self, producer: int, sequence: int) -> Remembered | Refused | None:
        """What to answer to a frame that came before; None if it is new."""
        last, reply = self._last.get(producer, (0, None))
        if sequence > last:
            return None
        return reply if sequence == last else Refused("its sender has given this frame up")

    def remember(self, producer: int, sequence: int, reply: Remembered) -> None:
        if producer not in self._last:
            self._forget_before(reply.received_ms - PRODUCER_AGE_MS)
        self._last[producer] = (sequence, reply)

    def _forget_before(self, received_ms: int) -> None:
        gone = [p for p, (_, reply) in self._last.items() if reply.received_ms < received_ms]
        for producer in gone:
            del self._last[producer]

    def dump(self) -> list[list[Any]]:
        return [
            [producer, sequence, msgspec.to_builtins(reply)]
            for producer, (sequence, reply) in self._last.items()
        ]

    def load(self, dumped: list[list[Any]]) -> None:
        for producer, sequence, reply in dumped:
            self._last[producer] = (sequence, msgspec.convert(reply, Remembered))


@dataclass(slots=True)
class Recovered:
    """What a shard goes on from."""

    state: State
    producers: Producers = field(default_factory=Producers)
    received_ms: int = 0
    snapshot_sequence: int = 0
    snapshot_ms: int = 0
    next_sequence: int = 1
    replayed: int = 0
    #: Of the records replayed, by sequence: the indexes of what had no effect.
    skipped: dict[int, list[int]] = field(default_factory=dict)
    #: Erases whose traces are still on disk.
    erasing: list[Erasing] = field(default_factory=list)
    summary: str = ""


def recover(folders: Folders, state: State) -> Recovered:
    """Loads and replays into an empty state, and tidies up after a checkpoint that was cut short.

    Raises `PersistenceError` if what is there cannot be trusted.
    """
    started = time.monotonic()
    _sync_folders(folders)
    newest, damage = snapshot.load_newest(folders.snapshots, folders.owner)
    if damage and not log.segments(folders.log):
        raise damage[0]
    recovered = load(state, newest)
    loaded = state.events
    try:
        found = entries.read(folders.log, folders.owner, recovered.snapshot_sequence)
        with collector.paused():
            for _ in replay(recovered, found):
                pass
        check_ends(folders, recovered)
    except DamagedError as error:
        if damage:  # without it, no record would be missing
            raise damage[0] from error
        raise
    if damage:
        snapshot.set_aside(folders.snapshots, damage)
    if newest is not None:
        tidy_up(folders, alone=newest.extra[ALONE])
    recovered.summary = (
        f"{loaded} events from the snapshot, {recovered.replayed} from the log, "
        f"in {time.monotonic() - started:.1f} s"
    )
    return recovered


def _sync_folders(folders: Folders) -> None:
    """What a process before this one made, and did not live to sync, is relied on from now on."""
    shard, stored = folders.log.parent, folders.store.folder
    for folder in (shard.parent, shard, folders.log, folders.snapshots, stored, *stored.glob("*")):
        if folder.is_dir():
            sync_folder(folder)


def check_ends(folders: Folders, recovered: Recovered) -> None:
    """Refuses what ends before something that was made from it.

    The log before what was stored of it: numbers would come twice. What was stored
    before the snapshot: it would be stored again, with duplicates and what was erased.
    Segments before the one that each snapshot has begun.
    """
    last, taken = recovered.next_sequence - 1, recovered.snapshot_sequence
    stored = folders.store.newest()
    if stored and stored.last > last:
        what = f"it ends with record {last}, and {stored.path} has later ones"
        raise DamagedError(folders.log, 0, what)
    if taken > (stored.last if stored else 0):
        end = stored.last if stored else 0
        what = f"files after record {end} are missing: the snapshot has record {taken}"
        raise DamagedError(folders.store.folder, 0, what)
    newest = max(log.segments(folders.log), default=None)
    if taken and (newest is None or int(newest.stem) <= taken):
        what = f"the segment after record {taken}, which the snapshot has, is missing"
        raise DamagedError(folders.log, 0, what)


def load(state: State, newest: Snapshot | None) -> Recovered:
    """Fills an empty state from a snapshot."""
    if newest is None:
        return Recovered(state)
    state.load_arrow(newest.tables, newest.extra["state"])
    recovered = Recovered(
        state,
        received_ms=newest.extra["received_ms"],
        snapshot_sequence=newest.sequence,
        snapshot_ms=newest.extra["received_ms"],
        next_sequence=newest.sequence + 1,
    )
    recovered.producers.load(newest.extra["producers"])
    return recovered


def replayed(
    folders: Folders, start: Snapshot | None, state: State, up_to: int | None = None
) -> Recovered:
    """What a snapshot and the log after it add up to; exactly up to a record, if it is there.

    Nothing is repaired, as a writer may be at work.
    """
    recovered = load(state, start)
    after = recovered.snapshot_sequence
    found = entries.read(folders.log, folders.owner, after, up_to, repair=False)
    with collector.paused():
        for _ in replay(recovered, found):
            pass
    return recovered


def replay(recovered: Recovered, found: Iterable[Found]) -> Iterator[int]:
    """Applies what was found; yields the last sequence after each run."""
    for some in found:
        if isinstance(some.content, EncodedBatches):
            _apply_events(recovered, some)
        else:
            for record, commands in zip(some.run, some.content, strict=True):
                _apply_commands(recovered, record, commands)
        recovered.received_ms = int(some.run.rows["received_ms"][-1])
        recovered.next_sequence = some.run.last + 1
        yield some.run.last


def _apply_commands(recovered: Recovered, record: Record, commands: list[Command]) -> None:
    done = carry_out(recovered.state, commands, record.received_ms)
    if without_effect := [i for i, each in enumerate(done.outcomes) if each.status != "done"]:
        recovered.skipped[record.sequence] = without_effect
    recovered.erasing += erases_in(record.sequence, record.received_ms, commands)
    recovered.producers.remember(record.producer, record.producer_sequence, done)


def _apply_events(recovered: Recovered, found: Found) -> None:
    rows, batches = found.run.rows, found.content
    assert isinstance(batches, EncodedBatches)
    events = batches.events
    if len(found) > 1 and _may_forget(recovered.state, found, batches):
        half = len(found) // 2  # the ids forgotten must be those that were forgotten live
        _apply_events(recovered, found.take(slice(half)))
        _apply_events(recovered, found.take(slice(half, None)))
        return
    number = np.arange(len(found)).repeat(events)
    received_ms = rows["received_ms"].repeat(events)
    duplicates = recovered.state.apply(found.joined(), received_ms, number).nonzero()[0]
    recovered.replayed += len(number) - len(duplicates)
    within = duplicates - (events.cumsum() - events).take(number.take(duplicates))
    without_effect = _by_record(rows["sequence"].take(number.take(duplicates)), within)
    recovered.skipped |= without_effect
    for row in rows[_last_of_each(rows["producer"])]:
        reply = Applied(int(row["received_ms"]), without_effect.get(int(row["sequence"]), []))
        recovered.producers.remember(int(row["producer"]), int(row["producer_sequence"]), reply)


def _may_forget(state: State, found: Found, batches: EncodedBatches) -> bool:
    """Whether hashes could be forgotten between one record and the next."""
    first_ms, last_ms = found.run.rows["received_ms"][[0, -1]].tolist()
    hashes = batches.hashes_each * int(batches.events.sum())
    return bool(hashes and state.recent.turns(first_ms, last_ms, hashes))


def _by_record(sequences: NDArray[np.int64], indexes: NDArray[np.int64]) -> dict[int, list[int]]:
    """The indexes of events that each record has, of which `sequences` has the number for each."""
    found: dict[int, list[int]] = {}
    for sequence, index in zip(sequences.tolist(), indexes.tolist(), strict=True):
        found.setdefault(sequence, []).append(index)
    return found


def _last_of_each(producers: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Where each producer is for the last time, in order."""
    _, from_end = np.unique(producers[::-1], return_index=True)
    return np.sort(len(producers) - 1 - from_end)
