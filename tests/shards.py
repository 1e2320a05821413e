"""Shards in this process: the real thing without Ray, for tests of what surrounds them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from aggregator import wire
from aggregator.checkpoint import erasure_of, facts_between
from aggregator.commands import Command
from aggregator.event import Event, Part, to_batch
from aggregator.lane import Lane, QueueLimits
from aggregator.messages import (
    Answers,
    Exported,
    ExportRequest,
    Fact,
    Query,
    Reply,
    ShardStats,
    StatsQuery,
    decode_reply,
    encode_commands,
    encode_events,
    encode_export,
    encode_queries,
)
from aggregator.router import Router
from aggregator.rules import Rules
from aggregator.shard import Shard
from aggregator.shard_settings import ShardSettings
from aggregator.state import State
from persistence import manifest
from persistence.directory import read_manifest
from persistence.facts import SCHEMA, one_chunk

NOW_MS = 1_700_000_000_000
_tasks: set[asyncio.Task[None]] = set()


def in_tasks(handle: Callable[[bytes], Awaitable[bytes]]) -> wire.Handler:
    """What `wire.serve` takes: each frame is handled in a task of its own."""

    async def reply(frame: bytes, respond: wire.Respond) -> None:
        respond(await handle(frame))

    def receive(frame: bytes, respond: wire.Respond) -> None:
        task = asyncio.ensure_future(reply(frame, respond))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    return receive


class Clock:
    """A shard's clock, moved by the test."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def owner_of(folder: Path, number: int) -> str:
    """Of a shard of the generation in `folder`, which need not be a data directory."""
    root = folder.parent if folder.name.startswith("generation-") else folder
    if (root / manifest.NAME).exists():
        return read_manifest(root).owner(number)
    return f"test/1/{number}"


def settings_of(folder: Path, number: int = 0, **changes: Any) -> ShardSettings:
    defaults: dict[str, Any] = {
        "rules": Rules(),
        "hours_kept_days": 35,
        "snapshot_log_bytes": 1 << 30,
        "snapshot_interval_s": 3600.0,
        "erase_delay_s": 3600.0,
        "segment_bytes": 1 << 20,
    }
    owner = changes.pop("owner", None) or owner_of(folder, number)
    return ShardSettings(number, folder / f"shard-{number:04}", owner, **(defaults | changes))


def crash(shard: Shard) -> None:
    """Lets go of the folder as a killed process does: nothing is flushed or written.

    Only a checkpoint that is written in a thread goes on: that cannot be ended.
    """
    if shard._checkpoints._checkpointer is not None:
        shard._checkpoints._checkpointer.kill()
    shard._end_turns()
    shard._tally.close()
    shard._log.close()
    shard._epoch.close()
    shard._lock.release()


def state_of(shard: Shard) -> State:
    """With all counted that was answered; nothing may come meanwhile."""
    with shard._tally.current() as state:
        return state


class Handling(Protocol):
    """A shard, or what stands for one."""

    async def handle(self, frame: bytes) -> bytes: ...


@asynccontextmanager
async def router_of(shards: Iterable[Handling]) -> AsyncIterator[Router]:
    router = Router([Lane(n, shard.handle, QueueLimits()) for n, shard in enumerate(shards)])
    try:
        yield router
    finally:
        await router.close()


def watch(user: str, slug: str, start: int, stop: int, step: int = 10) -> list[Event]:
    """Someone plays a movie from second `start` to `stop`."""
    return [Event(user, slug, float(at)) for at in range(start, stop + 1, step)]


# Frames


async def send(
    shard: Shard, sequence: int, events: list[Event], key: str | None = None, producer: int = 1
) -> Reply:
    batch = to_batch([Part(events, key)]).encode()
    return decode_reply(await shard.handle(encode_events(producer, sequence, batch)))


async def order(shard: Shard, sequence: int, *commands: Command, producer: int = 2) -> Reply:
    """Has commands carried out, as one frame."""
    return decode_reply(await shard.handle(encode_commands(producer, sequence, [*commands])))


async def ask(shard: Shard, *queries: Query) -> list[Any]:
    reply = decode_reply(await shard.handle(encode_queries(list(queries))))
    assert isinstance(reply, Answers)
    return [msgspec.msgpack.decode(answer) for answer in reply.answers]


async def stats_of(shard: Shard) -> ShardStats:
    return msgspec.convert((await ask(shard, StatsQuery()))[0], ShardStats)


async def export_pages(shard: Shard, user: str, limit: int) -> list[list[Fact]]:
    """All that is exported of a user, page by page."""
    pages: list[list[Fact]] = []
    after: tuple[int, int] | None = (0, 0)
    while after is not None:
        request = ExportRequest(user, after, limit)
        reply = decode_reply(await shard.handle(encode_export(request)))
        assert isinstance(reply, Exported)
        pages.append(reply.facts)
        after = reply.next
    return pages


async def poll(shard: Shard, done: Callable[[], bool]) -> None:
    """Waits for what the shard does by itself."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (await stats_of(shard)).writable


# Facts


def facts_kept(shard: Shard) -> pa.Table:
    """All facts of the store and then of the log, in order of arrival, without those erased."""
    folders, last = shard._folders, shard._applied_sequence
    stored = one_chunk(pa.concat_tables([SCHEMA.empty_table(), *folders.store.read()]))
    stored = stored.filter(pa.array(~erasure_of(shard._checkpoints.erasing).hits(stored)))
    first = folders.store.archived_sequence() + 1
    logged = facts_between(
        folders, first, last, shard._checkpoints.skipped, shard._checkpoints.erasing
    )
    return pa.concat_tables([stored, logged])
