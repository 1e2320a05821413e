"""Plain Arrow streams: what the kernel takes is what the parser that knows everything takes."""

import random
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import arrow_plain
from api.arrow_intake import parse_arrow
from api.problems import ProblemError
from persistence.batch import Batch
from tests.arrow_streams import BYTES_MAX, EVENTS_MAX, TEXT_TYPES, _change, batch, stream
from tests.property.test_events_as_columns import rows

#: Streams with some bytes changed.
BROKEN = 4_000
TEXTS = st.text('ab7\u00e9\u4e16\U0001f600 \x7f\x85\n"\\', max_size=12) | st.sampled_from(
    ["a" * 128, "\u00e9" * 64, "a" * 129, "\u4e16" * 86, "b" * 256]
)
NAMES = st.sampled_from(["u", "viewer-1", "\u00e9t\u00e9", "eight888", "\u4e16\u754c"]) | TEXTS
SECONDS = st.floats(0, 1e7) | st.sampled_from([-1.0, 1e7 + 1, float("nan"), float("inf"), 1.0005])
NUMBERS = {"float64": SECONDS, "int64": st.integers(-1, 10**7 + 1), "float32": st.floats(width=32)}
TIMES = {"int64": st.integers(-1, 2**53 + 2), "float64": st.floats(-1, 2.0**53 + 2)}


def taken(body: bytes) -> list[tuple[Any, ...]] | None:
    """By the parser that knows everything; None for what is not all good."""
    with patch.object(arrow_plain, "columns_of", return_value=None):
        try:
            parsed = parse_arrow(body, EVENTS_MAX, BYTES_MAX)
        except ProblemError:
            return None
    return rows(parsed.events) if isinstance(parsed.events, Batch) and not parsed.errors else None


def taken_quickly(body: bytes) -> list[tuple[Any, ...]] | None:
    columns = arrow_plain.columns_of(body, EVENTS_MAX)
    return None if columns is None else rows(columns)


@st.composite
def plain(draw: st.DrawFn) -> bytes:
    """A stream of plain columns, mostly of good events."""
    events = draw(st.integers(1, 6))

    def column(values: st.SearchStrategy[Any], type_: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(values, min_size=events, max_size=events)), type_)

    columns = {name: column(NAMES, pa.string()) for name in ("user", "slug")}
    columns |= {
        name: column(TEXTS, pa.string()) for name in ("session", "id") if draw(st.booleans())
    }
    for name, types in (("at", NUMBERS), ("duration", NUMBERS), ("ts", TIMES)):
        if name == "at" or draw(st.booleans()):
            type_ = draw(st.sampled_from(sorted(types)))
            columns[name] = column(types[type_], pa.type_for_alias(type_))
    order = draw(st.permutations(sorted(columns)))
    return stream(pa.record_batch({name: columns[name] for name in order}))


@settings(max_examples=400)
@given(plain())
def test_what_is_taken_quickly_is_what_is_taken(body: bytes) -> None:
    quickly = taken_quickly(body)
    assert quickly is None or quickly == taken(body)


def good(events: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "user": f"user{n % 5}\u00e9",
            "slug": f"m{n % 3}",
            "at": n * 10.5,
            "session": f"s{n % 2}",
            "id": f"id-{n}",
            "ts": 1_700_000_000_000 + n,
            "duration": 600,
            "other": "x",
        }
        for n in range(events)
    ]


def test_plain_streams_are_taken_quickly() -> None:
    for body in (stream(batch(good())), stream(batch(good(500)).select(["at", "user", "slug"]))):
        quickly = taken_quickly(body)
        assert quickly is not None
        assert quickly == taken(body)


@pytest.mark.parametrize("type_", TEXT_TYPES[1:], ids=str)
def test_other_texts_are_left(type_: pa.DataType) -> None:
    assert taken_quickly(stream(batch(good(), type_))) is None


def test_what_is_unusual_is_left() -> None:
    columns = batch(good())
    nulls = batch([*good(3), {"user": "u", "slug": "m", "at": 1}])
    unusual = [
        stream(columns, columns),
        stream(columns.slice(0, 0)),
        stream(nulls),
        stream(columns, compression="lz4"),
        stream(columns, metadata_version=pa.ipc.MetadataVersion.V4),
        stream(columns.drop_columns(["slug"])),
        stream(columns) + b"\0",
        b"",
    ]
    assert [taken_quickly(body) for body in unusual] == [None] * len(unusual)
    assert arrow_plain.columns_of(stream(columns), 23) is None


def test_what_is_broken_is_taken_quickly_only_as_it_is_taken() -> None:
    bodies = [stream(batch(good())), stream(batch(good()).select(["at", "user", "slug"]))]
    for seed in range(BROKEN):
        chance = random.Random(seed)  # noqa: S311 - a reproducible one is what is wanted
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.choice([1, 1, 2, 3])):
            _change(body, chance)
        quickly = taken_quickly(bytes(body))
        assert quickly is None or quickly == taken(bytes(body)), f"seed {seed}"
