"""Arrow streams: the same events and errors as in JSON, and nothing that brings a worker down."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aggregator.event import Part, to_batch
from api import arrow_intake, arrow_stream
from api.intake import Parsed, parse_json
from api.problems import ERRORS_LISTED_MAX, FieldError, ProblemError
from persistence.batch import Batch
from tests.arrow_streams import (
    BYTES_MAX,
    EVENTS_MAX,
    TEXT_FIELDS,
    TEXT_TYPES,
    batch,
    stream,
    texts,
)
from tests.unit.test_intake import DELETE, FLAWS, GOOD, VALID, changed

EVERY_TEXT_TYPE = pytest.mark.parametrize("type_", TEXT_TYPES, ids=str)
MINIMAL = pa.schema([("user", pa.string()), ("slug", pa.string()), ("at", pa.float64())])


def parse_arrow(body: bytes) -> Parsed:
    return arrow_intake.parse_arrow(body, EVENTS_MAX, BYTES_MAX)


def batch_of(parsed: Parsed) -> Batch:
    assert isinstance(parsed.events, Batch)
    return parsed.events


def taken(column: str, values: pa.Array) -> list[int]:
    """The milliseconds of a column of numbers, in otherwise good events."""
    columns = {"user": ["u"] * len(values), "slug": ["m"] * len(values), "at": [0] * len(values)}
    parsed = parse_arrow(stream(pa.record_batch(columns | {column: values})))
    assert parsed.errors == []
    numbers: list[int] = getattr(batch_of(parsed), f"{column}_ms").tolist()
    return numbers


def refusal(body: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        parse_arrow(body)
    return refused.value


def can_be_in_a_column(change: dict[str, Any]) -> bool:
    return all(
        value is DELETE
        or (value is None and name not in GOOD)
        or (name in TEXT_FIELDS and isinstance(value, str))
        or (name not in TEXT_FIELDS and type(value) in (int, float) and value != 10**30)
        for name, value in change.items()
    )


# The same as JSON


@EVERY_TEXT_TYPE
@pytest.mark.parametrize(
    "change", [change for change, _ in FLAWS if can_be_in_a_column(change)], ids=repr
)
def test_a_flaw_has_the_words_that_it_has_in_json(
    type_: pa.DataType, change: dict[str, Any]
) -> None:
    events = [GOOD, changed(change), GOOD]
    of_json = parse_json(json.dumps(events).encode(), EVENTS_MAX)
    of_arrow = parse_arrow(stream(batch([{**event, "x": 1} for event in events], type_)))
    assert of_arrow.errors == of_json.errors
    assert len(of_arrow.errors) == of_arrow.rejected == 1
    assert len(batch_of(of_arrow)) == 2


@EVERY_TEXT_TYPE
@pytest.mark.parametrize(
    "event", [{k: v for k, v in changed(change).items() if k != "player"} for change in VALID]
)
def test_what_is_valid_in_json_is_valid(type_: pa.DataType, event: dict[str, Any]) -> None:
    of_arrow = parse_arrow(stream(batch([event], type_)))
    assert of_arrow.errors == []
    taken = batch_of(of_arrow)
    wanted = to_batch([Part(parse_json(json.dumps([event]).encode(), 1).events)])
    assert (taken.users, taken.slugs, taken.sessions) == (
        wanted.users,
        wanted.slugs,
        wanted.sessions,
    )
    for name in ("at_ms", "ts_ms", "duration_ms", "id_hash"):
        assert np.array_equal(getattr(taken, name), getattr(wanted, name)), name


def test_the_first_flaw_of_an_event_is_the_one_that_json_names() -> None:
    events: list[dict[str, Any]] = [
        {"user": "", "slug": "a\n", "at": -1},
        {"user": "a\n", "slug": "", "at": 1},
        {"user": "é" * 200, "slug": "a\n", "at": 1},
        {"user": "u", "slug": "m", "at": 100, "id": "é" * 100, "duration": 5},
        {"user": "u", "slug": "m", "at": 100, "ts": -1, "duration": 5},
        {"slug": "m", "at": -5},
        {"user": "u"},
        {},
    ]
    expected = parse_json(json.dumps(events).encode(), EVENTS_MAX).errors
    assert len(expected) == len(events)
    fields = ("user", "slug", "at", "session", "id", "ts", "duration")
    columns = {name: [event.get(name) for event in events] for name in fields}
    backwards = dict(reversed(columns.items()))
    for order in (columns, backwards):
        assert parse_arrow(stream(pa.record_batch(order))).errors == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["at", "ts", "duration"])
def test_what_json_has_no_number_for_is_a_flaw(field: str, value: float) -> None:
    events = [GOOD | {field: 1.0}, GOOD | {field: value}]
    parsed = parse_arrow(stream(batch(events)))
    assert parsed.errors == [FieldError(1, field, "is not a finite number")]
    assert len(batch_of(parsed)) == 1


# Columns


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64()),
        *(pa.decimal32(9, 3), pa.decimal64(18, 3), pa.decimal128(38, 10), pa.decimal256(76, 3)),
        pa.dictionary(pa.int8(), pa.float32()),
    ],
    ids=str,
)
def test_numbers_are_of_any_type(type_: pa.DataType) -> None:
    values = pa.array([None, 0, 2, 100, 7], pa.float64())
    column = values.dictionary_encode() if pa.types.is_dictionary(type_) else values.cast(type_)
    assert taken("ts", column) == [-1, 0, 2, 100, 7]
    assert taken("at", column[1:]) == [0, 2000, 100_000, 7000]
    assert taken(
        "duration",
        pa.array([None, 1], pa.float64()).cast(
            type_.value_type if pa.types.is_dictionary(type_) else type_
        ),
    ) == [0, 1000]


def test_decimals_are_what_they_look_like() -> None:
    texts_ = [f"{n}.{n % 10000:04}" for n in range(0, 900_000, 997)]
    at = taken("at", pa.array(map(Decimal, texts_), pa.decimal128(20, 6)))
    assert at == [round(float(text) * 1000) for text in texts_]
    assert taken("at", pa.array([Decimal(4500)], pa.decimal128(9, -2))) == [4_500_000]


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tehran"])
@pytest.mark.parametrize(
    ("unit", "given", "expected"),
    [
        ("s", [None, 0, 1_700_000_000], [-1, 0, 1_700_000_000_000]),
        ("ms", [None, 0, 1_700_000_000_123], [-1, 0, 1_700_000_000_123]),
        ("us", [499, 500, 501, 1500, 2500, 10**15 + 1500], [0, 0, 1, 2, 2, 10**12 + 2]),
        ("ns", [500_000, 500_001, 1_500_000, 10**18 + 500_001], [0, 1, 2, 10**12 + 1]),
    ],
)
def test_timestamps_are_unix_milliseconds(
    unit: str, given: list[int | None], expected: list[int], zone: str | None
) -> None:
    assert taken("ts", pa.array(given, pa.timestamp(unit, zone))) == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_before_1970_or_too_late_is_a_flaw(unit: str) -> None:
    extremes = pa.array([-1_000_000, 1, -(2**63), 2**63 - 1], pa.timestamp(unit))
    columns = {"user": ["u"] * 4, "slug": ["m"] * 4, "at": [0] * 4, "ts": extremes}
    errors = parse_arrow(stream(pa.record_batch(columns))).errors
    flaws = [(error.index, error.message.split()[2]) for error in errors]
    assert flaws[:2] == [(0, ">="), (2, ">=")]
    assert flaws[2:] == ([] if unit == "ns" else [(3, "<=")])


@EVERY_TEXT_TYPE
def test_names_are_those_that_are_used(type_: pa.DataType) -> None:
    """A user of a dictionary who has no event is no user."""
    names = texts(["u", "v", "w", None], type_)
    columns = {"user": names, "slug": names, "at": [1, -1, 2, 3], "session": names}
    parsed = parse_arrow(stream(pa.record_batch(columns).slice(1, 3)))
    assert [error.index for error in parsed.errors] == [0, 2]
    events = batch_of(parsed)
    assert [table.to_list() for table in (events.users, events.slugs, events.sessions)] == [
        ["w"]
    ] * 3


def test_a_dictionary_may_have_nulls_equal_texts_and_unused_nonsense() -> None:
    names = pa.array(["u", None, "u", "", "a\n", "x" * 1000])
    user = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None], pa.int8()), names)
    columns = {"user": user, "slug": ["m"] * 4, "at": [1] * 4, "session": user}
    parsed = parse_arrow(stream(pa.record_batch(columns)))
    assert parsed.errors == [FieldError(index, "user", "is missing") for index in (1, 3)]
    events = batch_of(parsed)
    assert [events.users[code] for code in events.user] == ["u", "u"]
    assert [events.sessions[code] for code in events.session] == ["u", "u"]


_FIRST_AND_LAST = pa.py_buffer(bytes([0b101]))


def _string_under_null() -> pa.Array:
    ends = np.array([0, 1, 9001, 9021], np.int32)
    content = b"s" + b"\xff" * 9000 + b"t" * 20
    return pa.Array.from_buffers(
        pa.string(), 3, [_FIRST_AND_LAST, pa.py_buffer(ends), pa.py_buffer(content)]
    )


def _view_under_null() -> pa.Array:
    _, views, content = pa.array(["s", "", "t" * 20], pa.string_view()).buffers()
    changed = bytearray(views.to_pybytes())
    struct.pack_into("<iiii", changed, 16, 2**31 - 1, 0, 2**30, 2**31 - 1)
    buffers = [_FIRST_AND_LAST, pa.py_buffer(bytes(changed)), content]
    return pa.Array.from_buffers(pa.string_view(), 3, buffers)


def _index_under_null() -> pa.Array:
    indices = np.array([0, 10**9, 1], np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), 3, [_FIRST_AND_LAST, pa.py_buffer(indices)]),
        pa.array(["s", "t" * 20]),
        safe=False,
    )


@pytest.mark.parametrize("make", [_string_under_null, _view_under_null, _index_under_null])
@pytest.mark.parametrize("coded", [False, True])
def test_what_is_under_a_null_does_not_matter(make: Callable[[], pa.Array], coded: bool) -> None:
    """A view under a null once led Arrow to memory that was not there."""
    session = make()
    if coded and not pa.types.is_dictionary(session.type):
        session = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), session)
    columns = {"user": ["u"] * 3, "slug": ["m"] * 3, "at": [1] * 3, "session": session}
    events = batch_of(parse_arrow(stream(pa.record_batch(columns))))
    assert [events.sessions[code] for code in events.session] == ["s", "", "t" * 20]


def test_columns_that_are_all_null_are_missing_values() -> None:
    nulls = {name: pa.nulls(2) for name in ("session", "id", "ts", "duration")}
    columns = {"user": ["u", "v"], "slug": ["m", "m"], "at": [1, 2]} | nulls
    events = batch_of(parse_arrow(stream(pa.record_batch(columns))))
    assert events.sessions.take(events.session).to_list() == ["", ""]
    assert (events.ts_ms, events.duration_ms, events.id_hash) == (None, None, None)
    parsed = parse_arrow(stream(pa.record_batch(columns | {"at": pa.nulls(2)})))
    assert parsed.errors == [FieldError(index, "at", "is missing") for index in (0, 1)]
    assert len(parsed.events) == 0


def test_other_columns_are_ignored_wherever_they_are() -> None:
    others = {
        "nested": [[{"user": ["x"]}]],
        "coded": pa.array([["x"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    }
    columns = others | {"at": [1.5], "x": ["a"], "slug": ["m"], "User": ["no"], "user": ["u"]}
    events = batch_of(parse_arrow(stream(pa.record_batch(columns))))
    assert (events.users[0], events.slugs[0], events.at_ms.tolist()) == ("u", "m", [1500])


# Several batches


@EVERY_TEXT_TYPE
@pytest.mark.parametrize("deltas", [False, True])
def test_an_index_counts_over_all_batches(type_: pa.DataType, deltas: bool) -> None:
    """Also when dictionaries are replaced between batches, or grow."""
    events = [{"user": f"u{n // 2}", "slug": f"m{n % 3}", "at": 10 * n} for n in range(12)]
    events[7]["at"] = -1
    events[11]["user"] = ""
    names = texts([f"u{n}" for n in range(6)] + [""], type_)
    parts = [batch(events[start:end], type_) for start, end in ((0, 1), (1, 8), (8, 12))]
    if deltas and pa.types.is_dictionary(type_):
        grown = (names.dictionary[:1], names.dictionary[:4], names.dictionary)
        for number, (part, known) in enumerate(zip(parts, grown, strict=True)):
            users = pa.DictionaryArray.from_arrays(
                pa.array([known.to_pylist().index(user) for user in part["user"].to_pylist()]).cast(
                    type_.index_type
                ),
                known,
            )
            parts[number] = part.set_column(0, "user", users)
    empty = parts[0].slice(0, 0)
    body = stream(empty, parts[0], empty, parts[1], parts[2], empty, emit_dictionary_deltas=deltas)
    parsed = parse_arrow(body)
    assert [(error.index, error.field) for error in parsed.errors] == [(7, "at"), (11, "user")]
    taken = batch_of(parsed)
    good = [event for n, event in enumerate(events) if n not in (7, 11)]
    assert [taken.users[code] for code in taken.user] == [event["user"] for event in good]
    assert [taken.slugs[code] for code in taken.slug] == [event["slug"] for event in good]
    assert taken.at_ms.tolist() == [1000 * int(str(event["at"])) for event in good]


def test_a_dictionary_that_stays_is_looked_at_once() -> None:
    user = pa.array(["u", "v", "u"]).dictionary_encode()
    columns = {"user": user, "slug": ["m"] * 3, "at": [1.0] * 3}
    whole = pa.record_batch(columns)
    events = batch_of(parse_arrow(stream(*(whole.slice(n, 1) for n in range(3)))))
    assert events.users.to_list() == ["u", "v"]


def test_errors_are_counted_and_the_first_are_listed() -> None:
    events = [GOOD | {"at": -1 if n % 2 else 1} for n in range(500)]
    parsed = parse_arrow(stream(batch(events)))
    assert parsed.rejected == len(batch_of(parsed)) == 250
    assert [error.index for error in parsed.errors] == list(range(1, 2 * ERRORS_LISTED_MAX, 2))


def test_no_events_are_fine() -> None:
    assert parse_arrow(stream(batch([GOOD]).slice(0, 0))) == Parsed([], [])
    assert parse_arrow(MINIMAL.serialize().to_pybytes()) == Parsed([], [])


# What is refused


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_column_is_named(field: str) -> None:
    events = batch([GOOD])
    refused = refusal(stream(events.drop_columns([field])))
    assert refused.status == HTTPStatus.BAD_REQUEST
    assert refused.detail.startswith(f"There is no column {field},")


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("user", pa.array([1])),
        ("user", pa.array([b"u"])),
        ("slug", pa.array([["m"]])),
        ("slug", pa.array([1]).dictionary_encode()),
        ("session", pa.array([True])),
        ("id", pa.array([b"0123456789abcdef"], pa.uuid())),
        ("at", pa.array(["1"])),
        ("at", pa.array([True])),
        ("at", pa.array(["1"]).dictionary_encode()),
        ("at", pa.array([1], pa.timestamp("ms"))),
        ("at", pa.array([1], pa.duration("s"))),
        ("ts", pa.array([1], pa.date32())),
        ("ts", pa.array(["2026-01-01"])),
        ("duration", pa.array([{"s": 1}])),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_column_of_a_wrong_type_is_named(field: str, column: pa.Array) -> None:
    columns: dict[str, Any] = {"user": ["u"], "slug": ["m"], "at": [1]}
    refused = refusal(stream(pa.record_batch(columns | {field: column})))
    assert refused.status == HTTPStatus.BAD_REQUEST
    assert refused.detail.startswith(f"The column {field} is of type ")


def test_a_column_that_is_there_twice_is_named() -> None:
    arrays = [pa.array(["u"]), pa.array(["m"]), pa.array([1]), pa.array(["v"])]
    body = stream(pa.record_batch(arrays, names=["user", "slug", "at", "user"]))
    assert refusal(body).detail == "The column user is given more than once"


GOOD_STREAM = stream(batch([GOOD] * 5))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"[]", b'[{"user":"u","slug":"m","at":1}]', b"\xff" * 8, b"\xff" * 100),
        *(GOOD_STREAM[:cut] for cut in (3, 7, 50, -9, -20)),
        *(GOOD_STREAM + GOOD_STREAM, GOOD_STREAM + b"\n"),
        b"ARROW1\0\0" + GOOD_STREAM,
    ],
    ids=lambda body: repr(body[:20]) + str(len(body)),
)
def test_what_is_no_stream_is_refused_whole(body: bytes) -> None:
    assert refusal(body).status == HTTPStatus.BAD_REQUEST


@EVERY_TEXT_TYPE
@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_text_that_is_not_utf8_is_refused(type_: pa.DataType, field: str) -> None:
    events = [GOOD | {"session": "s", "id": "i"} | {field: "look-here"}]
    body = stream(batch(events, type_))
    assert parse_arrow(body).errors == []
    refused = refusal(body.replace(b"look-here", b"look-\xffere"))
    assert refused.status == HTTPStatus.BAD_REQUEST
    assert "UTF8" in refused.detail


@pytest.mark.parametrize("index", [2, 127, -1, -128])
def test_an_index_outside_its_dictionary_is_refused(index: int) -> None:
    for values, field in ((pa.array(["u", "v"]), "user"), (pa.array([1.0, 2.0]), "at")):
        indices = pa.array([0, index], pa.int8())
        column = pa.DictionaryArray.from_arrays(indices, values, safe=False)
        columns = {"user": ["u"] * 2, "slug": ["m"] * 2, "at": [1, 2]} | {field: column}
        refused = refusal(stream(pa.record_batch(columns)))
        assert refused.status == HTTPStatus.BAD_REQUEST
        assert "an index lies outside its dictionary" in refused.detail


# Bounds


def test_too_many_events_are_refused_before_they_are_read() -> None:
    schema = pa.schema([(name, pa.null()) for name in GOOD])
    for rows in (EVENTS_MAX + 1, 2**31 - 1):
        nulls = [pa.Array.from_buffers(pa.null(), rows, [None])] * 3
        refused = refusal(stream(pa.record_batch(nulls, schema=schema)))
        assert refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    halves = batch([GOOD] * (EVENTS_MAX // 2 + 1))
    assert refusal(stream(halves, halves)).status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_taken_up_to_a_bound(compression: str) -> None:
    events = batch([GOOD] * 500)
    assert len(parse_arrow(stream(events, compression=compression)).events) == 500
    names = pa.record_batch(
        {"user": ["u"], "slug": ["m"], "at": [1], "x": ["x" * (BYTES_MAX // 2)]}
    )
    assert len(parse_arrow(stream(names, compression=compression)).events) == 1
    refused = refusal(stream(names, names, names, compression=compression))
    assert refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "inflates" in refused.detail


@pytest.mark.parametrize(
    ("size", "status"),
    [(2**40, 413), (2**63 - 1, 413), (-2, 400), (-(2**63), 400), (0, 400), (1, 400)],
)
def test_a_size_that_is_not_true_is_found_out(size: int, status: int) -> None:
    body = bytearray(stream(batch([GOOD] * 500), compression="zstd"))
    start = body.index(b"\x28\xb5\x2f\xfd")  # of a ZSTD frame; its size is before it
    struct.pack_into("<q", body, start - 8, size)
    assert refusal(bytes(body)).status == status


def test_compression_from_before_the_format_had_it_is_refused() -> None:
    sink = pa.BufferOutputStream()
    events = batch([GOOD])
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_stream(sink, events.schema, options=options) as writer:
        metadata = {"ARROW:experimental_compression": "zstd"}
        writer.write_batch(events, custom_metadata=metadata)
    assert "Compression of this kind" in refusal(sink.getvalue().to_pybytes()).detail


def _views_of_one_text(count: int, length: int) -> pa.Array:
    views = np.zeros((count, 4), np.int32)
    views[:, 0], views[:, 1] = length, int.from_bytes(b"xxxx", "little")
    content = [None, pa.py_buffer(views), pa.py_buffer(b"x" * length)]
    return pa.Array.from_buffers(pa.string_view(), count, content)


@pytest.mark.parametrize("coded", [False, True])
def test_many_views_of_one_long_text_are_refused(coded: bool) -> None:
    """Looking at each would take minutes."""
    user = _views_of_one_text(EVENTS_MAX, BYTES_MAX // 2)
    if coded:
        user = pa.DictionaryArray.from_arrays(pa.array(range(EVENTS_MAX), pa.int32()), user)
    columns = {"user": user, "slug": ["m"] * EVENTS_MAX, "at": [1] * EVENTS_MAX}
    refused = refusal(stream(pa.record_batch(columns)))
    assert refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "texts" in refused.detail


def test_views_are_counted_over_all_batches() -> None:
    user = _views_of_one_text(100, BYTES_MAX // 500)
    events = pa.record_batch({"user": user, "slug": ["m"] * 100, "at": [1] * 100})
    assert parse_arrow(stream(*[events] * 5)).rejected == 500
    assert "texts" in refusal(stream(*[events] * 6)).detail


def test_a_long_text_that_many_events_have_is_no_name() -> None:
    user = pa.DictionaryArray.from_arrays(
        pa.array([0] * EVENTS_MAX, pa.int8()), pa.array(["x" * (BYTES_MAX // 2)])
    )
    columns = {"user": user, "slug": ["m"] * EVENTS_MAX, "at": [1] * EVENTS_MAX}
    parsed = parse_arrow(stream(pa.record_batch(columns)))
    assert parsed.rejected == EVENTS_MAX
    assert parsed.errors[0] == FieldError(0, "user", "expected string of length <= 256")


def test_buffers_that_lie_on_each_other_are_refused() -> None:
    """Each might be copied, and there may be very many."""
    body = stream(batch([{"user": "u", "slug": "m", "at": 1.0}] * 100))
    places = {
        length: [place for start in range(8, 4096, 8) if (place := _place(start, length)) in body]
        for length in (100, 800)
    }
    (_, of_slugs), (of_at,) = places[100], places[800]
    assert "lie on each other" in refusal(body.replace(of_slugs, of_at)).detail


def _place(start: int, length: int) -> bytes:
    """Where a buffer is, as a message's metadata say it."""
    return struct.pack("<qq", start, length)


def test_batches_and_copies_of_dictionaries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "MESSAGES_MAX", 20)
    one = batch([GOOD])
    assert len(parse_arrow(stream(*[one] * 20)).events) == 20
    assert refusal(stream(*[one] * 21)).status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    monkeypatch.undo()
    monkeypatch.setattr(arrow_stream, "DICTIONARY_COPIES_MAX", 1)
    names = [f"{n:0250}" for n in range(200)]
    growing = []
    for n in range(150, 200):
        user = pa.DictionaryArray.from_arrays(pa.array([0], pa.int16()), pa.array(names[:n]))
        growing.append(pa.record_batch({"user": user, "slug": ["m"], "at": [1]}))
    assert len(parse_arrow(stream(*growing[:15], emit_dictionary_deltas=True)).events) == 15
    refused = refusal(stream(*growing, emit_dictionary_deltas=True))
    assert "grow too often" in refused.detail


def test_no_broken_stream_makes_it_fail_otherwise() -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.arrow_streams", "0", "4000"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
