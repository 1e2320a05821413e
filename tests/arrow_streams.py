"""Arrow IPC streams for tests, good and broken.

`python -m tests.arrow_streams FIRST COUNT` parses broken ones in this process, a
seed each, and ends with 1 when one is not answered as it should be. It is run in
a process of its own, because what it looks for might end it.
"""

import io
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import pyarrow as pa

from aggregator.event import Part, to_batch
from api.arrow_intake import parse_arrow
from api.problems import ProblemError

TEXT_FIELDS = ("user", "slug", "session", "id")
#: All types that a column of strings may have, as far as they are handled differently.
TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint16(), pa.string_view()),
    pa.dictionary(pa.int32(), pa.large_string()),
    pa.dictionary(pa.uint64(), pa.string()),
]
EVENTS_MAX = 1000
BYTES_MAX = 1 << 20


def texts(values: Sequence[str | None], type_: pa.DataType) -> pa.Array:
    """An array of any of `TEXT_TYPES`."""
    if not pa.types.is_dictionary(type_):
        return pa.array(values, pa.string()).cast(type_)
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    indices = [None if value is None else distinct.index(value) for value in values]
    return pa.DictionaryArray.from_arrays(
        pa.array(indices, type_.index_type), pa.array(distinct, pa.string()).cast(type_.value_type)
    )


def batch(
    events: Sequence[dict[str, Any]], type_: pa.DataType | None = None, **types: pa.DataType
) -> pa.RecordBatch:
    """The events as columns, those that any has; texts of `type_`, others of `types`."""
    names = list(dict.fromkeys(name for event in events for name in event))
    columns = {}
    for name in names:
        values = [event.get(name) for event in events]
        if name in TEXT_FIELDS:
            columns[name] = texts(values, types.get(name, type_ or pa.string()))
        else:
            columns[name] = pa.array(values, types.get(name))
    return pa.record_batch(columns)


def stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    """An IPC stream; `options` are those of `pyarrow.ipc.IpcWriteOptions`."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(
        sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)
    ) as writer:
        for each in batches:
            writer.write_batch(each)
    return sink.getvalue()


def seeds() -> list[bytes]:
    """Streams of 24 events with every field, of each type of texts and way of writing."""
    numbers = {"at": pa.float64(), "ts": pa.int64(), "duration": pa.int32()}
    odd = {"at": pa.decimal128(20, 3), "ts": pa.timestamp("us", "UTC"), "duration": pa.float16()}
    coded = {"at": pa.dictionary(pa.int8(), pa.float32())}
    ways: list[dict[str, Any]] = [
        {},
        {"compression": "zstd"},
        {"compression": "lz4"},
        {"emit_dictionary_deltas": True},
        {"metadata_version": pa.ipc.MetadataVersion.V4, "use_legacy_format": True},
    ]
    found = []
    for number, type_ in enumerate(TEXT_TYPES):
        of_numbers = [numbers, numbers | odd, numbers | coded][number % 3]
        batches = [batch(_events(n), type_, **of_numbers) for n in (7, 17)]
        batches.insert(1, batches[0].slice(0, 0))
        found += [stream(*batches, **way) for way in ways]
    return found


def _events(count: int) -> list[dict[str, Any]]:
    return [
        {
            "user": f"user{n % 5}é",
            "slug": f"m{n % 3}",
            "at": n * 10,
            "session": None if n % 4 == 0 else f"s{n % 2}",
            "id": None if n % 3 == 0 else f"id{count}-{n}",
            "ts": None if n % 5 == 0 else 1_700_000_000_000_000 + n,
            "duration": None if n % 2 == 0 else 600,
            "extra": ["x"],
        }
        for n in range(count)
    ]


def broken(first: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Seeds, and streams that are cut, or have bytes, words or lengths of theirs changed."""
    good = seeds()
    for seed in range(first, first + count):
        chance = random.Random(seed)  # noqa: S311 - a reproducible one is what is wanted
        changed = bytearray(chance.choice(good))
        if chance.random() < 0.3:
            del changed[chance.randrange(len(changed)) :]
        for _ in range(chance.choice([0, 1, 1, 2, 3, 8, 30])):
            if len(changed) > 8:
                _change(changed, chance)
        yield seed, bytes(changed)


def _change(body: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(body) - 7)
    match chance.randrange(5):
        case 0:
            body[place] ^= 1 << chance.randrange(8)
        case 1:
            body[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        case 2:
            number = chance.choice([-1, 0, 1, 2**31 - 1, -(2**31), len(body), chance.randrange(99)])
            struct.pack_into("<i", body, place & ~3, number)
        case 3:
            number = chance.choice([-1, 0, 1, 2**63 - 1, -(2**63), 2**40, chance.randrange(9999)])
            struct.pack_into("<q", body, place & ~7, number)
        case 4:
            body[place : place + chance.randrange(9)] = chance.randbytes(chance.randrange(9))


def is_answered(body: bytes) -> bool:
    """Whether `body` is taken, or refused with a 400 or a 413; anything else is raised."""
    try:
        parsed = parse_arrow(body, EVENTS_MAX, BYTES_MAX)
    except ProblemError as problem:
        return problem.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if len(parsed.events):
        to_batch([Part(parsed.events, "key")]).encode()
    return len(parsed.events) + parsed.rejected <= EVENTS_MAX


def main() -> None:
    first, count = map(int, sys.argv[1:])
    for seed, body in broken(first, count):
        try:
            if is_answered(body):
                continue
        except Exception as error:
            raise SystemExit(f"seed {seed}: {error!r}") from error
        sys.exit(f"seed {seed}: neither taken nor refused as it should be")


if __name__ == "__main__":
    main()
