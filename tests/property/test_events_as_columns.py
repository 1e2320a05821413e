"""Events as columns: however they came, and wherever they are cut."""

import contextlib
import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.event import FEW_EVENTS, SECONDS_MAX, Event, Part, encode, to_batch
from aggregator.router import _split, shard_of
from api.arrow_intake import parse_arrow
from api.intake import parse_json
from api.warm_up import warm_up
from persistence.batch import NO_SESSIONS, OPTIONAL, Batch, BatchError, Encoded
from persistence.strings import Strings
from tests.arrow_streams import TEXT_TYPES, batch, stream


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    names = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True)
    tables = [draw(names), draw(names), draw(names | st.just([""]))]
    events = draw(st.integers(1, 8))

    def codes(table: list[str]) -> Any:
        drawn = draw(st.lists(st.integers(0, len(table) - 1), min_size=events, max_size=events))
        return np.array(drawn, np.int32)

    def numbers() -> Any:
        return np.array(draw(st.lists(INT64, min_size=events, max_size=events)), np.int64)

    optional = [numbers() if draw(st.booleans()) else None for _ in OPTIONAL]
    columns: list[Any] = [*map(Strings.of, tables), *map(codes, tables), numbers(), *optional]
    return Batch(*columns)


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    def values(column: Any, absent: int) -> list[int]:
        return [absent] * len(batch) if column is None else column.tolist()

    return list(
        zip(
            batch.users.take(batch.user).to_list(),
            batch.slugs.take(batch.slug).to_list(),
            batch.sessions.take(batch.session).to_list(),
            batch.at_ms.tolist(),
            values(batch.ts_ms, -1),
            values(batch.duration_ms, 0),
            values(batch.id_hash, 0),
            values(batch.key_hash, 0),
            strict=True,
        )
    )


REQUESTS = st.lists(
    st.builds(
        Part,
        st.lists(
            st.builds(
                Event,
                st.sampled_from(["u", "v", "ü"]),
                st.sampled_from(["m", "n"]),
                st.floats(0, SECONDS_MAX),
                st.none() | st.just("s"),
                st.none() | st.just("i"),
                st.none() | st.just(5.0),
                st.none() | st.just(7.0),
            )
            | st.builds(Event, st.text(min_size=1), st.text(min_size=1), st.floats(0, SECONDS_MAX)),
            min_size=1,
            max_size=FEW_EVENTS,
        ),
        st.none() | st.uuids().map(str),
    ),
    min_size=1,
    max_size=3,
)


@given(REQUESTS)
def test_a_few_events_are_encoded_as_many_are(parts: list[Part]) -> None:
    assert encode(parts) == to_batch(parts).encode()


@given(batches())
def test_a_batch_decodes_to_itself(batch: Batch) -> None:
    assert rows(Batch.decode(batch.encode())) == rows(batch)


@given(st.lists(batches(), min_size=1, max_size=4))
def test_batches_join_in_order(parts: list[Batch]) -> None:
    joined = Batch.concatenate(parts)
    assert rows(joined) == [row for part in parts for row in rows(part)]


@given(st.lists(batches(), min_size=1, max_size=4))
def test_encoded_batches_join_as_decoded_ones(parts: list[Batch]) -> None:
    joined = Encoded.join([Encoded.of(part.encode()) for part in parts])
    assert rows(joined) == rows(Batch.concatenate(parts))


def of_users(names: list[str], codes: Sequence[int]) -> Batch:
    user = np.array(codes, np.int32)
    zeros = np.zeros_like(user)
    tables = (Strings.of(names), Strings.of(["m"]), NO_SESSIONS)
    return Batch(*tables, user, zeros, zeros, zeros.astype(np.int64))


@pytest.mark.parametrize(
    "tables", [[["ana", "ben"], ["ben", ""], ["ana"]], [["ana"], [], ["ben"]], [[], []]]
)
def test_name_tables_join(tables: list[list[str]]) -> None:
    """Also empty ones, and with names that others have."""
    batches = [of_users(names, range(len(names))) for names in tables]
    joined = Encoded.join([Encoded.of(batch.encode()) for batch in batches])
    assert [joined.users[code] for code in joined.user] == list(chain.from_iterable(tables))


def test_what_nothing_needs_is_not_encoded() -> None:
    batch = of_users(["ana"], [0] * 100)
    with_sessions = replace(batch, sessions=Strings.of(["tv"]))
    assert len(batch.encode()) < len(with_sessions.encode()) - 4 * 100
    assert Batch.decode(batch.encode()).sessions == NO_SESSIONS
    joined = Encoded.join([Encoded.of(each.encode()) for each in (batch, with_sessions)])
    assert joined.sessions.take(joined.session).to_list() == [""] * 100 + ["tv"] * 100


@given(batches(), st.integers(0, 7))
def test_a_batch_decodes_wherever_it_lies(batch: Batch, before: int) -> None:
    """To arrays that kernels were compiled for: aligned, in one piece and read-only."""
    payload = memoryview(bytes(before) + batch.encode())[before:]
    others = Encoded.join([Encoded.of(payload)] * 2)
    for decoded in (Batch.decode(payload), others):
        for column in (decoded.user, decoded.at_ms, decoded.users.offsets, decoded.users.data):
            assert column.flags.aligned
            assert column.flags.c_contiguous
            assert not column.flags.writeable
    assert rows(others) == 2 * rows(batch)


def test_many_small_batches_after_a_large_one_join_in_little_memory() -> None:
    """All were compared with as many copies of the first one's names."""
    events = [Event(f"user-{number:08}", "m", 1.0) for number in range(20_000)]
    large, small = (Encoded.of(to_batch([Part(part)]).encode()) for part in (events, events[:1]))
    tracemalloc.start()
    joined = Encoded.join([large, *[small] * 2_000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(joined) == 22_000
    assert peak < 50 << 20


@pytest.mark.parametrize(
    ("column", "codes", "what"),
    [
        *(("user", [0, code], "a code has no name in users") for code in (2, -1, 2**31 - 1)),
        ("slug", [1, 0], "a code has no name in slugs"),
        ("session", [0, 1], "a code has no name in sessions"),
    ],
)
def test_a_code_without_a_name_is_refused(column: str, codes: list[int], what: str) -> None:
    """It would be another batch's name, or none at all."""
    good = replace(of_users(["ann", "bob"], [0, 1]), sessions=Strings.of(["tv"]))
    change: Any = {column: np.array(codes, np.int32)}
    bad = replace(good, **change)
    refused(bad, good, what)


@pytest.mark.parametrize(
    "offsets", [[1, 3, 6], [0, 3, 5], [0, 3, 7], [0, 7, 6], [0, -1, 6], [0, 2**31 - 1, 6]]
)
@pytest.mark.parametrize("table", ["users", "slugs", "sessions"])
def test_a_name_outside_its_table_is_refused(table: str, offsets: list[int]) -> None:
    names = Strings.of(["ann", "bob"])
    good = replace(of_users(["ann", "bob"], [0, 1]), slugs=names, sessions=names)
    change: Any = {table: Strings(np.array(offsets, np.int32), names.data)}
    bad = replace(good, **change)
    refused(bad, good, f"bad offsets of {table}")


def refused(bad: Batch, good: Batch, what: str) -> None:
    """Alone, and with others."""
    encoded = [Encoded.of(batch.encode()) for batch in (good, bad)]
    for batches in ([encoded[1]], encoded, encoded[::-1]):
        with pytest.raises(BatchError, match=what):
            Encoded.join(batches)


@given(batches(), st.data())
def test_bytes_that_are_no_batch_are_refused(batch: Batch, data: st.DataObject) -> None:
    encoded = bytearray(batch.encode())
    for cut in (encoded[:-1], encoded[:-8], encoded + bytes(8), encoded[:31], b""):
        with pytest.raises(BatchError):
            Encoded.of(bytes(cut))
    encoded[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BatchError):
        len(rows(Batch.decode(bytes(encoded))))


@given(batches(), st.randoms())
def test_a_batch_keeps_what_is_taken(batch: Batch, random: Any) -> None:
    mask = np.array([random.random() < 0.5 for _ in range(len(batch))], np.bool_)
    taken = batch.take(mask)
    assert rows(taken) == [row for row, kept in zip(rows(batch), mask, strict=True) if kept]
    assert set(taken.users) == {row[0] for row in rows(taken)}


@given(batches(), st.randoms())
def test_events_at_places_are_taken_in_that_order(whole: Batch, random: Any) -> None:
    places = [random.randrange(len(whole)) for _ in range(5)]
    taken = whole.take(np.array(places))
    assert rows(taken) == [rows(whole)[place] for place in places]


@given(batches(), st.integers(1, 5))
def test_a_shard_gets_the_events_of_its_users_in_order(whole: Batch, shards: int) -> None:
    split = _split(whole, shards)
    assert len(split) == len({shard_of(row[0], shards) for row in rows(whole)})
    for shard, part in split.items():
        assert isinstance(part, Batch)
        assert rows(part) == [row for row in rows(whole) if shard_of(row[0], shards) == shard]


NAMES = st.sampled_from(["u", "v", "é" * 128, "کاربر", "a b", "\xa0", "🎬"]) | st.text(max_size=3)
FLAWED_NAMES = st.sampled_from(["", "a\n", "\x7f", "\x85", "é" * 129, "x" * 257])
TAGS = st.sampled_from(["s", "t", "a\nb", "x" * 128]) | st.sampled_from(["", "é" * 65, "x" * 129])
SECONDS = st.integers(0, 20_000) | st.floats(0, 10_000_000) | st.sampled_from([-0.001, 1e7 + 1])
TIMES = st.integers(0, 2**53) | st.floats(0, 2**53) | st.sampled_from([-1, 2.0**54])
FIELDS = ("user", "slug", "at", "session", "id", "ts", "duration")
EVENTS = st.lists(
    st.tuples(
        *(NAMES | FLAWED_NAMES, NAMES | FLAWED_NAMES, SECONDS),
        *(st.none() | values for values in (TAGS, TAGS, TIMES, SECONDS)),
    ).map(lambda values: dict(zip(FIELDS, values, strict=True))),
    min_size=1,
    max_size=12,
)


@given(EVENTS, st.lists(st.integers(0, 12)), st.sampled_from(TEXT_TYPES), st.booleans())
def test_events_are_the_same_in_json_and_in_arrow(
    events: list[dict[str, Any]], cuts: list[int], type_: pa.DataType, deltas: bool
) -> None:
    """The same columns and errors, however the stream is cut into batches."""
    present = [{k: v for k, v in event.items() if v is not None} for event in events]
    of_json = parse_json(json.dumps(present).encode(), 100)
    whole = batch(events, type_, at=pa.float64(), ts=pa.float64(), duration=pa.float64())
    ends = sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})
    batches = [
        batch(events[start:end], type_, at=pa.float64(), ts=pa.float64(), duration=pa.float64())
        for start, end in pairwise(ends)
    ]
    for parts in ([whole], batches):
        of_arrow = parse_arrow(stream(*parts, emit_dictionary_deltas=deltas), 100, 1 << 20)
        assert of_arrow.errors == of_json.errors
        assert len(of_arrow.events) == len(of_json.events)
        if of_json.events:
            columns = to_batch([Part(of_arrow.events, "key")])
            assert rows(columns) == rows(to_batch([Part(of_json.events, "key")]))
            assert set(columns.users) == {row[0] for row in rows(columns)}


KEYS = [None, "a", "b", None, "c", "d"]


@given(EVENTS, st.lists(st.sampled_from(["list", "batch"]), min_size=1, max_size=6))
def test_lists_and_columns_join_in_order(events: list[dict[str, Any]], kinds: list[str]) -> None:
    """A frame may hold requests of both kinds, with and without keys."""
    body = json.dumps([{k: v for k, v in e.items() if v is not None} for e in events]).encode()
    good = parse_json(body, 100).events
    assert isinstance(good, list)
    parts = [
        Part(good[:number] if kind == "list" else to_batch([Part(good[:number])]), key)
        for number, (kind, key) in enumerate(zip(kinds, KEYS, strict=False), 1)
    ]
    as_lists = [Part(good[:number], part.key) for number, part in enumerate(parts, 1)]
    assert rows(to_batch(parts)) == rows(to_batch(as_lists))
