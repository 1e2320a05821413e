"""What the operations of a shard cost, in a process of its own that gets encoded frames."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from aggregator.event import Event
from aggregator.messages import (
    MoviesQuery,
    ProgressQuery,
    Query,
    encode_queries,
)
from aggregator.router import Router
from benchmarks.frames import append, fill, frames_of
from benchmarks.recorded import record
from benchmarks.shard_process import ShardProcess, Usage, lanes_to, shard_process
from kernels.rows import BUCKET_MS
from persistence.batch import NO_SESSIONS, Batch
from persistence.strings import Strings

#: So many producers have a frame of so many events each under way, until so many events are sent.
POINTS = (
    (1, 1, 2_000),
    (16, 1, 15_000),
    (64, 1, 15_000),
    (16, 16, 60_000),
    (16, 64, 150_000),
    (4, 1_000, 200_000),
    (2, 10_000, 300_000),
)
#: Viewers that watch for so long at so many events a second; the first are not counted.
TRAFFIC_S, TRAFFIC_PER_S = 60.0, 15_000.0
FIRST_S, FIRST_FRAME_EVENTS = 10.0, 1_000
#: Before each record of the log.
LOG_HEADER_BYTES = 64
#: Frames of questions of a kind.
ASKED_TIMES, QUESTIONS_A_FRAME = 300, 64
#: Shards that a question about a movie is asked of, and how often.
FAN_OUT, FAN_OUT_TIMES = 8, 500
#: Of which memory and checkpoints are measured.
PAIRS = 1_000_000
#: Movies of so long whose retention is kept; there is a part of it in each shard.
WATCHED_MOVIES, WATCHED_MS = 2_000, 5_400_000
#: In the records that are replayed and archived.
RECORD_EVENTS = 64
RECORDED_S, RECORDED_PER_S = 30.0, 10_000.0


class FrameCost(msgspec.Struct, frozen=True):
    """What frames of one size came to."""

    producers: int
    frame_events: int
    events: int
    frames: int
    commits: int
    cpu_s: float
    disk_s: float
    encoded_bytes: int


def frame_costs(folder: Path) -> tuple[dict[str, float], list[FrameCost]]:
    """The `Costs` of frames of events and of questions, and what they were made of."""
    recording = record(TRAFFIC_S)
    with shard_process(folder) as process:
        traffic = recording.copies(TRAFFIC_PER_S)
        events = [event for _, event in traffic]
        first = next(i for i, (due_s, _) in enumerate(traffic) if due_s >= FIRST_S)
        append(process, frames_of(events[:first], FIRST_FRAME_EVENTS), producers=1)
        costs = {"fan_out_s": uvloop.run(_fan_out(process, events[0].slug))}
        measured = []
        for producers, size, count in POINTS:
            chosen, first = events[first : first + count], first + count
            measured.append(_frame_cost(process, producers, size, chosen))
        costs |= _question_costs(process, events)
    return costs | _fitted(measured), measured


def _frame_cost(process: ShardProcess, producers: int, size: int, events: list[Event]) -> FrameCost:
    frames = frames_of(events, size)
    used = append(process, frames, producers)
    return FrameCost(
        producers,
        size,
        len(events),
        len(frames),
        used.commits,
        used.cpu_s,
        used.disk_s,
        sum(map(len, frames)),
    )


def _fitted(measured: list[FrameCost]) -> dict[str, float]:
    """Costs of a commit, a frame and an event that come closest to all that was measured."""
    counts = [[cost.commits, cost.frames, cost.events] for cost in measured]
    commit_s, frame_s, event_s = shares(counts, [cost.cpu_s for cost in measured])
    counts = [[cost.frames, cost.events] for cost in measured]
    frame_bytes, event_bytes = shares(counts, [cost.encoded_bytes for cost in measured])
    alone = measured[0]
    return {
        "commit_s": commit_s,
        "frame_s": frame_s,
        "event_s": event_s,
        "log_frame_bytes": frame_bytes + LOG_HEADER_BYTES,
        "log_event_bytes": event_bytes,
        "append_s": alone.disk_s / alone.commits,
    }


def shares(counts: Sequence[Sequence[float]], sums: Sequence[float]) -> list[float]:
    """What one of each comes to, none below 0, so that the sums are met as closely as can be.

    Each row of `counts` has its sum; all sums are as important, whatever their size.
    """
    rows = np.array(counts, np.float64) / np.array(sums, np.float64)[:, None]
    found = np.zeros(rows.shape[1])
    chosen = np.arange(rows.shape[1])
    while len(chosen):
        solution = np.linalg.lstsq(rows[:, chosen], np.ones(len(rows)))[0]
        if solution.min() >= 0:
            found[chosen] = solution
            break
        chosen = np.delete(chosen, solution.argmin())
    return [float(value) for value in found]


# Questions


def _question_costs(process: ShardProcess, events: list[Event]) -> dict[str, float]:
    """Of frames of one question and of many, and of those about movies."""
    some = events[:: len(events) // QUESTIONS_A_FRAME][:QUESTIONS_A_FRAME]
    points: list[Query] = [ProgressQuery(event.user, event.slug) for event in some]
    movies: list[Query] = [MoviesQuery([event.slug]) for event in some]
    one, many = _asked(process, points[:1]), _asked(process, points)
    one_movie, many_movies = _asked(process, movies[:1]), _asked(process, movies)
    query_s = (many - one) / (QUESTIONS_A_FRAME - 1)
    movie_query_s = (many_movies - one_movie) / (QUESTIONS_A_FRAME - 1)
    return {
        "query_frame_s": one - query_s,
        "query_s": query_s,
        "movie_frame_s": one_movie - movie_query_s,
        "movie_query_s": movie_query_s,
    }


def _asked(process: ShardProcess, queries: list[Query]) -> float:
    """Core seconds of a frame of these, one after the other."""

    async def ask() -> Usage:
        connection, before = await process.connect(), await process.usage()
        for _ in range(ASKED_TIMES):
            await connection.call(frame)
        connection.close()
        return (await process.usage()).since(before)

    frame = encode_queries(queries)
    return uvloop.run(ask()).cpu_s / ASKED_TIMES


async def _fan_out(process: ShardProcess, slug: str) -> float:
    """Core seconds of this process for each shard that a question about a movie goes to."""
    async with lanes_to([process] * FAN_OUT) as lanes:
        few_s, many_s = [await _asking(Router(asked), slug) for asked in (lanes[:1], lanes)]
    return (many_s - few_s) / (FAN_OUT - 1)


async def _asking(router: Router, slug: str) -> float:
    began_s = time.process_time()
    for _ in range(FAN_OUT_TIMES):
        await router.movies([slug])
    return (time.process_time() - began_s) / FAN_OUT_TIMES


# What is kept: memory, checkpoints, starts


def kept_costs(folder: Path) -> dict[str, float]:
    """The `Costs` of pairs and movies in memory, of checkpoints and starts, and on disk."""
    plain_bytes, movie_bytes = _plain(folder.with_name("plain"))
    frames = frames_of(
        [event for _, event in record(RECORDED_S).copies(RECORDED_PER_S)], RECORD_EVENTS
    )
    with shard_process(folder) as process:
        empty = uvloop.run(process.usage())
        fill(process, PAIRS, has_sessions=True)
        filled = uvloop.run(process.usage())
        _checkpoint(process)
        stored_bytes = _bytes(folder / "events")
        append(process, frames, producers=4)
        archiving = _checkpoint(process)
        stored_bytes = _bytes(folder / "events") - stored_bytes
        append(process, frames[:1], producers=1)
        before = uvloop.run(process.usage())
        writing = _checkpoint(process)
    with shard_process(folder) as process:
        loaded = uvloop.run(process.usage())
    events = RECORD_EVENTS * len(frames)
    columns_bytes = max(writing.peak_bytes - before.rss_bytes, 0)
    newest = max((folder / "shard-0000" / "snapshots").iterdir())
    with_session_bytes = (filled.rss_bytes - empty.rss_bytes) / PAIRS
    return {
        "pair_bytes": plain_bytes,
        "session_bytes": max(with_session_bytes - plain_bytes, 0),
        "movie_bytes": movie_bytes,
        "checkpoint_pair_bytes": (loaded.rss_bytes - empty.rss_bytes + columns_bytes) / PAIRS,
        "load_pair_s": loaded.recovery_cpu_s / PAIRS,
        "write_pair_s": writing.cpu_s / PAIRS,
        "archive_event_s": max(archiving.cpu_s - writing.cpu_s, 0) / events,
        "replay_event_s": _replay(folder.with_name("replayed"), frames) / events,
        "store_event_bytes": stored_bytes / events,
        "snapshot_pair_bytes": _bytes(newest) / PAIRS,
    }


def _plain(folder: Path) -> tuple[float, float]:
    """Bytes of memory a pair without a session, and a movie that was watched to its end."""
    with shard_process(folder) as process:
        empty = uvloop.run(process.usage())
        fill(process, PAIRS)
        filled = uvloop.run(process.usage())
        append(process, map(_watched, range(WATCHED_MOVIES)), producers=1)
        watched = uvloop.run(process.usage())
    pair_bytes = (filled.rss_bytes - empty.rss_bytes) / PAIRS
    return pair_bytes, (watched.rss_bytes - filled.rss_bytes) / WATCHED_MOVIES


def _watched(number: int) -> bytes:
    """Someone watches a movie of their own to its end."""
    at_ms = np.arange(0, WATCHED_MS, BUCKET_MS)
    code = np.zeros(len(at_ms), np.int32)
    user, slug = Strings.of(["ana"]), Strings.of([f"watched-{number:05}"])
    return Batch(user, slug, NO_SESSIONS, code, code, code, at_ms).encode()


def _checkpoint(process: ShardProcess) -> Usage:
    """What one takes, made now."""

    async def make() -> Usage:
        before = await process.usage()
        await process.checkpoint()
        return (await process.usage()).since(before)

    return uvloop.run(make())


def _replay(folder: Path, frames: list[bytes]) -> float:
    """Core seconds of a start with these in the log, and no snapshot."""
    with shard_process(folder) as process:
        append(process, frames, producers=4)
    with shard_process(folder) as process:
        return uvloop.run(process.usage()).recovery_cpu_s


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
