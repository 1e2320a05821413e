"""An event as clients send it, and many of them as columns."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from kernels.batches import hash_pairs
from kernels.compiler import frozen
from persistence.batch import NO_SESSIONS, Batch, encode_few
from persistence.strings import Strings

NAME_BYTES_MAX = 256
TAG_BYTES_MAX = 128
SECONDS_MAX = 10_000_000.0
#: So many are encoded one by one in less time than as columns.
FEW_EVENTS = 32
#: Keep keys apart from ids of the same text; fixed for ever, as hashes are on disk.
ID_SEED, KEY_SEED = 0, 1
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


def encode(parts: Sequence[Part]) -> bytes:
    """As `to_batch(parts).encode()`."""
    lists = [part.events for part in parts if isinstance(part.events, list) and part.key is None]
    if len(lists) == len(parts) <= FEW_EVENTS:
        events = list(chain.from_iterable(lists))
        if len(events) <= FEW_EVENTS and all(map(_is_plain, events)):
            return encode_few(
                [event.user for event in events],
                [event.slug for event in events],
                [round(event.at * 1000) for event in events],
            )
    return to_batch(parts).encode()


def _is_plain(event: Event) -> bool:
    return event.session is None and event.id is None and event.ts is None and not event.duration


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
    each = np.arange(len(batch.users), dtype=np.int32)
    hashes = pair_hashes(
        batch.users, each, Strings.of([part.key]), np.zeros_like(each), seed=KEY_SEED
    )
    return replace(batch, key_hash=hashes[batch.user])


def _columns_of(lists: list[list[Event]], keys: list[str | None]) -> Batch:
    """The events of several requests and the key of each."""
    events = list(chain.from_iterable(lists))
    users, user = _codes([event.user for event in events])
    slugs, slug = _codes([event.slug for event in events])
    sessions, session = NO_SESSIONS, np.zeros(len(events), np.int32)
    if any(event.session for event in events):
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
        id_hash=_id_hashes(events, users, user),
        key_hash=_key_hashes(lists, keys, users, user),
    )


def pair_hashes(
    users: Strings,
    user: NDArray[np.int32],
    others: Strings,
    other: NDArray[np.int32],
    seed: int = ID_SEED,
) -> NDArray[np.int64]:
    """What is kept of each (user, id) or (user, key), given as codes: 64 bits.

    0 where the other is empty or has no code (a negative one), and never else.
    """
    return hash_pairs(
        *(users.offsets, users.data, frozen(user)),
        *(others.offsets, others.data, frozen(other)),
        np.uint64(seed),
    )


def _codes(names: list[str]) -> tuple[Strings, NDArray[np.int32]]:
    """The distinct names, and for each name its index among them."""
    table = dict.fromkeys(names)
    if len(table) == 1:
        return Strings.of([*table]), np.zeros(len(names), np.int32)
    codes = dict(zip(table, range(len(table)), strict=True))
    return Strings.of([*table]), np.fromiter(map(codes.__getitem__, names), np.int32, len(names))


def to_ms(values: NDArray[np.float64], scale: int) -> NDArray[np.int64]:
    """`values * scale`, rounded half to even, as Python's `round`."""
    return np.rint(values * scale).astype(np.int64)


def _optional(values: list[float | None], absent: int, scale: int) -> NDArray[np.int64] | None:
    """As `to_ms`, `absent` where there is no value; None when there is none at all."""
    if values.count(None) == len(values):
        return None
    given = np.array([value is not None for value in values])
    return np.where(given, to_ms(np.array([v or 0 for v in values], np.float64), scale), absent)


def _id_hashes(
    events: list[Event], users: Strings, user: NDArray[np.int32]
) -> NDArray[np.int64] | None:
    if not any(event.id for event in events):
        return None
    ids = Strings.of([event.id or "" for event in events])
    return pair_hashes(users, user, ids, np.arange(len(events), dtype=np.int32))


def _key_hashes(
    lists: list[list[Event]], keys: list[str | None], users: Strings, user: NDArray[np.int32]
) -> NDArray[np.int64] | None:
    if not any(keys):
        return None
    request = np.arange(len(keys), dtype=np.int32).repeat(list(map(len, lists)))
    return pair_hashes(users, user, Strings.of([key or "" for key in keys]), request, KEY_SEED)
