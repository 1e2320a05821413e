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
from itertools import chain
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

VERSION = 1
#: int64 columns that most batches lack; their order is their bit in the header.
OPTIONAL = ("ts_ms", "duration_ms", "id_hash", "key_hash")

_HEADER = struct.Struct("<BBHIIIII")


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
    def decode(cls, encoded: bytes | memoryview) -> Self:
        """Columns are read-only views of `encoded`; raises `BatchError`."""
        try:
            version, present, _, events, *table_bytes, _ = _HEADER.unpack_from(encoded)
            if version != VERSION:
                raise BatchError(f"batch version {version}, this playhead reads {VERSION}")
            reader = _Reader(encoded, events)
            at_ms = reader.column(np.int64)
            optional = {
                name: reader.column(np.int64)
                for bit, name in enumerate(OPTIONAL)
                if present & (1 << bit)
            }
            user, slug, session = (reader.column(np.int32) for _ in range(3))
            users, slugs, sessions = (reader.table(size) for size in table_bytes)
        except (struct.error, ValueError) as error:
            raise BatchError(f"not an encoded batch: {error}") from error
        return cls(users, slugs, sessions, user, slug, session, at_ms, **optional)

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
        for codes, table in (("user", "users"), ("slug", "slugs"), ("session", "sessions")):
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
                absent = -1 if name == "ts_ms" else 0
                columns[name] = np.concatenate(
                    [
                        np.full(len(batch), absent, np.int64) if part is None else part
                        for batch, part in zip(batches, parts, strict=True)
                    ]
                )
        return Batch(at_ms=np.concatenate([batch.at_ms for batch in batches]), **columns)


class _Reader:
    """Cuts columns and tables off the front of an encoded batch."""

    def __init__(self, encoded: bytes | memoryview, events: int) -> None:
        self._encoded = memoryview(encoded)
        self._events = events
        self._offset = _HEADER.size

    def column(self, dtype: type[np.generic]) -> NDArray[Any]:
        column = np.frombuffer(self._encoded, dtype, self._events, self._offset)
        self._offset += column.nbytes
        return column

    def table(self, size: int) -> list[str]:
        names: list[str] = orjson.loads(self._encoded[self._offset : self._offset + size])
        self._offset += size
        return names


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
