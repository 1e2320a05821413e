"""GET /v1/live: what is going on, once a second, to any number of listeners.

Each worker asks the shards once a second while anyone listens to it, encodes
the answer once, and wakes its listeners. A listener that is slow gets the newest
frame when it is ready for one, never those in between, so nothing queues up.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from sanic import Blueprint, Request, Sanic

from aggregator.errors import NoAnswerError
from aggregator.messages import ShardStats, TopQuery
from aggregator.router import Router
from api import documentation as doc
from api.context import settings
from api.operating import distinct_movies
from api.problems import unavailable
from api.protocol import BoundedProtocol
from api.schema import Seconds, encode, seconds, time_of
from kernels.rows import HOUR_MS

#: From one frame to the next.
PERIOD_S = 1.0
#: Shards that take longer are named as away; listeners should hear of it soon.
ANSWER_S = 2.0
#: Movies in a frame.
TOP = 10
#: What a browser waits before it connects again.
RETRY_MS = 2000
#: Listeners woken in one turn of the loop; requests get theirs in between.
WOKEN_TOGETHER = 50

blueprint = Blueprint("live")
_logger = logging.getLogger(__name__)


class LiveMovie(msgspec.Struct, frozen=True):
    """A movie and its watch time in the current UTC hour so far."""

    slug: str
    title: str | None
    watch_seconds: Seconds
    watching_now: int


class LiveAnswer(msgspec.Struct, frozen=True):
    """The `data` of a frame; `top` are the movies with the most watch time, ties by slug."""

    time: str
    events_per_second: float
    watching_now: int
    users: int
    movies: int
    pairs: int
    events: int
    top: list[LiveMovie]


class Frame(NamedTuple):
    """A server-sent event as it goes out, and its number."""

    number: int
    encoded: bytes


class Listener(Protocol):
    """The connection to a client."""

    @property
    def is_stalled(self) -> bool: ...

    def abort(self) -> None: ...


class Live:
    """The newest frame, kept new while anyone listens. Use from one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[bytes]]) -> None:
        """`ask` makes the next frame, and raises nothing."""
        self._ask = ask
        self._frame = Frame(0, b"")
        self._listeners: set[Listener] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @contextlib.contextmanager
    def joined(self, listener: Listener) -> Iterator[None]:
        """Frames are made meanwhile."""
        self._listeners.add(listener)
        if self._asking is None and not self._closed:
            self._asking = asyncio.create_task(self._keep_asking())
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def after(self, number: int) -> Frame | None:
        """The newest frame, once there is one after `number`; None when there will be none."""
        while not self._closed:
            if self._frame.number > number:
                return self._frame
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken
        return None

    def close(self) -> None:
        """Ends all streams; those that cannot be told are cut."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
        self._wake(len(self._waiting))
        for listener in tuple(self._listeners):
            if listener.is_stalled:
                listener.abort()

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        number = self._frame.number
        while self._listeners:
            due = loop.time() + PERIOD_S
            number += 1
            self._frame = Frame(number, await self._ask())
            waiting = len(self._waiting)
            for start in range(0, waiting, WOKEN_TOGETHER):
                self._wake(min(WOKEN_TOGETHER, waiting - start))
                await asyncio.sleep(0)
            await asyncio.sleep(due - loop.time())
        # No one is left to whom an old frame could be shown; the next listener waits for a new one.
        self._frame = Frame(0, b"")
        self._asking = None

    def _wake(self, count: int) -> None:
        for _ in range(count):
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)


@blueprint.before_server_start
async def prepare(app: Sanic[Any, Any]) -> None:
    app.ctx.live = Live(lambda: next_frame(app.ctx.router))


@blueprint.before_server_stop
async def stop(app: Sanic[Any, Any]) -> None:
    app.ctx.live.close()


@blueprint.get("/v1/live", ctx_streams=True)
@doc.operation(
    "What is going on",
    """Server-sent events: a frame at once and then one a second, until the client goes. While
shards are away, the stream stays and sends events named `problem`, with a problem document. To
try it: `curl -N`, or the front page.""",
    answer=LiveAnswer,
    text="text/event-stream",
    problems=(503,),
)
async def live(request: Request) -> None:
    frames: Live = request.app.ctx.live
    most = settings(request).connections_max // 2
    if len(frames) >= most:
        raise unavailable(f"{most} listeners are connected, half of all connections")
    connection = cast(BoundedProtocol, request.protocol)
    connection.start_stream()
    response = await request.respond(
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
    with frames.joined(connection):
        await response.send(b"retry: %d\n\n" % RETRY_MS)
        number = 0
        while True:
            await connection.taken()
            frame = await frames.after(number)
            if frame is None:
                return
            number = frame.number
            await response.send(frame.encoded)


async def next_frame(router: Router) -> bytes:
    """The state of things as a server-sent event, or why it is not known."""
    try:
        async with asyncio.timeout(2 * ANSWER_S):
            return _message(await _look(router))
    except NoAnswerError as error:
        return _problem(str(error))
    except TimeoutError:
        return _problem("the shards take long to answer")
    except Exception:
        _logger.exception("no frame for /v1/live")
        return _problem("a fault of playhead's own; its log has the details")


async def _look(router: Router) -> LiveAnswer:
    now_ms = time.time_ns() // 10**6
    results = await router.stats_of_each(ANSWER_S)
    shards = [result for result in results if isinstance(result, ShardStats)]
    if len(shards) < len(results):
        away = (result for result in results if isinstance(result, NoAnswerError))
        raise NoAnswerError("; ".join(map(str, away)))
    ranked = await router.top(TopQuery("watch_seconds", TOP, since_hour=now_ms // HOUR_MS))
    watched = [movie for movie in ranked if movie.value]
    totals = await router.movies([movie.slug for movie in watched])
    return LiveAnswer(
        time=time_of(now_ms),
        events_per_second=sum(shard.events_per_second for shard in shards),
        watching_now=sum(shard.watching_now for shard in shards),
        users=sum(shard.users for shard in shards),
        movies=distinct_movies(shards),
        pairs=sum(shard.pairs for shard in shards),
        events=sum(shard.events for shard in shards),
        top=[
            LiveMovie(
                slug=movie.slug,
                title=totals[movie.slug].title,
                watch_seconds=seconds(movie.value),
                watching_now=totals[movie.slug].watching_now,
            )
            for movie in watched
            if movie.slug in totals  # it may have been erased in between
        ],
    )


def _message(answer: LiveAnswer) -> bytes:
    return b"data: %b\n\n" % encode(answer)


def _problem(detail: str) -> bytes:
    body = unavailable(detail).response().body
    assert body is not None
    return b"event: problem\ndata: %b\n\n" % body
