"""A log is replayed in runs of records; that must be as one by one, as they were counted live."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aggregator import entries
from aggregator.commands import Command, Erase, Hide, MarkCompleted, encode
from aggregator.entries import Found, facts_of
from aggregator.event import Event, Part, to_batch
from aggregator.recovery import PRODUCER_AGE_MS, Recovered, replay
from aggregator.rules import Rules
from aggregator.state import State
from persistence.epoch import Epoch
from persistence.errors import DamagedError
from persistence.log import Log
from persistence.records import COMMANDS, EVENTS, Record
from tests.comparison import facts_of_state

OWNER = "an id/1/0"
HOUR_MS = 3_600_000
RECORDS = 300


def logged(folder: Path, records: Sequence[Record]) -> Path:
    opened = Log(folder / "log", OWNER, Epoch(folder), 1, 1 << 14)
    for record in records:
        opened.append([record])
    opened.close()
    return folder / "log"


def traffic(random: Random) -> Iterator[Record]:
    """Of a few producers, with ids that come again after minutes and days, and commands."""
    received_ms, sent = 1_700_000_000_000, dict.fromkeys(range(5), 0)
    for sequence in range(1, RECORDS + 1):
        received_ms += random.choice([0, 10_000, 10_000, HOUR_MS // 10, 20 * HOUR_MS])
        producer = random.choice([1, 2, 2, 2, random.randrange(5)])
        sent[producer] += 1
        kind = COMMANDS if random.random() < 0.1 else EVENTS
        payload = encode([a_command(random)]) if kind == COMMANDS else a_batch(random)
        yield Record(sequence, received_ms, 2**63 + producer, sent[producer], payload, kind)


def a_command(random: Random) -> Command:
    user, slug = random.choice("uvw"), random.choice(["m", "a longer name"])
    commands: list[Command] = [Hide(user, slug), MarkCompleted(user, slug), Erase(user, slug)]
    return random.choice(commands)


def a_batch(random: Random) -> bytes:
    events = [
        Event(
            random.choice("uvw"),
            random.choice(["m", "a longer name"]),
            float(random.randrange(600)),
            id=random.choice([None, None, str(random.randrange(40))]),
        )
        for _ in range(random.randint(1, 3))
    ]
    return to_batch([Part(events, random.choice([None, None, str(random.randrange(40))]))]).encode()


def of_late(recovered: Recovered) -> list[list[Any]]:
    """Remembered of producers that were not silent for so long that they may be forgotten."""
    since_ms = recovered.received_ms - PRODUCER_AGE_MS
    return sorted(p for p in recovered.producers.dump() if p[2]["received_ms"] >= since_ms)


@pytest.mark.parametrize("seed", range(4))
def test_runs_come_to_the_same_as_records_one_by_one(tmp_path: Path, seed: int) -> None:
    folder = logged(tmp_path, [*traffic(Random(seed))])  # noqa: S311 - traffic, no secrets
    found = list(entries.read(folder, OWNER, 0))
    assert len(found) < RECORDS / 2
    alone = [some.take(slice(n, n + 1)) for some in found for n in range(len(some))]
    together, one_by_one = (Recovered(State(Rules())) for _ in range(2))
    assert [*replay(together, found)][-1] == RECORDS
    assert [*replay(one_by_one, alone)] == [*range(1, RECORDS + 1)]
    assert facts_of_state(together.state) == facts_of_state(one_by_one.state)
    assert together.skipped == one_by_one.skipped
    assert together.skipped
    assert together.erasing == one_by_one.erasing
    assert of_late(together) == of_late(one_by_one)
    assert of_late(together)
    numbers = [(r.replayed, r.received_ms, r.next_sequence) for r in (together, one_by_one)]
    assert numbers[0] == numbers[1]
    skipped = together.skipped
    assert facts_of(found, skipped).equals(facts_of(alone, skipped))


def test_records_are_read_up_to_one_and_by_the_name_that_they_hold(tmp_path: Path) -> None:
    users = ["anna", "bert", "annabel", "carl", "anna"]
    events = [to_batch([Part([Event(user, "m", 1.0)])]).encode() for user in users]
    records = [Record(1 + n, 0, 1, 1 + n, payload) for n, payload in enumerate(events)]
    by_hand: list[Command] = [Hide("dora", "m"), Hide("anna", "m"), Erase("anna")]
    records += [Record(6 + n, 0, 2, 1 + n, encode([c]), COMMANDS) for n, c in enumerate(by_hand)]
    folder = logged(tmp_path, records)

    def sequences(found: Iterator[Found]) -> list[int]:
        return [record.sequence for some in found for record in some.run]

    assert sequences(entries.read(folder, OWNER, 0)) == [*range(1, 9)]
    assert sequences(entries.read(folder, OWNER, 2, up_to=4)) == [3, 4]
    assert sequences(entries.read(folder, OWNER, 0, up_to=6)) == [*range(1, 7)]
    assert sequences(entries.read(folder, OWNER, 3, up_to=3)) == []
    assert sequences(entries.read(folder, OWNER, 0, naming="anna")) == [1, 3, 5, 7, 8]
    assert sequences(entries.read(folder, OWNER, 1, 7, naming="anna")) == [3, 5, 7]
    assert sequences(entries.read(folder, OWNER, 0, naming="emil")) == []


def flawed(change: str) -> bytes:
    payload = bytearray(to_batch([Part([Event("u", "m", 1.0), Event("v", "m", 1.0)])]).encode())
    match change:
        case "version":
            payload[0] = 99
        case "events":
            payload[4] += 1
        case "huge":
            payload[4:8] = b"\xff" * 4
        case "code":
            payload[48] = 7
        case "short":
            payload = payload[:8]
        case "odd":
            payload += b"\0"
    return bytes(payload)


@pytest.mark.parametrize("change", ["version", "events", "huge", "code", "short", "odd"])
def test_a_batch_that_cannot_be_decoded_is_named_among_others(tmp_path: Path, change: str) -> None:
    payloads = [a_batch(Random(1)), flawed(change), a_batch(Random(2))]  # noqa: S311
    records = [Record(1 + n, 0, 1, 1 + n, payload) for n, payload in enumerate(payloads)]
    folder = logged(tmp_path, records)
    with pytest.raises(DamagedError, match=r"record 2: (not an encoded batch|batch version)"):
        [found.joined() for found in entries.read(folder, OWNER, 0)]
