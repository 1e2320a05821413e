"""Watch time in Redis: a hash a pair, counters of users and movies, one Lua script for it all.

`python -m benchmarks.peers.redis_service --redis-socket PATH PORT` runs it until it
is ended. Besides, `GET /get/{user}/{slug}` is a plain GET of a string; `POST /get`
takes the bodies of events and sets these strings, and counts nothing.
"""

from pathlib import Path
from urllib.parse import unquote

import msgspec
from cyclopts import run as run_command
from redis.asyncio import ConnectionPool, Redis, UnixDomainSocketConnection
from sanic import HTTPResponse, Request
from sanic.response import empty

from benchmarks.peers.service import (
    IDLE_MS,
    MAX_GAP_MS,
    App,
    Event,
    Progress,
    known,
    make_app,
    parse,
    run,
)

#: As many connections as requests under way: Redis answers with one fsync what came together.
CONNECTIONS_MAX = 4096

#: Three keys an event, its pair, user and movie; and its position.
SCRIPT = f"""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
for i, given in ipairs(ARGV) do
  local pair, user, movie = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local at_ms, time_ms, credit_ms = tonumber(given), now_ms, 0
  local last = redis.call('HMGET', pair, 'at_ms', 'time_ms', 'watch_ms', 'events')
  local is_new = not last[1]
  if not is_new then
    local step_ms, last_ms = at_ms - last[1], tonumber(last[2])
    time_ms = math.max(now_ms, last_ms)
    if time_ms - last_ms <= {IDLE_MS} and 0 <= step_ms and step_ms <= {MAX_GAP_MS} then
      credit_ms = step_ms
    end
  end
  redis.call('HSET', pair, 'at_ms', at_ms, 'time_ms', time_ms,
    'watch_ms', (last[3] or 0) + credit_ms, 'events', (last[4] or 0) + 1)
  if is_new or credit_ms > 0 then
    redis.call('INCRBY', user, credit_ms)
    redis.call('INCRBY', movie, credit_ms)
  end
end
"""


class RedisStore:
    """Counted is what Redis has answered, after its fsync where that is `always`."""

    def __init__(self, socket: Path, events_a_run: int) -> None:
        self.redis = Redis(
            connection_pool=ConnectionPool(
                connection_class=UnixDomainSocketConnection,
                path=str(socket),
                max_connections=CONNECTIONS_MAX,
                socket_timeout=None,  # a timer for each command costs a fifth of it
            )
        )
        self._events_a_run = events_a_run
        self._script = self.redis.register_script(SCRIPT)

    async def open(self) -> None:
        await self.redis.script_load(SCRIPT)

    async def close(self) -> None:
        await self.redis.aclose()

    async def count(self, event: Event) -> None:
        await self._script(keys_of(event), [event.at_ms])

    async def count_all(self, events: list[Event]) -> None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for first in range(0, len(events), self._events_a_run):
                some = events[first : first + self._events_a_run]
                keys = [key for event in some for key in keys_of(event)]
                pipeline.evalsha(self._script.sha, len(keys), *keys, *[e.at_ms for e in some])
            await pipeline.execute()

    async def progress(self, user: str, slug: str) -> Progress | None:
        pair = pair_key(user, slug)
        values = await self.redis.hmget(pair, ["at_ms", "time_ms", "watch_ms", "events"])
        return None if values[0] is None else Progress(*[int(value or 0) for value in values])

    async def user_watch_ms(self, user: str) -> int | None:
        return number(await self.redis.get(f"user:{user}"))

    async def movie_watch_ms(self, slug: str) -> int | None:
        return number(await self.redis.get(f"movie:{slug}"))


def keys_of(event: Event) -> tuple[str, str, str]:
    return pair_key(event.user, event.slug), f"user:{event.user}", f"movie:{event.slug}"


def pair_key(user: str, slug: str) -> str:
    return f"pair:{user}\n{slug}"  # no name has a line feed


def string_key(user: str, slug: str) -> str:
    return f"string:{user}\n{slug}"


def number(value: bytes | str | None) -> int | None:
    return None if value is None else int(value)


def add_strings(app: App, redis: Redis) -> None:
    """Plain strings, each the last event of a pair as JSON."""

    @app.post("/get")
    async def set_strings(request: Request) -> HTTPResponse:
        events = parse(request)
        some = [events] if isinstance(events, Event) else events
        await redis.mset({string_key(e.user, e.slug): msgspec.json.encode(e) for e in some})
        return empty()

    @app.get("/get/<user:str>/<slug:str>")
    async def get_string(_: Request, user: str, slug: str) -> HTTPResponse:
        value = await redis.get(string_key(unquote(user), unquote(slug)))
        return HTTPResponse(known(value), content_type="application/json")


def main(port: int, *, redis_socket: Path, events_a_run: int = 1) -> None:
    """Serve until ended.

    Parameters
    ----------
    port
        The port, on the loopback interface.
    redis_socket
        The socket of redis-server.
    events_a_run
        Events of a batch that one run of the script counts; more are faster.
    """
    store = RedisStore(redis_socket, events_a_run)
    app = make_app("redis", store)
    add_strings(app, store.redis)
    run(app, port)


if __name__ == "__main__":
    run_command(main)
