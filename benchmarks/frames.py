"""Frames of events for a shard in a process of its own, and producers that send them."""

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import uvloop

from aggregator.event import Event, Part, to_batch
from aggregator.messages import Applied, decode_reply, encode_events
from benchmarks.shard_process import ShardProcess, Usage
from persistence.batch import NO_SESSIONS, Batch
from persistence.strings import Strings

#: A frame that fills a shard has the movies of so many users.
FILL_USERS, FILL_MOVIES, FILL_MOVIES_OF_A_USER = 500, 400, 40
FILL_STEP_MS, FILL_FROM_MS_MAX = 8_000, 5_000_000
FILL_PRODUCERS = 2
#: So none of them is watched now.
FILLED_AGO_MS = 86_400_000


def fill(process: ShardProcess, pairs: int, has_sessions: bool = False) -> None:
    """So many pairs of users of its own, each begun and gone on with a while ago."""
    append(process, _library(pairs, has_sessions), FILL_PRODUCERS)


def _library(pairs: int, has_sessions: bool) -> Iterator[bytes]:
    random, long_ago_ms = np.random.default_rng(1), time.time_ns() // 10**6 - FILLED_AGO_MS
    user = np.arange(FILL_USERS, dtype=np.int32).repeat(FILL_MOVIES_OF_A_USER)
    movie = np.tile(np.arange(FILL_MOVIES_OF_A_USER, dtype=np.int32), FILL_USERS)
    user, movie = np.tile(user, 2), np.tile(movie, 2)
    for number in range(-(-pairs // (FILL_USERS * FILL_MOVIES_OF_A_USER))):
        users = range(number * FILL_USERS, (number + 1) * FILL_USERS)
        first = number * FILL_MOVIES_OF_A_USER % FILL_MOVIES
        movies = range(first, first + FILL_MOVIES_OF_A_USER)
        at_ms = random.integers(0, FILL_FROM_MS_MAX, len(user) // 2)
        yield Batch(
            Strings.of([f"user-{each:08}" for each in users]),
            Strings.of([f"movie-{each:05}" for each in movies]),
            Strings.of([f"session-{each:08}" for each in users]) if has_sessions else NO_SESSIONS,
            user,
            movie,
            user if has_sessions else np.zeros_like(user),
            np.concatenate([at_ms, at_ms + FILL_STEP_MS]),
            ts_ms=np.full(len(user), long_ago_ms),
        ).encode()


def frames_of(events: Sequence[Event], size: int) -> list[bytes]:
    """Encoded batches of so many each, in order."""
    return [
        to_batch([Part(list(events[start : start + size]))]).encode()
        for start in range(0, len(events), size)
    ]


def append(process: ShardProcess, batches: Iterable[bytes], producers: int) -> Usage:
    """Sends all, each producer the next one when it has a reply; returns what that took."""
    return uvloop.run(_append(process, iter(batches), producers))


async def _append(process: ShardProcess, batches: Iterator[bytes], producers: int) -> Usage:
    before = await process.usage()
    async with asyncio.TaskGroup() as group:
        for _ in range(producers):
            group.create_task(_produce(process, batches))
    return (await process.usage()).since(before)


async def _produce(process: ShardProcess, batches: Iterator[bytes]) -> None:
    connection, producer = await process.connect(), secrets.randbits(63)
    for sequence, batch in enumerate(batches, start=1):
        reply = decode_reply(await connection.call(encode_events(producer, sequence, batch)))
        assert isinstance(reply, Applied), reply
    connection.close()
