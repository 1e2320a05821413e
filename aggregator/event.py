"""An event as clients send it, and many of them as columns."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby
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
    """The events of one request that go to one shard, and the request's idempotency key.

    Events that came as columns stay columns; their `key_hash` is not set yet.
    """

    events: list[Event] | Batch
    key: str | None = None


def to_batch(parts: Sequence[Part]) -> Batch:
    """The events of `parts`, in order, as columns. No two parts may share a key."""
    lists = [part.events for part in parts if isinstance(part.events, list)]
    if len(lists) == len(parts):
        return _columns_of(lists, [part.key for part in parts])
    batches: list[Batch] = []
    for are_lists, group in groupby(parts, lambda part: isinstance(part.events, list)):
        run = list(group)
        batches += [to_batch(run)] if are_lists else map(_keyed, run)
    return Batch.concatenate(batches)


def _keyed(part: Part) -> Batch:
    """The columns of `part` with the hashes of its key, one made for each distinct user."""
    batch = part.events
    assert isinstance(batch, Batch)
    if not part.key:
        return batch
    hashes = [key_hash(user, part.key) for user in batch.users]
    return replace(batch, key_hash=_int64s(hashes)[batch.user])


def _columns_of(lists: list[list[Event]], keys: list[str | None]) -> Batch:
    """The events of several requests and the key of each."""
    events = list(chain.from_iterable(lists))
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
        at_ms=to_ms(np.array([event.at for event in events], np.float64), 1000),
        ts_ms=_optional([event.ts for event in events], absent=-1, scale=1),
        duration_ms=_optional([event.duration for event in events], absent=0, scale=1000),
        id_hash=_id_hashes(events),
        key_hash=_key_hashes(lists, keys),
    )


def id_hash(user: str, id: str) -> int:
    """What is kept of a (user, id): 64 bits, never 0."""
    return xxhash.xxh3_64_intdigest(f"{user}\n{id}".encode()) or 1


def id_hashes(texts: Sequence[bytes]) -> NDArray[np.int64]:
    """`id_hash` of many, each given as the text that is hashed: user, line feed, id."""
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, texts), np.uint64, len(texts))
    hashes[hashes == 0] = 1
    return hashes.view(np.int64)


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


def to_ms(values: NDArray[np.float64], scale: int) -> NDArray[np.int64]:
    """`values * scale`, rounded half to even, as Python's `round`."""
    return np.rint(values * scale).astype(np.int64)


def _optional(values: list[float | None], absent: int, scale: int) -> NDArray[np.int64] | None:
    """As `to_ms`, `absent` where there is no value; None when there is none at all."""
    if values.count(None) == len(values):
        return None
    given = np.array([value is not None for value in values])
    return np.where(given, to_ms(np.array([v or 0 for v in values], np.float64), scale), absent)


def _int64s(hashes: list[int]) -> NDArray[np.int64]:
    return np.array(hashes, np.uint64).view(np.int64)


def _id_hashes(events: list[Event]) -> NDArray[np.int64] | None:
    if not any(event.id for event in events):
        return None
    return _int64s([id_hash(event.user, event.id) if event.id else 0 for event in events])


def _key_hashes(lists: list[list[Event]], keys: list[str | None]) -> NDArray[np.int64] | None:
    if not any(keys):
        return None
    return _int64s(
        [
            key_hash(event.user, key) if key else 0
            for events, key in zip(lists, keys, strict=True)
            for event in events
        ]
    )
