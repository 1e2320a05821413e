"""/v1/movies: what was watched, by movie, and the catalogue."""

import re
import time
from typing import Annotated, get_args

import msgspec
import numpy as np
from msgspec import Meta
from sanic import Blueprint, HTTPResponse, Request

from aggregator.commands import Describe
from aggregator.event import Length
from aggregator.messages import HoursQuery, MovieTotals, Sort, TopQuery
from aggregator.rules import DAY_HOURS, hour_kept
from api import documentation as doc
from api.context import credits_positions, router, settings
from api.parameters import body_of, choice, name_of, pair_of, time_ms, whole_number
from api.problems import bad_request, not_found
from api.schema import (
    MovieAnswer,
    MoviesAnswer,
    PointAnswer,
    RetentionAnswer,
    TimeseriesAnswer,
    answer,
    movie_answer,
    seconds,
    time_of,
)
from api.shared import shared
from kernels.rows import BUCKET_MS, HOUR_MS

LIMIT_MAX = 1000
POINTS_MAX = 10_000
TITLE_CHARACTERS_MAX = 1024
#: Hours in each window; a window ends with the current hour.
WINDOWS = {"1h": 1, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}
STEPS = {"hour": 1, "day": DAY_HOURS}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

blueprint = Blueprint("movies", url_prefix="/v1/movies")


class CatalogueEntry(msgspec.Struct, frozen=True):
    """What is known of a movie beforehand. `duration` in seconds."""

    duration: Length | None = None
    title: Annotated[str, Meta(max_length=TITLE_CHARACTERS_MAX)] | None = None


@blueprint.get("/<slug:str>")
@doc.operation(
    "How long was this movie watched",
    "The totals of one movie over all its viewers.",
    answer=MovieAnswer,
    path={"slug": "show_slug"},
    problems=(404, 503),
)
async def movie(request: Request, slug: str) -> HTTPResponse:
    totals = await _totals(request, name_of("slug", slug))
    return answer(movie_answer(totals, credits_positions(request)))


@blueprint.put("/<slug:str>")
@doc.operation(
    "Describe a movie",
    """Replaces its entry in the catalogue; what is left out is unknown. The duration is used for
completion and resume points where a viewer's own events do not say one.""",
    answer=MovieAnswer,
    body={
        "application/json": {
            "schema": doc.reference(CatalogueEntry),
            "example": {"duration": 5400, "title": "Show"},
        }
    },
    path={"slug": "show_slug"},
    problems=(400, 413, 503),
)
async def describe(request: Request, slug: str) -> HTTPResponse:
    _, slug = pair_of("-", slug)
    entry = body_of(request, CatalogueEntry)
    if entry.title is not None and _CONTROL.search(entry.title):
        raise bad_request("title: has a control character")
    duration_ms = None if entry.duration is None else round(entry.duration * 1000)
    await router(request).describe(Describe(slug, duration_ms, entry.title))
    return answer(movie_answer(await _totals(request, slug), credits_positions(request)))


@blueprint.get("")
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
@shared
async def movies(request: Request) -> HTTPResponse:
    sort: Sort = choice(request, "sort", get_args(Sort), "watch_seconds")
    window = choice(request, "window", ("all", *WINDOWS), "all")
    if window != "all" and sort != "watch_seconds":
        raise bad_request(f"window: only watch_seconds has one, not {sort}")
    limit = whole_number(request, "limit", 20, LIMIT_MAX)
    since_hour = None if window == "all" else _hour_now() - WINDOWS[window] + 1
    ranked = await router(request).top(TopQuery(sort, limit, since_hour))
    totals = await router(request).movies([movie.slug for movie in ranked])
    by_position = credits_positions(request)
    return answer(
        MoviesAnswer(
            [
                movie_answer(
                    totals[movie.slug],
                    by_position,
                    movie.value if since_hour is not None else None,
                )
                for movie in ranked
                if movie.slug in totals  # else it was erased meanwhile
            ]
        )
    )


@blueprint.get("/<slug:str>/retention")
@doc.operation(
    "Which parts are watched",
    """For each 10 s of the movie: `viewers`, each user once, and `plays`, rewatches counted. Both
end with the last bucket that has a viewer.""",
    answer=RetentionAnswer,
    path={"slug": "show_slug"},
    problems=(404, 503),
)
async def retention(request: Request, slug: str) -> HTTPResponse:
    slug = name_of("slug", slug)
    found = await router(request).retention(slug)
    if found is None:
        raise _unknown_movie()
    viewers, plays = (counts.tolist() for counts in found)
    if not credits_positions(request):
        return answer(RetentionAnswer(slug, BUCKET_MS // 1000, None, None))
    return answer(RetentionAnswer(slug, BUCKET_MS // 1000, viewers, plays))


@blueprint.get("/<slug:str>/timeseries")
@doc.operation(
    "When was this movie watched",
    f"""Watch time by UTC hour or day, from the one that `from` is in to before `to`; without them
from the first event to now, but the newest {POINTS_MAX} points at most. Of days longer ago than
`hours_kept_days`, all stands at their first hour.""",
    answer=TimeseriesAnswer,
    path={"slug": "show_slug"},
    query={"from": (str, None), "to": (str, None), "step": (tuple(STEPS), "hour")},
    problems=(400, 404, 503),
)
async def timeseries(request: Request, slug: str) -> HTTPResponse:
    slug = name_of("slug", slug)
    step = choice(request, "step", tuple(STEPS), "hour")
    first, end = await _hours_asked_for(request, slug, STEPS[step])
    if first == end:
        return answer(TimeseriesAnswer(slug, step, []))
    hours = await router(request).hours(HoursQuery(slug, first, end))
    if hours is None:
        raise _unknown_movie()
    sums = np.add.reduceat(hours, np.arange(0, len(hours), STEPS[step]))
    points = [
        PointAnswer(time_of((first + index * STEPS[step]) * HOUR_MS), seconds(watch_ms))
        for index, watch_ms in enumerate(sums.tolist())
    ]
    return answer(TimeseriesAnswer(slug, step, points))


async def _hours_asked_for(request: Request, slug: str, step_hours: int) -> tuple[int, int]:
    """The first hour and the one after the last, in whole steps."""
    from_ms, to_ms = time_ms(request, "from"), time_ms(request, "to")
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise bad_request("from: must be before `to`")
    if to_ms is None:
        to_ms = (_hour_now() + 1) * HOUR_MS
    step_ms = step_hours * HOUR_MS
    end = -(-to_ms // step_ms) * step_hours
    if from_ms is None:
        most_hours = POINTS_MAX * step_hours
        from_ms = max(await _first_ms(request, slug), (end - most_hours) * HOUR_MS)
    first = min(from_ms, to_ms) // step_ms * step_hours
    if first < 0:
        raise bad_request("from: must not be before 1970")
    if end - first > POINTS_MAX * step_hours:
        raise bad_request(f"from, to: these are more than {POINTS_MAX} points; ask for fewer")
    return first, end


async def _first_ms(request: Request, slug: str) -> int:
    """When a movie's hours begin; now, without any."""
    first_t = (await _totals(request, slug)).first_t
    if first_t is None:
        return (_hour_now() + 1) * HOUR_MS
    kept_days = settings(request).hours_kept_days
    return hour_kept(first_t // HOUR_MS, _hour_now() * HOUR_MS, kept_days) * HOUR_MS


async def _totals(request: Request, slug: str) -> MovieTotals:
    totals = (await router(request).movies([slug])).get(slug)
    if totals is None:
        raise _unknown_movie()
    return totals


def _unknown_movie() -> Exception:
    return not_found("No one has watched this movie, and it is not in the catalogue")


def _hour_now() -> int:
    return time.time_ns() // 10**6 // HOUR_MS
