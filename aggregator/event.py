"""An event as clients send it, and many of them as columns."""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import xxhash
from msgspec import Meta
from numpy.typing import NDArray

from persistence.batch import Batch

NAME_BYTES_MAX = 256
TAG_BYTES_MAX = 128
SECONDS_MAX = 10_000_000.0
#: Keeps keys apart from ids of the same text; fixed for ever, as hashes are on disk.
KEY_SEED = 1
#: Beyond it a float no longer holds every whole millisecond.
TS_MAX = 2.0**53

# Decoding counts characters, which is exact for ASCII; the API counts the bytes of the rest.
Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
Tag = Annotated[str, Meta(min_length=1, max_length=TAG_BYTES_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
Length = Annotated[float, Meta(ge=0.001, le=SECONDS_MAX)]
Timestamp = Annotated[float, Meta(ge=0, le=TS_MAX)]


class Event(msgspec.Struct, gc=False):
    """One heartbeat. `at` and `duration` are seconds, `ts` Unix milliseconds.

    Decoding one checks types and ranges; a null optional field is a missing one.
    """

    user: Name
    slug: Name
    at: Seconds
    session: Tag | None = None
    id: Tag | None = None
    ts: Timestamp | None = None
    duration: Length | None = None


class Part(msgspec.Struct, gc=False, frozen=True):
    """The events of one request that go to one shard, and the request's idempotency key."""

    events: list[Event]
    key: str | None = None


def to_batch(parts: Sequence[Part]) -> Batch:
    """The events of `parts`, in order, as columns. No two parts may share a key."""
    events = list(chain.from_iterable(part.events for part in parts))
    users, user = _codes([event.user for event in events])
    slugs, slug = _codes([event.slug for event in events])
    sessions, session = _codes([event.session or "" for event in events])
    return Batch(
        users,
        slugs,
        sessions,
        user,
        slug,
        session,
        at_ms=_to_ms([event.at for event in events], 1000),
        ts_ms=_optional([event.ts for event in events], absent=-1, to_ms=1),
        duration_ms=_optional([event.duration for event in events], absent=0, to_ms=1000),
        id_hash=_id_hashes(events),
        key_hash=_key_hashes(parts),
    )


def id_hash(user: str, id: str) -> int:
    """What is kept of a (user, id): 64 bits, never 0."""
    return xxhash.xxh3_64_intdigest(f"{user}\n{id}".encode()) or 1


def key_hash(user: str, key: str) -> int:
    """What is kept of a (user, idempotency key): 64 bits, never 0."""
    return xxhash.xxh3_64_intdigest(f"{user}\n{key}".encode(), KEY_SEED) or 1


def _codes(names: list[str]) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct names, and for each name its index among them."""
    table = dict.fromkeys(names)
    if len(table) == 1:
        return list(table), np.zeros(len(names), np.int32)
    codes = dict(zip(table, range(len(table)), strict=True))
    return list(table), np.fromiter(map(codes.__getitem__, names), np.int32, len(names))


def _to_ms(values: list[float], scale: int) -> NDArray[np.int64]:
    """`values * scale`, rounded half to even, as Python's `round`."""
    return np.rint(np.array(values, np.float64) * scale).astype(np.int64)


def _optional(values: list[float | None], absent: int, to_ms: int) -> NDArray[np.int64] | None:
    """As `_to_ms`, `absent` where there is no value; None when there is none at all."""
    given = np.array([value is not None for value in values])
    if not given.any():
        return None
    return np.where(given, _to_ms([value or 0 for value in values], to_ms), absent)


def _id_hashes(events: list[Event]) -> NDArray[np.int64] | None:
    if not any(event.id for event in events):
        return None
    hashes = [id_hash(event.user, event.id) if event.id else 0 for event in events]
    return np.array(hashes, np.uint64).view(np.int64)


def _key_hashes(parts: Sequence[Part]) -> NDArray[np.int64] | None:
    if not any(part.key for part in parts):
        return None
    hashes = [
        key_hash(event.user, part.key) if part.key else 0 for part in parts for event in part.events
    ]
    return np.array(hashes, np.uint64).view(np.int64)
