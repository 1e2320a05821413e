"""What travels between a router and a shard: frames, each answered by a reply.

A frame's first byte is its kind. `EVENTS` and `COMMANDS` are followed by 7 of 0, so
that what comes then is aligned: the producer and its sequence (u64 each, little-endian),
and an encoded batch or array of commands; `QUERIES` by a MessagePack array of queries,
`EXPORT` by one `ExportRequest`, `HOLD` by one `HoldRequest`, `TABLES` by one `TablesRequest`.
Replies are MessagePack. A producer is one router; it numbers its frames to a shard,
and sends the same frame again, with the same number, until it has a reply.
"""

import struct
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pyarrow as pa

from aggregator import commands
from aggregator.commands import Command

EVENTS = b"E"
COMMANDS = b"C"
EXPORT = b"X"
HOLD = b"H"
QUERIES = b"Q"
TABLES = b"T"

_APPENDED = struct.Struct("<c7xQQ")

Sort = Literal["watch_seconds", "viewers", "views", "completions"]


class Applied(msgspec.Struct, tag=True, frozen=True):
    """The events are on disk and counted, except the `duplicates` (indexes in the batch)."""

    received_ms: int
    duplicates: list[int] = []


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command. It names no one: it is remembered for a sender that asks again."""

    status: Literal["done", "conflict", "unknown"]
    progress: "Progress | None" = None


class Done(msgspec.Struct, tag=True, frozen=True):
    """The commands are on disk and carried out, or had no effect: an outcome each."""

    received_ms: int
    outcomes: list[Outcome]


class Answers(msgspec.Struct, tag=True, frozen=True):
    """One answer a query, in order."""

    answers: list[msgspec.Raw]


class Refused(msgspec.Struct, tag=True, frozen=True):
    """Nothing of the frame was applied, and `reason` says why and what to do."""

    reason: str


class Exported(msgspec.Struct, tag=True, frozen=True):
    """Facts in order of arrival; `next` is the place to go on after."""

    facts: list["Fact"]
    next: tuple[int, int] | None


class Held(msgspec.Struct, tag=True, frozen=True):
    """Files stay as they are, for as long as was asked for."""

    #: Whether that renews a hold which had lasted until now.
    has_lasted: bool = False


class Tabled(msgspec.Struct, tag=True, frozen=True):
    """All that the state says after the record `sequence`: Arrow IPC streams, by table name.

    Hours before the hour `fold_before` count in the first of their day.
    """

    sequence: int
    fold_before: int
    tables: dict[str, bytes]

    def decoded(self) -> dict[str, pa.Table]:
        return {name: pa.ipc.open_stream(stream).read_all() for name, stream in self.tables.items()}


Reply = Applied | Done | Answers | Exported | Held | Tabled | Refused


class ExportRequest(msgspec.Struct, frozen=True):
    """The first `limit` facts of a user after a place, (sequence, index)."""

    user: str
    after: tuple[int, int]
    limit: int


class HoldRequest(msgspec.Struct, frozen=True):
    """For so long, no checkpoint of the shard that keeps its data in `folder`; 0 ends that.

    Another shard refuses. `holder` is any number, by which one knows one's own hold.
    """

    folder: str
    holder: int
    seconds: float


class TablesRequest(msgspec.Struct, frozen=True):
    """The tables of the shard that keeps its data in `folder`; another one refuses."""

    folder: str


class Fact(msgspec.Struct, frozen=True):
    """What is kept of an event, or of a change by hand. Milliseconds."""

    received_ms: int
    kind: str
    slug: str
    session: str | None
    at_ms: int | None
    ts_ms: int | None
    duration_ms: int | None


class ProgressQuery(msgspec.Struct, tag=True, frozen=True):
    """`Progress`."""

    user: str
    slug: str


class UserQuery(msgspec.Struct, tag=True, frozen=True):
    """`UserTotals`."""

    user: str


class Place(msgspec.Struct, frozen=True):
    """A place in a user's history: the latest moment of the movie that stands there."""

    t: int
    order: int


class HistoryQuery(msgspec.Struct, tag=True, frozen=True):
    """`HistoryPage`: the user's movies, newest first, after a place or from the start."""

    user: str
    limit: int
    after: Place | None = None


class ContinueQuery(msgspec.Struct, tag=True, frozen=True):
    """A list of `Listed`: what the user can go on with, newest first."""

    user: str
    limit: int


class MoviesQuery(msgspec.Struct, tag=True, frozen=True):
    """A list of `MovieTotals` of the movies named, as far as the shard knows them."""

    slugs: list[str]


class RetentionQuery(msgspec.Struct, tag=True, frozen=True):
    """`Retention`."""

    slug: str


class HoursQuery(msgspec.Struct, tag=True, frozen=True):
    """Watch time of a movie by hour, from `first` to before `end`: int64 as bytes."""

    slug: str
    first: int
    end: int


class TopQuery(msgspec.Struct, tag=True, frozen=True):
    """A list of `Ranked`: the `limit` movies with the most of `sort`, or the values of `slugs`.

    With `since_hour`, of watch time from then on.
    """

    sort: Sort
    limit: int
    since_hour: int | None = None
    slugs: list[str] | None = None


class StatsQuery(msgspec.Struct, tag=True, frozen=True):
    """`ShardStats`."""


Query = (
    ProgressQuery
    | UserQuery
    | HistoryQuery
    | ContinueQuery
    | MoviesQuery
    | RetentionQuery
    | HoursQuery
    | TopQuery
    | StatsQuery
)


class Progress(msgspec.Struct, frozen=True):
    """One user and one movie. Positions and amounts in ms, times in Unix ms."""

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


class Listed(msgspec.Struct, frozen=True):
    """A movie in a list of a user's."""

    slug: str
    progress: Progress


class HistoryPage(msgspec.Struct, frozen=True):
    """A part of a user's history; `next` is the place where it goes on."""

    movies: list[Listed]
    next: Place | None


class UserTotals(msgspec.Struct, frozen=True):
    """One user over all movies."""

    watch_ms: int
    movies: int
    completed: int
    events: int
    last_t: int | None


class MovieTotals(msgspec.Struct, frozen=True):
    """A movie's part in one shard, or the sum over several."""

    slug: str
    watch_ms: int
    viewers: int
    views: int
    completions: int
    events: int
    watching_now: int
    first_t: int | None
    last_t: int | None
    duration_ms: int | None
    title: str | None


class Retention(msgspec.Struct, frozen=True):
    """By bucket, int64 as bytes."""

    viewers: bytes
    plays: bytes


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
    watching_now: int
    watch_ms: int
    events: int
    events_taken: int
    events_per_second: float
    memory_bytes: int
    remembered_ids: int
    epoch: int
    log_sequence: int
    log_segments: int
    log_bytes: int
    broken_tails: int
    snapshot_sequence: int
    snapshot_ms: int
    stored_sequence: int | None
    stored_events: int | None
    stored_bytes: int | None
    erasing: int
    erasing_since_ms: int | None
    writable: bool
    movie_hashes: bytes
    #: Why it is not writable.
    refusal: str = ""


def encode_events(producer: int, sequence: int, batch: bytes) -> bytes:
    return _APPENDED.pack(EVENTS, producer, sequence) + batch


def encode_commands(producer: int, sequence: int, batch: list[Command]) -> bytes:
    return _APPENDED.pack(COMMANDS, producer, sequence) + commands.encode(batch)


def decode_appended(frame: bytes) -> tuple[int, int, memoryview]:
    """The producer, its sequence and what is encoded in a frame of events or commands."""
    _, producer, sequence = _APPENDED.unpack_from(frame)
    return producer, sequence, memoryview(frame)[_APPENDED.size :]


_export = msgspec.msgpack.Decoder(ExportRequest)
_hold = msgspec.msgpack.Decoder(HoldRequest)
_tables = msgspec.msgpack.Decoder(TablesRequest)
_queries = msgspec.msgpack.Decoder(list[Query])
#: Made once, as each has to look at its type.
_answers: dict[type[Query], msgspec.msgpack.Decoder[Any]] = {
    query: msgspec.msgpack.Decoder(answer)
    for query, answer in (
        (ProgressQuery, Progress | None),
        (UserQuery, UserTotals | None),
        (HistoryQuery, HistoryPage | None),
        (ContinueQuery, list[Listed] | None),
        (MoviesQuery, list[MovieTotals]),
        (RetentionQuery, Retention | None),
        (HoursQuery, bytes | None),
        (TopQuery, list[Ranked]),
        (StatsQuery, ShardStats),
    )
}
_reply: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Reply)


def encode_queries(queries: list[Query]) -> bytes:
    return QUERIES + msgspec.msgpack.encode(queries)


def decode_queries(frame: bytes) -> list[Query]:
    return _queries.decode(memoryview(frame)[len(QUERIES) :])


def decode_answer(query: Query, encoded: bytes) -> Any:
    """What the query's class says; None for what was never seen."""
    return _answers[type(query)].decode(encoded)


def encode_export(request: ExportRequest) -> bytes:
    return EXPORT + msgspec.msgpack.encode(request)


def decode_export(frame: bytes) -> ExportRequest:
    return _export.decode(memoryview(frame)[len(EXPORT) :])


def encode_hold(request: HoldRequest) -> bytes:
    return HOLD + msgspec.msgpack.encode(request)


def decode_hold(frame: bytes) -> HoldRequest:
    return _hold.decode(memoryview(frame)[len(HOLD) :])


def encode_tables_request(request: TablesRequest) -> bytes:
    return TABLES + msgspec.msgpack.encode(request)


def decode_tables_request(frame: bytes) -> TablesRequest:
    return _tables.decode(memoryview(frame)[len(TABLES) :])


def encode_tables(tables: Mapping[str, pa.Table]) -> dict[str, bytes]:
    """As in `Tabled`, compressed."""
    return {name: _encode_table(table) for name, table in tables.items()}


def _encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode_reply(encoded: bytes) -> Reply:
    reply: Reply = _reply.decode(encoded)
    return reply
