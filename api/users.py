"""/v1/users: what a user watched, where she was in each movie, and what she changes by hand."""

import logging
from collections.abc import AsyncIterator
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, cast

import msgspec
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import empty

from aggregator.commands import (
    Erase,
    Hide,
    MarkCompleted,
    PairCommand,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.errors import NoAnswerError
from aggregator.event import Seconds
from aggregator.messages import (
    ContinueQuery,
    ExportRequest,
    HistoryQuery,
    Listed,
    Place,
    Progress,
    ProgressQuery,
    decode_answer,
)
from api import documentation as doc
from api.answer import encoded_answer, encoded_response
from api.context import credits_positions, router
from api.direct import Awaited
from api.parameters import body_of, cursor, if_versions, name_of, pair_of, place, whole_number
from api.problems import ProblemError, not_found
from api.protocol import BoundedProtocol
from api.schema import (
    HistoryAnswer,
    ListAnswer,
    ProgressAnswer,
    UserAnswer,
    answer,
    encode,
    fact_line,
    progress_answer,
    progress_line,
    user_answer,
    user_line,
)

LIMIT_MAX = 1000
#: So many facts, or movies, at a time are read for an export.
EXPORT_PAGE = 50_000

_PAIR = {"user": "username", "slug": "show_slug"}

blueprint = Blueprint("users", url_prefix="/v1/users")
_logger = logging.getLogger(__name__)


class PositionBody(msgspec.Struct, frozen=True):
    """A position by hand, in seconds."""

    at: Seconds


@blueprint.get("/<user:str>")
@doc.operation(
    "How long did this user watch",
    "The totals of one user over all movies.",
    answer=UserAnswer,
    path={"user": "username"},
    problems=(404, 503),
)
async def user(request: Request, user: str) -> HTTPResponse:
    name = name_of("user", user)
    totals = await router(request).user(name)
    if totals is None:
        raise _unknown_user()
    return answer(user_answer(name, totals, credits_positions(request)))


@blueprint.delete("/<user:str>")
@doc.operation(
    "Erase a user",
    """All of a user is gone from the answers at once, and from every file within the time that
/v1/stats shows as `erasing_since`. Totals of movies drop the user's part.""",
    status=204,
    path={"user": "username"},
    problems=(404, 503),
)
async def erase_user(request: Request, user: str) -> HTTPResponse:
    outcome = await router(request).command(Erase(name_of("user", user)))
    if outcome.status == "unknown":
        raise _unknown_user()
    return empty()


@blueprint.get("/<user:str>/movies")
@doc.operation(
    "What has this user watched",
    """The history, newest first. `next` is the `cursor` of the next page; what moves up meanwhile
is not shown twice.""",
    answer=HistoryAnswer,
    path={"user": "username"},
    query={"limit": (int, 20), "cursor": (str, None)},
    problems=(400, 404, 503),
)
async def history(request: Request, user: str) -> HTTPResponse:
    name = name_of("user", user)
    limit = whole_number(request, "limit", 20, LIMIT_MAX)
    page = await router(request).history(HistoryQuery(name, limit, place(request)))
    if page is None:
        raise _unknown_user()
    return answer(
        HistoryAnswer(_progresses(name, page.movies), cursor(page.next) if page.next else None)
    )


@blueprint.get("/<user:str>/continue")
@doc.operation(
    "What can this user go on with",
    """Newest first: movies with a resume point above 0 that are not hidden, and not completed
unless they were begun again.""",
    answer=ListAnswer,
    path={"user": "username"},
    query={"limit": (int, 20)},
    problems=(400, 404, 503),
)
async def continue_list(request: Request, user: str) -> HTTPResponse:
    name = name_of("user", user)
    limit = whole_number(request, "limit", 20, LIMIT_MAX)
    movies = await router(request).continue_list(ContinueQuery(name, limit))
    if movies is None:
        raise _unknown_user()
    return answer(ListAnswer(_progresses(name, movies)))


def _begin_progress(ctx: Any, body: bytes, _: str, user: str, slug: str) -> Awaited | None:
    if body:
        return None
    query = ProgressQuery(name_of("user", user), name_of("slug", slug))
    return Awaited(ctx.router.ask_about(query.user, query), partial(_encode_progress, query))


def _encode_progress(query: ProgressQuery, encoded: msgspec.Raw) -> bytes:
    progress = decode_answer(query, encoded)
    if progress is None:
        return _encoded_unknown_pair()
    found = progress_answer(query.user, query.slug, progress)
    return encoded_answer(encode(found), [(b"ETag", _etag(found).encode())])


@lru_cache(maxsize=1)
def _encoded_unknown_pair() -> bytes:
    """The 404. It is kept, as players ask of each movie before there is anything to know."""
    return encoded_response(_unknown_pair().response(), keep_alive=True)


@blueprint.get("/<user:str>/movies/<slug:str>", ctx_begin=_begin_progress)
@doc.operation(
    "Where was this user in this movie",
    """The latest moment, where to resume, and all else about one user and one movie. The `ETag` is
its version.""",
    answer=ProgressAnswer,
    path=_PAIR,
    problems=(404, 503),
)
async def progress(request: Request, user: str, slug: str) -> HTTPResponse:
    user, slug = name_of("user", user), name_of("slug", slug)
    return _progress_response(_found(user, slug, await router(request).progress(user, slug)))


@blueprint.delete("/<user:str>/movies/<slug:str>")
@doc.operation(
    "Erase a movie of a user's",
    "As erasing a user, for one movie.",
    status=204,
    path=_PAIR,
    problems=(404, 503),
)
async def erase_pair(request: Request, user: str, slug: str) -> HTTPResponse:
    outcome = await router(request).command(Erase(name_of("user", user), name_of("slug", slug)))
    if outcome.status == "unknown":
        raise _unknown_pair()
    return empty()


@blueprint.put("/<user:str>/movies/<slug:str>/position")
@doc.operation(
    "Set the position by hand",
    """Sets the latest moment and credits nothing. With `If-Match: "<version>"` only while that is
the version: if another device was faster, the 412 has the progress as it is now.""",
    answer=ProgressAnswer,
    body={"application/json": {"schema": doc.reference(PositionBody), "example": {"at": 300}}},
    path=_PAIR,
    headers=("If-Match",),
    problems=(400, 412, 413, 503),
)
async def set_position(request: Request, user: str, slug: str) -> HTTPResponse:
    user, slug = pair_of(user, slug)
    at_ms = round(body_of(request, PositionBody).at * 1000)
    return await _change(request, SetPosition(user, slug, at_ms, if_versions(request)))


@blueprint.put("/<user:str>/movies/<slug:str>/completed")
@doc.operation(
    "Mark as watched",
    "Also a movie that was never played.",
    answer=ProgressAnswer,
    path=_PAIR,
    problems=(409, 503),
)
async def mark_completed(request: Request, user: str, slug: str) -> HTTPResponse:
    _check_completion_is_known(request)
    return await _change(request, MarkCompleted(*pair_of(user, slug)))


@blueprint.delete("/<user:str>/movies/<slug:str>/completed")
@doc.operation(
    "Mark as not watched",
    "Takes the completion back, until a later event completes the movie again.",
    answer=ProgressAnswer,
    path=_PAIR,
    problems=(404, 409, 503),
)
async def unmark_completed(request: Request, user: str, slug: str) -> HTTPResponse:
    _check_completion_is_known(request)
    return await _change(request, UnmarkCompleted(*pair_of(user, slug)))


@blueprint.put("/<user:str>/movies/<slug:str>/hidden")
@doc.operation(
    "Leave out of the continue list",
    "Until the movie's next event.",
    answer=ProgressAnswer,
    path=_PAIR,
    problems=(404, 503),
)
async def hide(request: Request, user: str, slug: str) -> HTTPResponse:
    return await _change(request, Hide(*pair_of(user, slug)))


@blueprint.get("/<user:str>/export", ctx_streams=True)
@doc.operation(
    "Everything held about a user",
    """One JSON object a line, each with a `type`: `user`, then a `progress` a movie, then what was
received, in order: `event`, `position`, `completed`, `uncompleted`, `hidden`.""",
    text="application/x-ndjson",
    path={"user": "username"},
    problems=(404, 503),
)
async def export(request: Request, user: str) -> HTTPResponse | None:
    name = name_of("user", user)
    totals = await router(request).user(name)
    if totals is None:
        raise _unknown_user()
    connection = cast(BoundedProtocol, request.protocol)
    connection.start_stream()
    response = await request.respond(content_type="application/x-ndjson")
    await response.send(user_line(user_answer(name, totals, credits_positions(request))))
    try:
        async for lines in _exported(request, name):
            await connection.taken()
            await response.send(lines)
    except NoAnswerError as error:
        _logger.error("an export breaks off: %s", error)
        connection.abort()  # what ends in order looks whole
        return None
    await response.eof()
    return None


async def _exported(request: Request, user: str) -> AsyncIterator[bytes]:
    after: Place | None = None
    while page := await router(request).history(HistoryQuery(user, EXPORT_PAGE, after)):
        yield b"".join(map(progress_line, _progresses(user, page.movies)))
        after = page.next
        if after is None:
            break
    place: tuple[int, int] | None = (0, 0)
    while place is not None:
        part = await router(request).export(ExportRequest(user, place, EXPORT_PAGE))
        yield b"".join(map(fact_line, part.facts))
        place = part.next


async def _change(request: Request, command: PairCommand) -> HTTPResponse:
    outcome = await router(request).command(command)
    changed = None
    if outcome.progress is not None:
        changed = progress_answer(command.user, command.slug, outcome.progress)
    if outcome.status == "conflict":
        raise _conflict(changed)
    if changed is None:
        raise _unknown_pair()
    return _progress_response(changed)


def _found(user: str, slug: str, progress: Progress | None) -> ProgressAnswer:
    if progress is None:
        raise _unknown_pair()
    return progress_answer(user, slug, progress)


def _progress_response(progress: ProgressAnswer) -> HTTPResponse:
    return answer(progress, {"ETag": _etag(progress)})


def _etag(progress: ProgressAnswer) -> str:
    return f'"{progress.version}"'


def _progresses(user: str, movies: list[Listed]) -> list[ProgressAnswer]:
    return [progress_answer(user, movie.slug, movie.progress) for movie in movies]


def _check_completion_is_known(request: Request) -> None:
    if not credits_positions(request):
        raise ProblemError(
            HTTPStatus.CONFLICT, "With --credit duration positions, and completion, are unknown"
        )


def _conflict(current: ProgressAnswer | None) -> ProblemError:
    """The 412; besides what every problem says, it says all of the progress."""
    if current is None:
        return ProblemError(
            HTTPStatus.PRECONDITION_FAILED, "There is nothing yet that could have this version"
        )
    return ProblemError(
        HTTPStatus.PRECONDITION_FAILED,
        f"Another device was faster: the version is {current.version} now. Decide again, and "
        "send If-Match with that",
        headers={"ETag": f'"{current.version}"'},
        members=current,
    )


def _unknown_user() -> ProblemError:
    return not_found("This user has not watched anything")


def _unknown_pair() -> ProblemError:
    return not_found("This user has not watched this movie")
