"""GET /v1/…: what was watched, by movie, by user, and by both."""

import re
import time
from typing import Any, get_args
from urllib.parse import unquote_to_bytes

import msgspec
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import raw

from aggregator.event import NAME_BYTES_MAX
from aggregator.messages import Sort, TopQuery
from aggregator.rules import HOUR_MS
from api import documentation as doc
from api.context import router
from api.problems import bad_request, not_found
from api.schema import (
    MovieAnswer,
    MoviesAnswer,
    ProgressAnswer,
    UserAnswer,
    movie_answer,
    progress_answer,
    user_answer,
)

LIMIT_MAX = 1000
#: Hours in each window; a window ends with the current hour.
WINDOWS = {"1h": 1, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}

blueprint = Blueprint("queries", url_prefix="/v1")
_encode = msgspec.json.Encoder().encode


def answer(value: msgspec.Struct, headers: dict[str, str] | None = None) -> HTTPResponse:
    return raw(_encode(value), headers=headers, content_type="application/json")


@blueprint.get("/movies/<slug:str>")
@doc.operation(
    "How long was this movie watched",
    "The totals of one movie over all its viewers.",
    answer=MovieAnswer,
    path={"slug": "show_slug"},
    problems=(404, 503),
)
async def movie(request: Request, slug: str) -> HTTPResponse:
    slug = name_of("slug", slug)
    totals = (await router(request).movies([slug])).get(slug)
    if totals is None:
        raise not_found("No one has watched this movie")
    return answer(movie_answer(totals))


@blueprint.get("/movies")
@doc.operation(
    "The top movies",
    """Highest first, ties by slug. A `window` is whole UTC hours, the current one included; then
`watch_seconds` is that of the window, and everything else of all times.""",
    answer=MoviesAnswer,
    query={
        "sort": (get_args(Sort), "watch_seconds"),
        "window": (("all", *WINDOWS), "all"),
        "limit": (int, 20),
    },
    problems=(400, 503),
)
async def movies(request: Request) -> HTTPResponse:
    sort: Sort = choice(request, "sort", get_args(Sort), "watch_seconds")
    window = choice(request, "window", ("all", *WINDOWS), "all")
    if window != "all" and sort != "watch_seconds":
        raise bad_request(f"window: only watch_seconds has one, not {sort}")
    limit = whole_number(request, "limit", 20, LIMIT_MAX)
    since_hour = None
    if window != "all":
        since_hour = time.time_ns() // 10**6 // HOUR_MS - WINDOWS[window] + 1
    ranked = await router(request).top(TopQuery(sort, limit, since_hour))
    totals = await router(request).movies([movie.slug for movie in ranked])
    return answer(
        MoviesAnswer(
            [
                movie_answer(totals[movie.slug], movie.value if since_hour is not None else None)
                for movie in ranked
            ]
        )
    )


@blueprint.get("/users/<user:str>")
@doc.operation(
    "How long did this user watch",
    "The totals of one user over all movies.",
    answer=UserAnswer,
    path={"user": "username"},
    problems=(404, 503),
)
async def user(request: Request, user: str) -> HTTPResponse:
    totals = await router(request).user(name_of("user", user))
    if totals is None:
        raise not_found("This user has not watched anything")
    return answer(user_answer(totals))


@blueprint.get("/users/<user:str>/movies/<slug:str>")
@doc.operation(
    "Where was this user in this movie",
    """The latest moment, where to resume, and all else about one user and one movie. The `ETag` is
its version.""",
    answer=ProgressAnswer,
    path={"user": "username", "slug": "show_slug"},
    problems=(404, 503),
)
async def progress(request: Request, user: str, slug: str) -> HTTPResponse:
    found = await router(request).progress(name_of("user", user), name_of("slug", slug))
    if found is None:
        raise not_found("This user has not watched this movie")
    return answer(progress_answer(found), {"ETag": f'"{found.version}"'})


def name_of(parameter: str, segment: str) -> str:
    """The user or slug in a percent-encoded path segment."""
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"{parameter}: the path is not UTF-8") from error
    if len(name.encode()) > NAME_BYTES_MAX:
        raise bad_request(f"{parameter}: has more than {NAME_BYTES_MAX} bytes")
    return name


def choice(request: Request, parameter: str, choices: tuple[str, ...], default: str) -> Any:
    value: str = request.args.get(parameter, default)
    if value not in choices:
        raise bad_request(f"{parameter}: expected one of {', '.join(choices)}, got {value}")
    return value


def whole_number(request: Request, parameter: str, default: int, maximum: int) -> int:
    value: str = request.args.get(parameter, str(default))
    if not (re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= maximum):
        raise bad_request(f"{parameter}: expected a whole number from 1 to {maximum}, got {value}")
    return int(value)
