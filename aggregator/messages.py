"""What travels between a router and a shard: frames, each answered by a reply.

A frame's first byte is its kind. `EVENTS` is followed by the producer and its
sequence (u64 each, little-endian) and an encoded batch; `QUERIES` by a
MessagePack array of queries. Replies are MessagePack. A producer is one router;
it numbers its frames to a shard, and sends the same frame again, with the same
number, until it has a reply.
"""

import struct
from typing import Any, Literal

import msgspec

EVENTS = b"E"
QUERIES = b"Q"

_PRODUCER = struct.Struct("<QQ")
_BATCH_START = len(EVENTS) + _PRODUCER.size

Sort = Literal["watch_seconds", "viewers", "views", "completions"]


class Applied(msgspec.Struct, tag=True, frozen=True):
    """The events are on disk and counted, except the `duplicates` (indexes in the batch)."""

    received_ms: int
    duplicates: list[int] = []


class Answers(msgspec.Struct, tag=True, frozen=True):
    """One answer a query, in order."""

    answers: list[msgspec.Raw]


class Refused(msgspec.Struct, tag=True, frozen=True):
    """Nothing of the frame was applied, and `reason` says why and what to do."""

    reason: str


Reply = Applied | Answers | Refused


class ProgressQuery(msgspec.Struct, tag=True, frozen=True):
    user: str
    slug: str


class UserQuery(msgspec.Struct, tag=True, frozen=True):
    user: str


class MoviesQuery(msgspec.Struct, tag=True, frozen=True):
    """The movies named, as far as the shard knows them."""

    slugs: list[str]


class TopQuery(msgspec.Struct, tag=True, frozen=True):
    """The `limit` movies with the most of `sort`; with `since_hour`, of watch time from then on."""

    sort: Sort
    limit: int
    since_hour: int | None = None
    slugs: list[str] | None = None


class StatsQuery(msgspec.Struct, tag=True, frozen=True):
    pass


Query = ProgressQuery | UserQuery | MoviesQuery | TopQuery | StatsQuery


class Progress(msgspec.Struct, frozen=True):
    """One user and one movie. Positions and amounts in ms, times in Unix ms."""

    user: str
    slug: str
    latest_ms: int
    latest_t: int
    furthest_ms: int
    resume_ms: int | None
    watch_ms: int
    unique_ms: int | None
    completed_t: int | None
    views: int
    events: int
    duration_ms: int | None
    version: int


class UserTotals(msgspec.Struct, frozen=True):
    user: str
    watch_ms: int
    movies: int
    completed: int
    events: int
    last_t: int


class MovieTotals(msgspec.Struct, frozen=True):
    """A movie's part in one shard, or the sum over several."""

    slug: str
    watch_ms: int
    viewers: int
    views: int
    completions: int
    events: int
    watching_now: int
    first_t: int
    last_t: int


class Ranked(msgspec.Struct, frozen=True):
    """A movie and how much it has of what was asked for."""

    slug: str
    value: int


class ShardStats(msgspec.Struct, frozen=True):
    """How a shard is doing. `movie_hashes` are 8 bytes a movie, to count them over shards."""

    shard: int
    users: int
    movies: int
    pairs: int
    streams: int
    events: int
    events_per_second: float
    memory_bytes: int
    remembered_ids: int
    epoch: int
    log_sequence: int
    log_segments: int
    log_bytes: int
    broken_tails: int
    snapshot_sequence: int
    writable: bool
    movie_hashes: bytes


def encode_events(producer: int, sequence: int, batch: bytes) -> bytes:
    return b"".join((EVENTS, _PRODUCER.pack(producer, sequence), batch))


def decode_events(frame: bytes) -> tuple[int, int, memoryview]:
    """The producer, its sequence and the encoded batch of a frame of events."""
    producer, sequence = _PRODUCER.unpack_from(frame, len(EVENTS))
    return producer, sequence, memoryview(frame)[_BATCH_START:]


_queries = msgspec.msgpack.Decoder(list[Query])
_reply: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Reply)


def encode_queries(queries: list[Query]) -> bytes:
    return QUERIES + msgspec.msgpack.encode(queries)


def decode_queries(frame: bytes) -> list[Query]:
    return _queries.decode(memoryview(frame)[len(QUERIES) :])


def decode_reply(encoded: bytes) -> Reply:
    reply: Reply = _reply.decode(encoded)
    return reply
