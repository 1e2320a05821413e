"""From what is on disk back to the state: the newest snapshot, then the log after it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.messages import Applied, Refused
from aggregator.rules import Rules
from aggregator.state import State
from persistence import log, snapshot
from persistence.batch import Batch, BatchError
from persistence.errors import DamagedError
from persistence.log import Record

#: Records are applied together up to here: enough for vectors, little to hold.
CHUNK_EVENTS = 50_000
#: A producer that was silent for this long has ended; a router asks again within seconds.
PRODUCER_AGE_MS = 3_600_000


class Producers:
    """The last frame of each producer and the reply to it, so that a resend is not counted."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Applied]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def reply_to(self, producer: int, sequence: int) -> Applied | Refused | None:
        """What to answer to a frame that came before; None if it is new."""
        last, reply = self._last.get(producer, (0, None))
        if sequence > last:
            return None
        return reply if sequence == last else Refused("its sender has given this frame up")

    def remember(self, producer: int, sequence: int, reply: Applied) -> None:
        if producer not in self._last:
            self._forget_before(reply.received_ms - PRODUCER_AGE_MS)
        self._last[producer] = (sequence, reply)

    def _forget_before(self, received_ms: int) -> None:
        gone = [p for p, (_, reply) in self._last.items() if reply.received_ms < received_ms]
        for producer in gone:
            del self._last[producer]

    def dump(self) -> list[list[Any]]:
        return [
            [producer, sequence, reply.received_ms, reply.duplicates]
            for producer, (sequence, reply) in self._last.items()
        ]

    def load(self, dumped: list[list[Any]]) -> None:
        for producer, sequence, received_ms, duplicates in dumped:
            self._last[producer] = (sequence, Applied(received_ms, duplicates))


@dataclass(slots=True)
class Recovered:
    """What a shard goes on from."""

    state: State
    producers: Producers = field(default_factory=Producers)
    received_ms: int = 0
    snapshot_sequence: int = 0
    next_sequence: int = 1
    replayed_events: int = 0
    summary: str = ""


def recover(log_folder: Path, snapshot_folder: Path, rules: Rules) -> Recovered:
    """Loads and replays; raises `PersistenceError` if what is there cannot be trusted."""
    started = time.monotonic()
    recovered = Recovered(State(rules))
    newest, damage = snapshot.load_newest(snapshot_folder)
    if damage and not log.segments(log_folder):
        raise damage[0]
    if newest is not None:
        recovered.state.load_arrow(newest.tables, newest.extra["young_since_ms"])
        recovered.producers.load(newest.extra["producers"])
        recovered.received_ms = newest.extra["received_ms"]
        recovered.snapshot_sequence = newest.sequence
        recovered.next_sequence = newest.sequence + 1
    for chunk in _chunks(log_folder, log.replay(log_folder, recovered.snapshot_sequence)):
        _apply(recovered, chunk)
    if damage:
        snapshot.set_aside(snapshot_folder, damage)
    recovered.summary = (
        f"{recovered.state.events - recovered.replayed_events} events from the snapshot, "
        f"{recovered.replayed_events} from the log, in {time.monotonic() - started:.1f} s"
    )
    return recovered


Logged = tuple[Record, Batch]


def _chunks(folder: Path, records: Iterable[Record]) -> Iterator[list[Logged]]:
    chunk: list[Logged] = []
    events = 0
    for record in records:
        try:
            batch = Batch.decode(record.payload)
        except BatchError as error:
            raise DamagedError(folder, 0, f"record {record.sequence}: {error}") from error
        chunk.append((record, batch))
        events += len(batch)
        if events >= CHUNK_EVENTS:
            yield chunk
            chunk, events = [], 0
    if chunk:
        yield chunk


def _apply(recovered: Recovered, chunk: list[Logged]) -> None:
    batch = Batch.concatenate([batch for _, batch in chunk])
    last = chunk[-1][0]
    hashes = sum(c is not None for c in (batch.id_hash, batch.key_hash)) * len(batch)
    first_ms, last_ms = chunk[0][0].received_ms, last.received_ms
    if len(chunk) > 1 and hashes and recovered.state.recent.turns(first_ms, last_ms, hashes):
        for logged in chunk:  # the ids forgotten must be those that were forgotten live
            _apply(recovered, [logged])
        return
    lengths = [len(batch) for _, batch in chunk]
    received_ms = np.repeat([record.received_ms for record, _ in chunk], lengths)
    duplicate = recovered.state.apply(batch, received_ms, np.repeat(range(len(chunk)), lengths))
    ends = np.cumsum(lengths)
    for (record, part), end in zip(chunk, ends.tolist(), strict=True):
        duplicates = np.flatnonzero(duplicate[end - len(part) : end]).tolist()
        reply = Applied(record.received_ms, duplicates)
        recovered.producers.remember(record.producer, record.producer_sequence, reply)
    recovered.received_ms = last.received_ms
    recovered.next_sequence = last.sequence + 1
    recovered.replayed_events += len(batch) - int(np.count_nonzero(duplicate))
