"""What is in a log's records, and the facts that they became."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from aggregator import entries
from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
    encode,
)
from aggregator.entries import Found, facts_of
from aggregator.event import Event, Part, to_batch
from persistence.epoch import Epoch
from persistence.errors import DamagedError
from persistence.facts import SCHEMA
from persistence.log import Log
from persistence.records import COMMANDS, EVENTS, Record

OWNER = "an id/1/0"


def logged(folder: Path, records: Sequence[Record]) -> list[Found]:
    opened = Log(folder / "log", OWNER, Epoch(folder), 1, 1 << 20)
    opened.append(records)
    opened.close()
    return list(entries.read(folder / "log", OWNER, 0))


def events(sequence: int, *some: Event) -> Record:
    return Record(sequence, 1_000 * sequence, 1, sequence, to_batch([Part([*some])]).encode())


def commands(sequence: int, *some: Command) -> Record:
    return Record(sequence, 1_000 * sequence, 1, sequence, encode([*some]), COMMANDS)


def test_every_kind_becomes_a_fact_with_its_columns(tmp_path: Path) -> None:
    found = logged(
        tmp_path,
        [
            events(1, Event("u", "m", 1.0), Event("v", "n", 2.5, "tv", "id", 900.0, 60.0)),
            events(2, Event("u", "n", 3.0)),
            commands(
                3,
                SetPosition("u", "m", 4_000, if_versions=[]),
                MarkCompleted("u", "m"),
                UnmarkCompleted("u", "n"),
            ),
            commands(4, Hide("v", "n"), Describe("n", 60_000, "Title"), Describe("m", None, None)),
            events(5, Event("w", "m", 0.0)),
        ],
    )
    nothing = (None,) * 4
    expected = [
        (1, 0, 1_000, "event", "u", "m", None, 1_000, None, None, None),
        (1, 1, 1_000, "event", "v", "n", "tv", 2_500, 900, 60_000, None),
        (2, 0, 2_000, "event", "u", "n", None, 3_000, None, None, None),
        (3, 0, 3_000, "position", "u", "m", None, 4_000, None, None, None),
        (3, 1, 3_000, "completed", "u", "m", None, *nothing),
        (3, 2, 3_000, "uncompleted", "u", "n", None, *nothing),
        (4, 0, 4_000, "hidden", "v", "n", None, *nothing),
        (4, 1, 4_000, "movie", None, "n", None, None, None, 60_000, "Title"),
        (4, 2, 4_000, "movie", None, "m", None, *nothing),
        (5, 0, 5_000, "event", "w", "m", None, 0, None, None, None),
    ]
    facts = facts_of(found, {})
    assert facts.schema == SCHEMA
    assert [tuple(row.values()) for row in facts.to_pylist()] == expected
    skipped = {1: [0], 2: [0], 3: [0, 2], 4: [1], 9: [0]}
    kept = [expected[n] for n in (1, 4, 6, 8, 9)]
    assert [tuple(row.values()) for row in facts_of(found, skipped).to_pylist()] == kept
    assert facts_of([], {}).schema == SCHEMA


def test_what_an_erase_takes_of_its_own_record_is_no_fact(tmp_path: Path) -> None:
    found = logged(
        tmp_path,
        [
            commands(
                1,
                Hide("u", "x"),
                Hide("u", "y"),
                Hide("v", "x"),
                Describe("x", 1_000, "u"),
                Erase("u", "x"),
                Hide("u", "x"),
                Erase("v"),
                Hide("v", "y"),
            )
        ],
    )
    rows = facts_of(found, {}).to_pylist()
    assert [(row["index"], row["user"], row["slug"]) for row in rows] == [
        (1, "u", "y"),
        (3, None, "x"),
        (5, "u", "x"),
        (7, "v", "y"),
    ]
    rows = facts_of(found, {1: [1, 4, 6, 7]}).to_pylist()
    assert [row["index"] for row in rows] == [3, 5]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(EVENTS, encode([Erase("u")])), (COMMANDS, b"\xff"), (COMMANDS, b""), (7, b"x")],
)
def test_a_record_that_cannot_be_decoded_is_damage(
    tmp_path: Path, kind: int, payload: bytes
) -> None:
    with pytest.raises(DamagedError, match="record 1: "):
        logged(tmp_path, [Record(1, 0, 1, 1, payload, kind)])
