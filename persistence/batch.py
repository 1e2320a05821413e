"""A batch of events as columns, and its encoding.

The router encodes a batch once; the same bytes travel to the shard, are
appended to the log as they are, and are used there without being taken apart.

Encoding (little-endian):

    version u8 | which columns there are u8 | 0 u16 | events u32
    names in each table: users u32, slugs u32, sessions u32
    bytes of each table: users u32, slugs u32, sessions u32
    int64 columns, `events` long: at_ms, then those there are of OPTIONAL
    int32 columns, `events` long: user, slug, and session if there is one
    int32 offsets of each table, one more than it has names
    the bytes of each table: its names, one after the other, in UTF-8
    0 to 7 bytes of 0, up to a multiple of 8

A name is what lies between two offsets of its table. Nothing is there of sessions
when no event has one.
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, count, islice, pairwise
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import batches as kernels
from kernels.compiler import frozen
from persistence.strings import Strings

VERSION = 2
#: int64 columns that most batches lack; their order is their bit in the header.
OPTIONAL = ("ts_ms", "duration_ms", "id_hash", "key_hash")

_HEADER = struct.Struct("<BBHIIIIIII")
_HAS_SESSIONS = 1 << len(OPTIONAL)
_HASHES = sum(1 << OPTIONAL.index(name) for name in ("id_hash", "key_hash"))
#: Columns of codes, and the name tables that they are indexes into.
_CODES = ("user", "slug", "session")
_TABLES = ("users", "slugs", "sessions")
#: The int64 columns, and what each has for an event that lacks it.
_ABSENT = {"at_ms": 0, "ts_ms": -1, "duration_ms": 0, "id_hash": 0, "key_hash": 0}
#: A multiple of it is also one of the size of each number.
_ALIGNMENT_BYTES = 8


#: The table of sessions when nothing names one.
NO_SESSIONS = Strings.of([""])


class BatchError(ValueError):
    """The bytes are not an encoded batch."""


@dataclass(slots=True)
class Batch:
    """Columns of one length; `user`, `slug` and `session` are indexes into the name tables.

    Milliseconds throughout. An optional column that no event needs is None. All arrays
    are read-only from then on.
    """

    users: Strings
    slugs: Strings
    #: "" is the nameless session, and the only one when nothing in the batch names one.
    sessions: Strings
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

    def __post_init__(self) -> None:
        for column in (self.user, self.slug, self.session, self.at_ms):
            column.setflags(write=False)
        for optional in (self.ts_ms, self.duration_ms, self.id_hash, self.key_hash):
            if optional is not None:
                optional.setflags(write=False)

    def __len__(self) -> int:
        return len(self.at_ms)

    def encode(self) -> bytes:
        optional = [self.ts_ms, self.duration_ms, self.id_hash, self.key_hash]
        present = sum(1 << bit for bit, column in enumerate(optional) if column is not None)
        tables, codes = [self.users, self.slugs], [self.user, self.slug]
        if len(self.sessions.data):
            present |= _HAS_SESSIONS
            tables.append(self.sessions)
            codes.append(self.session)
        names = [*map(len, tables), 0][: len(_TABLES)]
        sizes = [*(len(table.data) for table in tables), 0][: len(_TABLES)]
        arrays: list[NDArray[Any]] = [self.at_ms, *(each for each in optional if each is not None)]
        arrays += codes
        arrays += [table.offsets for table in tables] + [table.data for table in tables]
        parts = [_HEADER.pack(VERSION, present, 0, len(self), *names, *sizes)]
        parts += [array.tobytes() for array in arrays]
        parts.append(bytes(-sum(map(len, parts)) % _ALIGNMENT_BYTES))
        return b"".join(parts)

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
        tables = [[getattr(batch, table) for batch in batches] for table in _TABLES]
        codes = [getattr(batch, name) for name in _CODES for batch in batches]
        offsets = [table.offsets for of_batches in tables for table in of_batches]
        lengths = [len(batch) for batch in batches]
        counts = [lengths, *(list(map(len, of_batches)) for of_batches in tables)]
        counts += [[len(table.data) for table in of_batches] for of_batches in tables]
        int32s = np.concatenate(codes + offsets)
        names, sizes = kernels.renumber(int32s, np.array(counts))
        data = np.concatenate([table.data for of_batches in tables for table in of_batches])
        events = sum(lengths)
        end = len(_CODES) * events
        return _batch(
            Strings.cut(int32s[end:], data, names, sizes),
            [*int32s[:end].reshape(len(_CODES), events)],
            _joined_numbers(batches, lengths),
        )


def encode_few(users: Sequence[str], slugs: Sequence[str], at_ms: Sequence[int]) -> bytes:
    """As `Batch.encode` of events with nothing optional, without arrays, whose making takes longer.

    Of each event its user, its slug and `at_ms`.
    """
    numbers, names = array("q", at_ms).tobytes(), []
    codes, offsets = array("i"), array("i")
    counts, sizes = [], []
    for each in (users, slugs):
        table = dict.fromkeys(each)
        places = dict(zip(table, count(), strict=False))
        codes.extend(map(places.__getitem__, each))
        encoded = [name.encode() for name in table]
        ends = [*accumulate(map(len, encoded), initial=0)]
        offsets.extend(ends)
        names += encoded
        counts.append(len(encoded))
        sizes.append(ends[-1])
    header = _HEADER.pack(VERSION, 0, 0, len(at_ms), *counts, 0, *sizes, 0)
    whole = b"".join((header, numbers, codes.tobytes(), offsets.tobytes(), *names))
    return whole + bytes(-len(whole) % _ALIGNMENT_BYTES)


def _joined_numbers(batches: Sequence[Batch], lengths: list[int]) -> dict[str, NDArray[np.int64]]:
    """The int64 columns that any of the batches has, filled up in the others."""
    columns = {}
    for name, absent in _ABSENT.items():
        parts = [getattr(batch, name) for batch in batches]
        given = sum(part is not None for part in parts)
        if given < len(parts):
            if not given:
                continue
            parts = [
                np.full(length, absent) if part is None else part
                for part, length in zip(parts, lengths, strict=True)
            ]
        columns[name] = np.concatenate(parts)
    return columns


@dataclass(slots=True)
class Encoded:
    """An encoded batch, as long as its header says."""

    encoded: bytes | memoryview
    events: int
    present: int
    #: Where its parts begin and end.
    places: list[tuple[int, int]]
    #: All of it, once it is known to have no flaw.
    _checked: NDArray[np.int64] | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.events

    @classmethod
    def of(cls, encoded: bytes | memoryview) -> "Encoded":
        """Raises `BatchError`."""
        try:
            version, present, _, events, *counts = _HEADER.unpack_from(encoded)
        except struct.error as error:
            raise BatchError(f"not an encoded batch: {error}") from error
        if version != VERSION:
            raise BatchError(f"batch version {version}, this playhead reads {VERSION}")
        tables = 3 if present & _HAS_SESSIONS else 2
        longs = 1 + (present & (_HAS_SESSIONS - 1)).bit_count()
        lengths = [8 * events] * longs + [4 * events] * tables
        lengths += [4 * (names + 1) for names in counts[:tables]]
        lengths += counts[3 : 3 + tables]
        places = list(pairwise(accumulate(lengths, initial=_HEADER.size)))
        end = places[-1][1]
        if len(encoded) != end + -end % _ALIGNMENT_BYTES:
            raise BatchError("not an encoded batch: it is not as long as it says")
        return cls(encoded, events, present, places)

    @property
    def has_hashes(self) -> bool:
        """Whether some event has an id, or a request's key."""
        return bool(self.present & _HASHES)

    def check(self) -> None:
        """Raises `BatchError` where `decode` would, in less time; `decode` need not look again."""
        self._words()

    def decode(self) -> Batch:
        """Columns are read-only views, of a copy if it is not aligned; raises `BatchError`."""
        words, places = self._words(), iter(self.places)
        int32s, data = words.view(np.int32), words.view(np.uint8)
        numbers: dict[str, Any] = {}
        for name in _numbers(self.present):
            start, end = next(places)
            numbers[name] = words[start // 8 : end // 8]
        tables = 3 if self.present & _HAS_SESSIONS else 2
        codes, offsets = (
            [int32s[start // 4 : end // 4] for start, end in islice(places, tables)]
            for _ in range(2)
        )
        names = [Strings(ends, data[slice(*next(places))]) for ends in offsets]
        if tables == 2:
            codes.append(np.zeros(self.events, np.int32))
            names.append(NO_SESSIONS)
        return _batch(names, codes, numbers)

    def _words(self) -> NDArray[np.int64]:
        if self._checked is not None:
            return self._checked
        words = np.frombuffer(self.encoded, np.int64)
        if not words.flags.aligned:
            words = words.copy()
        words.setflags(write=False)
        _refuse(kernels.flaw_of(words.view(np.int32)))
        self._checked = words
        return words

    @staticmethod
    def join(batches: Sequence["Encoded"]) -> Batch:
        """All events in order, as one batch, without decoding each; raises `BatchError`."""
        if len(batches) == 1:
            return batches[0].decode()
        data = np.frombuffer(b"".join([batch.encoded for batch in batches]), np.uint8)
        sizes = np.array([len(batch.encoded) for batch in batches])
        events = np.array([batch.events for batch in batches])
        present = reduce(or_, [batch.present for batch in batches])
        return EncodedBatches(data, sizes.cumsum() - sizes, sizes, events, present).join()


@dataclass(slots=True)
class EncodedBatches:
    """Several encoded batches that lie in order, each as long as its header says."""

    data: NDArray[np.uint8]
    #: Where each begins, and how many bytes it has: multiples of 8.
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    #: How many each has.
    events: NDArray[np.int64]
    #: The columns that any of them has.
    present: int

    @classmethod
    def of(
        cls, content: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> "EncodedBatches":
        """Those in `content`, from these places on, with so many bytes; raises `BatchError`."""
        first, end = int(starts[0]), int(starts[-1] + sizes[-1])
        data = np.frombuffer(content, np.uint8)[first:end]
        starts, events = starts - first, np.zeros(len(starts), np.int64)
        if ((starts | sizes) % _ALIGNMENT_BYTES).any():
            raise BatchError("not an encoded batch: its length is no multiple of 8")
        if first % _ALIGNMENT_BYTES:
            data = frozen(data.copy())
        words, sizes = data.view(np.int32), np.ascontiguousarray(sizes)
        present, bad = kernels.heads(words, starts // words.itemsize, sizes, VERSION, events)
        if bad >= 0:
            start, size = int(starts[bad]), int(sizes[bad])
            Encoded.of(data[start : start + size].tobytes())  # says what is wrong
            raise BatchError("not an encoded batch")
        return cls(data, starts, sizes, events, present)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: slice) -> "EncodedBatches":
        """Those of these indexes."""
        places = (self.starts[which], self.sizes[which])
        return EncodedBatches(self.data, *places, self.events[which], self.present)

    @property
    def hashes_each(self) -> int:
        """How many an event may have, of its id and of its request's key."""
        return (self.present & _HASHES).bit_count()

    def join(self) -> Batch:
        """All events in order, as one batch, without decoding each; raises `BatchError`."""
        if len(self) == 1:
            start, size = int(self.starts[0]), int(self.sizes[0])
            return Encoded.of(self.data[start : start + size].data).decode()
        words = self.data.view(np.int32)
        flaw, numbers, codes, offsets, names, counts, sizes = kernels.join(
            words,
            self.data.view(np.int64),
            self.data,
            self.starts // words.itemsize,
            np.array([*_ABSENT.values()]),
        )
        _refuse(flaw)
        given = _numbers(self.present)
        columns = {
            name: column for name, column in zip(_ABSENT, numbers, strict=True) if name in given
        }
        return _batch(Strings.cut(offsets, names, counts, sizes), [*codes], columns)


def _numbers(present: int) -> list[str]:
    """The int64 columns that there are."""
    return ["at_ms", *(name for bit, name in enumerate(OPTIONAL) if present >> bit & 1)]


def _batch(
    tables: Sequence[Strings],
    codes: Sequence[NDArray[np.int32]],
    numbers: dict[str, NDArray[np.int64]],
) -> Batch:
    users, slugs, sessions = tables
    user, slug, session = codes
    return Batch(users, slugs, sessions, user, slug, session, **numbers)


def _refuse(flaw: int) -> None:
    if flaw:
        what = "a code has no name in" if flaw < kernels.BAD_OFFSETS else "bad offsets of"
        table = _TABLES[(flaw - kernels.BAD_CODE) % len(_TABLES)]
        raise BatchError(f"not an encoded batch: {what} {table}")


def compact(codes: NDArray[Any], names: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Which of so many names the codes use, in order, and the codes among these alone."""
    is_used = np.zeros(names, np.bool_)
    is_used[codes] = True
    used = np.flatnonzero(is_used)
    place = np.empty(names, np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return used, place[codes]


def _compact(names: Strings, codes: NDArray[np.int32]) -> tuple[Strings, NDArray[np.int32]]:
    offsets, data, compacted = kernels.used_names(names.offsets, names.data, codes)
    return Strings(offsets, data), compacted
