"""The HTTP service around a store: the same Sanic as playhead's, with the same settings.

It takes events at the same addresses and answers the same questions, as far as
simple watch time goes: user, slug and at, by time of arrival. It imports nothing
of playhead, so that its memory is its own.
"""

import gc
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import Meta
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import BadRequest, NotFound
from sanic.response import empty, raw

#: As playhead's: the rules, the largest body, waiting connections, and the garbage collection.
MAX_GAP_MS = 60_000
IDLE_MS = 1_800_000
BODY_BYTES_MAX = 16 << 20
BACKLOG = 1024
GC_THRESHOLD = 20_000

App = Sanic[Any, Any]
T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Position = Annotated[float, Meta(ge=0, le=10_000_000)]


class Event(msgspec.Struct, gc=False):
    """One heartbeat; `at` is seconds."""

    user: Name
    slug: Name
    at: Position

    @property
    def at_ms(self) -> int:
        return round(self.at * 1000)


class Progress(msgspec.Struct, frozen=True):
    """Where a user was last in a movie, when (Unix ms), and how much that makes."""

    at_ms: int
    time_ms: int
    watch_ms: int
    events: int


class Store(Protocol):
    """Keeps the totals; what it has counted is as durable as it makes things."""

    async def open(self) -> None:
        """Connects, on the running loop."""

    async def close(self) -> None: ...

    async def count(self, event: Event) -> None: ...

    async def count_all(self, events: list[Event]) -> None: ...

    async def progress(self, user: str, slug: str) -> Progress | None: ...

    async def user_watch_ms(self, user: str) -> int | None: ...

    async def movie_watch_ms(self, slug: str) -> int | None: ...


_encode = msgspec.json.Encoder().encode
_event = msgspec.json.Decoder(Event)
_array = msgspec.json.Decoder(list[Event])


def new_app(name: str) -> App:
    """An application that says when it is ready, and nothing else yet."""
    app: App = Sanic(name, configure_logging=False)
    app.config.update(
        REQUEST_MAX_SIZE=BODY_BYTES_MAX,
        ACCESS_LOG=False,
        AUTO_EXTEND=False,
        FALLBACK_ERROR_FORMAT="json",
    )

    @app.get("/readyz")
    async def ready(_: Request) -> HTTPResponse:
        return empty()

    return app


def make_app(name: str, store: Store) -> App:
    """An application that counts and asks in `store`."""
    app = new_app(name)

    @app.before_server_start
    async def connect(_: App) -> None:
        await store.open()

    @app.after_server_stop
    async def disconnect(_: App) -> None:
        await store.close()

    @app.post("/", name="root")
    @app.post("/v1/events")
    async def take(request: Request) -> HTTPResponse:
        events = parse(request)
        if isinstance(events, Event):
            await store.count(events)
            return raw(accepted(1), content_type="application/json")
        await store.count_all(events)
        return raw(accepted(len(events)), content_type="application/json")

    @app.get("/v1/users/<user:str>/movies/<slug:str>")
    async def progress(_: Request, user: str, slug: str) -> HTTPResponse:
        user, slug = unquote(user), unquote(slug)
        found = known(await store.progress(user, slug))
        return answer(
            user=user,
            slug=slug,
            latest={"at": found.at_ms / 1000, "time": time_of(found.time_ms)},
            watch_seconds=found.watch_ms / 1000,
            events=found.events,
        )

    @app.get("/v1/users/<user:str>")
    async def of_user(_: Request, user: str) -> HTTPResponse:
        user = unquote(user)
        return answer(user=user, watch_seconds=known(await store.user_watch_ms(user)) / 1000)

    @app.get("/v1/movies/<slug:str>")
    async def of_movie(_: Request, slug: str) -> HTTPResponse:
        slug = unquote(slug)
        return answer(slug=slug, watch_seconds=known(await store.movie_watch_ms(slug)) / 1000)

    return app


def parse(request: Request) -> Event | list[Event]:
    """One event, or those of an array or of lines."""
    body = request.body
    try:
        if request.headers.get("content-type") == "application/x-ndjson":
            return _event.decode_lines(body)
        return _event.decode(body) if body.startswith(b"{") else _array.decode(body)
    except msgspec.MsgspecError as error:
        raise BadRequest(str(error)) from error


def known(found: T | None) -> T:
    if found is None:
        raise NotFound("never seen")
    return found


def answer(**fields: Any) -> HTTPResponse:
    return raw(_encode(fields), content_type="application/json")


@lru_cache
def accepted(events: int) -> bytes:
    return _encode({"accepted": events})


def time_of(unix_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run(app: App, port: int) -> None:
    """Serves on the loopback interface until the process is ended."""

    @app.after_server_start
    async def tune_garbage_collection(_: App) -> None:
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)

    app.run("127.0.0.1", port, single_process=True, motd=False, backlog=BACKLOG)
