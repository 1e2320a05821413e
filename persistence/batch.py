"""A batch of events as columns, and its encoding.

The router encodes a batch once; the same bytes travel to the shard, are
appended to the log as they are, and are decoded once.

Encoding (little-endian):

    version u8 | optional columns present u8 | 0 u16 | events u32
    bytes of each name table: users u32, slugs u32, sessions u32 | 0 u32
    int64 columns, `events` long: at_ms, then those present of OPTIONAL
    int32 columns, `events` long: user, slug, session
    the name tables, each a JSON array of strings
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

VERSION = 1
#: int64 columns that most batches lack; their order is their bit in the header.
OPTIONAL = ("ts_ms", "duration_ms", "id_hash", "key_hash")

_HEADER = struct.Struct("<BBHIIIII")
#: Columns of codes, and the name tables that they are indexes into.
_TABLES = (("user", "users"), ("slug", "slugs"), ("session", "sessions"))
_DTYPES = dict.fromkeys(("at_ms", *OPTIONAL), np.dtype("<i8")) | {
    codes: np.dtype("<i4") for codes, _ in _TABLES
}
#: What an optional column has for an event that lacks it, where it is not 0.
_ABSENT = {"ts_ms": -1}
_ALL_PRESENT = (1 << len(OPTIONAL)) - 1


def _places(present: int) -> dict[str, tuple[int, int]]:
    """Where the columns begin and end if there is one event; with more, so many times later."""
    optional = [name for bit, name in enumerate(OPTIONAL) if present & (1 << bit)]
    names = ["at_ms", *optional, *(codes for codes, _ in _TABLES)]
    ends = list(accumulate(_DTYPES[name].itemsize for name in names))
    return dict(zip(names, pairwise([0, *ends]), strict=True))


_PLACES = [_places(present) for present in range(_ALL_PRESENT + 1)]
_EVENT_BYTES = [max(end for _, end in places.values()) for places in _PLACES]
_QUOTE = ord('"')
#: What stands between two names of a table, and of two tables.
_BETWEEN = {'","', '"]["'}


class BatchError(ValueError):
    """The bytes are not an encoded batch."""


@dataclass(slots=True)
class Batch:
    """Columns of one length; `user`, `slug` and `session` are indexes into the name tables.

    Milliseconds throughout. An optional column that no event needs is None.
    """

    users: list[str]
    slugs: list[str]
    #: "" is the nameless session; [""] when nothing in the batch names one.
    sessions: list[str]
    user: NDArray[np.int32]
    slug: NDArray[np.int32]
    session: NDArray[np.int32]
    at_ms: NDArray[np.int64]
    #: when it happened; -1 where the event does not say.
    ts_ms: NDArray[np.int64] | None = None
    #: the movie's length; 0 where the event does not say.
    duration_ms: NDArray[np.int64] | None = None
    #: of (user, id); 0 where the event has no id.
    id_hash: NDArray[np.int64] | None = None
    #: of (user, idempotency key of the request); 0 without one.
    key_hash: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.at_ms)

    def encode(self) -> bytes:
        tables = [orjson.dumps(names) for names in (self.users, self.slugs, self.sessions)]
        optional = [getattr(self, name) for name in OPTIONAL]
        present = sum(1 << bit for bit, column in enumerate(optional) if column is not None)
        header = _HEADER.pack(VERSION, present, 0, len(self), *map(len, tables), 0)
        columns = [self.at_ms, *optional, self.user, self.slug, self.session]
        return b"".join([header, *(c.tobytes() for c in columns if c is not None), *tables])

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> "Batch":
        """Columns are read-only views of `encoded`; raises `BatchError`."""
        return Encoded.of(encoded).decode()

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "Batch":
        """The events where a mask is true, or at these indexes, with only the names they use."""
        users, user = _compact(self.users, self.user[which])
        slugs, slug = _compact(self.slugs, self.slug[which])
        sessions, session = _compact(self.sessions, self.session[which])
        optional = {
            name: None if (column := getattr(self, name)) is None else column[which]
            for name in OPTIONAL
        }
        return Batch(users, slugs, sessions, user, slug, session, self.at_ms[which], **optional)

    @staticmethod
    def concatenate(batches: Sequence["Batch"]) -> "Batch":
        """All events in order, as one batch; name tables may repeat names."""
        if len(batches) == 1:
            return batches[0]
        columns: dict[str, Any] = {}
        for codes, table in _TABLES:
            tables = [getattr(batch, table) for batch in batches]
            parts = [getattr(batch, codes) for batch in batches]
            if all(names == tables[0] for names in tables):
                columns[table], columns[codes] = tables[0], np.concatenate(parts)
                continue
            starts = np.cumsum([0, *map(len, tables[:-1])], dtype=np.int32)
            columns[table] = list(chain.from_iterable(tables))
            columns[codes] = np.concatenate(parts) + np.repeat(starts, list(map(len, parts)))
        for name in OPTIONAL:
            parts = [getattr(batch, name) for batch in batches]
            if any(part is not None for part in parts):
                absent = _ABSENT.get(name, 0)
                columns[name] = np.concatenate(
                    [
                        np.full(len(batch), absent, np.int64) if part is None else part
                        for batch, part in zip(batches, parts, strict=True)
                    ]
                )
        return Batch(at_ms=np.concatenate([batch.at_ms for batch in batches]), **columns)


@dataclass(slots=True)
class Encoded:
    """An encoded batch whose parts are known by where they are."""

    encoded: memoryview
    events: int
    present: int
    #: Where the name tables begin, and end.
    tables: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.events

    @classmethod
    def of(cls, encoded: bytes | memoryview) -> "Encoded":
        """Raises `BatchError`."""
        try:
            version, present, _, events, users, slugs, sessions, _ = _HEADER.unpack_from(encoded)
        except struct.error as error:
            raise BatchError(f"not an encoded batch: {error}") from error
        if version != VERSION:
            raise BatchError(f"batch version {version}, this playhead reads {VERSION}")
        present &= _ALL_PRESENT
        start = _HEADER.size + events * _EVENT_BYTES[present]
        tables = (start, start + users, start + users + slugs, start + users + slugs + sessions)
        if len(encoded) < tables[-1]:
            raise BatchError("not an encoded batch: it is cut short")
        return cls(memoryview(encoded), events, present, tables)

    def column(self, name: str) -> memoryview | None:
        """The bytes of a column; None if it is not there."""
        place = _PLACES[self.present].get(name)
        if place is None:
            return None
        start, end = place
        events = self.events
        return self.encoded[_HEADER.size + events * start : _HEADER.size + events * end]

    def table(self, number: int) -> memoryview:
        return self.encoded[self.tables[number] : self.tables[number + 1]]

    def decode(self) -> Batch:
        """Columns are read-only views; raises `BatchError`."""
        try:
            users, slugs, sessions = (orjson.loads(self.table(number)) for number in range(3))
        except ValueError as error:
            raise BatchError(f"not an encoded batch: {error}") from error
        columns: dict[str, Any] = {
            name: np.frombuffer(column, dtype)
            for name, dtype in _DTYPES.items()
            if (column := self.column(name)) is not None
        }
        return Batch(users, slugs, sessions, **columns)

    @staticmethod
    def join(batches: Sequence["Encoded"]) -> Batch:
        """All events in order, as one batch, without decoding each; raises `BatchError`."""
        if len(batches) == 1:
            return batches[0].decode()
        lengths = [batch.events for batch in batches]
        columns: dict[str, Any] = {
            name: _join_columns(name, batches)
            for name in ("at_ms", *OPTIONAL)
            if any(name in _PLACES[present] for present in {batch.present for batch in batches})
        }
        for number, (codes, table) in enumerate(_TABLES):
            try:
                names = _JoinedNames.of([batch.table(number) for batch in batches])
            except ValueError as error:
                raise BatchError(f"not an encoded batch: {error}") from error
            code = _join_columns(codes, batches)
            if not names.have(code, lengths):
                raise BatchError(f"not an encoded batch: a code has no name in {table}")
            if names.code is not None:
                code = names.code.take(code + names.starts.repeat(lengths))
            columns[table], columns[codes] = names.names, code
        return Batch(**columns)


def _join_columns(name: str, batches: Sequence[Encoded]) -> NDArray[Any]:
    absent = np.array([_ABSENT.get(name, 0)], _DTYPES[name]).tobytes()
    parts = [
        absent * batch.events if (part := batch.column(name)) is None else part for batch in batches
    ]
    return np.frombuffer(b"".join(parts), _DTYPES[name])


@dataclass(slots=True)
class _JoinedNames:
    """The names of several name tables."""

    names: list[str]
    #: Of each name of each table its index in `names`; None if all tables are equal.
    code: NDArray[np.int32] | None
    #: Where each table's names begin in `code`.
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, tables: Sequence[memoryview]) -> "_JoinedNames":
        """Raises `ValueError` for what is not JSON."""
        joined = b"".join(tables)
        size = len(tables[0]) * len(tables)  # seen first: the copies may be far larger than all
        if len(joined) == size and joined == bytes(tables[0]) * len(tables):
            return cls(orjson.loads(tables[0]), None, np.zeros(0, np.intp))
        starts = np.cumsum([0, *map(len, tables[:-1])])
        return cls._cut(joined, starts) or cls._parse(tables)

    def have(self, codes: NDArray[Any], lengths: Sequence[int]) -> bool:
        """Whether each of the codes, so many a table, is one of a name of its own table."""
        if not len(codes):
            return True
        if self.code is None:
            return bool(codes.min() >= 0 and codes.max() < len(self.names))
        sizes = np.diff(self.starts, append=len(self.code))
        return bool(((codes >= 0) & (codes < sizes.repeat(lengths))).all())

    @classmethod
    def _cut(cls, joined: bytes, starts: NDArray[np.intp]) -> "_JoinedNames | None":
        """By the quotes alone, several times as fast as by parsing; None where that may fail."""
        quotes = (np.frombuffer(joined, np.uint8) == _QUOTE).nonzero()[0]
        first = quotes.searchsorted(starts)
        if b"\\" in joined or len(quotes) % 2 or not joined.endswith(b'"]'):
            return None
        if first[-1] == len(quotes) or (quotes[first] != starts + 1).any():
            return None
        # Every other piece is a name; those between them have the quotes around.
        bounds = quotes.astype(np.int32)
        bounds[0::2] += 1
        pieces = pa.StringArray.from_buffers(
            len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(joined)
        ).dictionary_encode()
        code = pieces.indices.to_numpy()
        is_between = np.zeros(len(pieces.dictionary), np.bool_)
        is_between[code[1::2]] = True
        distinct = pieces.dictionary.to_pylist()
        if not {distinct[at] for at in is_between.nonzero()[0].tolist()} <= _BETWEEN:
            return None
        place = (~is_between).cumsum(dtype=np.int32) - 1
        names = [
            name for name, is_none in zip(distinct, is_between.tolist(), strict=True) if not is_none
        ]
        return cls(names, place.take(code[0::2]), first // 2)

    @classmethod
    def _parse(cls, tables: Sequence[memoryview]) -> "_JoinedNames":
        lists = [orjson.loads(table) for table in tables]
        codes: dict[str, int] = {}
        code = [codes.setdefault(name, len(codes)) for names in lists for name in names]
        starts = np.cumsum([0, *map(len, lists[:-1])])
        return cls(list(codes), np.array(code, np.int32), starts)


def compact(codes: NDArray[Any], names: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Which of so many names the codes use, in order, and the codes among these alone."""
    is_used = np.zeros(names, np.bool_)
    is_used[codes] = True
    used = np.flatnonzero(is_used)
    place = np.empty(names, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return used, place[codes]


def _compact(names: list[str], codes: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int32]]:
    used, compacted = compact(codes, len(names))
    return [names[code] for code in used.tolist()], compacted
