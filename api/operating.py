"""Health, statistics and the front page."""

from typing import Any

import msgspec
import numpy as np
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import html, text

from aggregator.messages import ShardStats
from api import documentation as doc
from api.context import router
from api.problems import unavailable
from api.schema import ShardAnswer, StatsAnswer, answer, seconds, time_of

blueprint = Blueprint("operating")

_HOME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>playhead</title>
<style>
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem;
         color: #1d2733; background: #fbfbfd }
  h1 { font-size: 1.6rem; margin-bottom: 0 } p { margin-top: .2rem; color: #566 }
  a { color: #0b62c4; text-decoration: none } a:hover { text-decoration: underline }
  li { margin: .35rem 0 } code { background: #eef1f5; padding: .1rem .35rem; border-radius: .25rem }
</style>
<h1>playhead</h1>
<p>Watch time and resume points from player heartbeats.</p>
<ul>
  <li><a href="/docs">Documentation</a>, to read and to try
      (<a href="/openapi.json">OpenAPI</a>)</li>
  <li><a href="/v1/movies">Top movies</a></li>
  <li><a href="/v1/stats">Statistics</a>, <a href="/readyz">readiness</a></li>
  <li>Events go to <code>POST /</code>:
      <code>{"user": "username", "slug": "show_slug", "at": 4500}</code></li>
</ul>
"""


@blueprint.get("/")
@doc.operation("The front page", "Links, for people.", text="text/html")
async def home(_: Request) -> HTTPResponse:
    return html(_HOME)


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
    full = [stats.shard for stats in await router(request).stats() if not stats.writable]
    if full:
        raise unavailable(f"shard {', '.join(map(str, full))} cannot write: see the log")
    return text("ok\n")


@blueprint.get("/v1/stats")
@doc.operation(
    "Statistics", "Of the server and of each shard.", answer=StatsAnswer, problems=(503,)
)
async def stats(request: Request) -> HTTPResponse:
    return answer(_summary(await router(request).stats()))


def _summary(shards: list[ShardStats]) -> StatsAnswer:
    movies = np.unique(np.frombuffer(b"".join(shard.movie_hashes for shard in shards), np.uint64))
    erasing = (shard.erasing_since_ms for shard in shards)
    since = min((ms for ms in erasing if ms is not None), default=None)
    return StatsAnswer(
        users=sum(shard.users for shard in shards),
        movies=len(movies),
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
