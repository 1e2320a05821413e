"""Health and statistics."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import text

from aggregator.messages import ShardStats
from api import documentation as doc
from api.context import router
from api.problems import unavailable
from api.schema import ShardAnswer, StatsAnswer, answer, seconds, time_of

blueprint = Blueprint("operating")


@blueprint.get("/healthz")
@doc.operation("Is the process alive", "Answers without asking a shard.", text="text/plain")
async def healthz(_: Request) -> HTTPResponse:
    return text("ok\n")


@blueprint.get("/readyz")
@doc.operation(
    "Is every shard ready",
    "200 when every shard has recovered and can write; else 503 with the reason.",
    text="text/plain",
    problems=(503,),
)
async def readyz(request: Request) -> HTTPResponse:
    failing = [stats for stats in await router(request).stats() if not stats.writable]
    if failing:
        reasons = (f"shard {stats.shard} cannot write: {stats.refusal}" for stats in failing)
        raise unavailable("; ".join(reasons))
    return text("ok\n")


@blueprint.get("/v1/stats")
@doc.operation(
    "Statistics", "Of the server and of each shard.", answer=StatsAnswer, problems=(503,)
)
async def stats(request: Request) -> HTTPResponse:
    return answer(_summary(await router(request).stats()))


def distinct_movies(shards: Sequence[ShardStats]) -> int:
    """How many movies there are; each counts once, however many shards have it."""
    if len(shards) == 1:
        return shards[0].movies
    return _distinct(b"".join(shard.movie_hashes for shard in shards))


@lru_cache(maxsize=1)
def _distinct(hashes: bytes) -> int:
    """Kept, because they are asked for more often than they change."""
    return len(np.unique(np.frombuffer(hashes, np.uint64)))


def _summary(shards: list[ShardStats]) -> StatsAnswer:
    erasing = (shard.erasing_since_ms for shard in shards)
    since = min((ms for ms in erasing if ms is not None), default=None)
    return StatsAnswer(
        users=sum(shard.users for shard in shards),
        movies=distinct_movies(shards),
        pairs=sum(shard.pairs for shard in shards),
        watching_now=sum(shard.watching_now for shard in shards),
        watch_seconds=seconds(sum(shard.watch_ms for shard in shards)),
        events=sum(shard.events for shard in shards),
        events_per_second=sum(shard.events_per_second for shard in shards),
        erasing=sum(shard.erasing for shard in shards),
        erasing_since=None if since is None else time_of(since),
        shards=[_shard_answer(shard) for shard in shards],
    )


def _shard_answer(shard: ShardStats) -> ShardAnswer:
    since, snapshot_ms = shard.erasing_since_ms, shard.snapshot_ms
    fields: dict[str, Any] = msgspec.structs.asdict(shard) | {
        "watch_seconds": seconds(shard.watch_ms),
        "snapshot_time": time_of(snapshot_ms) if snapshot_ms else None,
        "erasing_since": None if since is None else time_of(since),
    }
    return ShardAnswer(**{name: fields[name] for name in ShardAnswer.__struct_fields__})
