"""The shapes of answers. Positions and amounts are seconds, exact to the millisecond."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from aggregator.messages import Fact, MovieTotals, Progress, UserTotals
from api.answer import JsonAnswer
from api.problems import FieldError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: How a time of day ends; to look these up takes a third of what it takes to format them.
_SECOND = [f":{second:02}" for second in range(60)]
_MILLISECOND = [f".{ms:03}Z" for ms in range(1000)]

Seconds = int | float
T = TypeVar("T")

encode = msgspec.json.Encoder().encode


class EventsAnswer(msgspec.Struct, frozen=True):
    """What became of the events of a request; at most 100 errors are listed."""

    accepted: int
    duplicates: int
    rejected: int
    errors: list[FieldError]
    now: str


class Moment(msgspec.Struct, frozen=True):
    """A position, and when the user was there."""

    at: Seconds
    time: str


class ProgressAnswer(msgspec.Struct, frozen=True):
    """One user and one movie."""

    user: str
    slug: str
    latest: Moment
    furthest: Seconds
    resume_at: Seconds | None
    watch_seconds: Seconds
    unique_seconds: Seconds | None
    completed: bool | None
    completed_at: str | None
    views: int
    events: int
    duration: Seconds | None
    version: int


class UserAnswer(msgspec.Struct, frozen=True):
    """One user over all movies."""

    user: str
    watch_seconds: Seconds
    movies: int
    completed: int | None
    events: int
    last_event: str | None


class MovieAnswer(msgspec.Struct, frozen=True):
    """One movie over all users; `average_watch_seconds` is per viewer."""

    slug: str
    watch_seconds: Seconds
    viewers: int
    views: int
    completions: int | None
    events: int
    watching_now: int
    average_watch_seconds: Seconds
    duration: Seconds | None
    title: str | None
    first_event: str | None
    last_event: str | None


class MoviesAnswer(msgspec.Struct, frozen=True):
    """Movies, highest first, ties by slug."""

    movies: list[MovieAnswer]


class HistoryAnswer(msgspec.Struct, frozen=True):
    """A page of a user's history, newest first; `next` is the cursor of the next one."""

    movies: list[ProgressAnswer]
    next: str | None


class ListAnswer(msgspec.Struct, frozen=True):
    """Movies of a user's, newest first."""

    movies: list[ProgressAnswer]


class RetentionAnswer(msgspec.Struct, frozen=True):
    """By bucket, how many users saw a part of it, and how often it was played."""

    slug: str
    bucket_seconds: int
    viewers: list[int] | None
    plays: list[int] | None


class PointAnswer(msgspec.Struct, frozen=True):
    """An hour or a day."""

    start: str
    watch_seconds: Seconds


class TimeseriesAnswer(msgspec.Struct, frozen=True):
    """A movie's watch time by hour or day, without gaps."""

    slug: str
    step: str
    points: list[PointAnswer]


class FactAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event, or a change by hand, as it was received."""

    type: str
    received: str
    slug: str
    at: Seconds | None = None
    time: str | None = None
    session: str | None = None
    duration: Seconds | None = None


class ShardAnswer(msgspec.Struct, frozen=True):
    """How a shard is doing; nothing is said of stored events where a file is damaged."""

    shard: int
    users: int
    pairs: int
    streams: int
    watching_now: int
    watch_seconds: Seconds
    events: int
    events_per_second: float
    memory_bytes: int
    remembered_ids: int
    epoch: int
    log_sequence: int
    log_segments: int
    log_bytes: int
    broken_tails: int
    snapshot_sequence: int
    snapshot_time: str | None
    stored_sequence: int | None
    stored_events: int | None
    stored_bytes: int | None
    erasing: int
    erasing_since: str | None
    writable: bool


class StatsAnswer(msgspec.Struct, frozen=True):
    """The whole server. `erasing` erases, the oldest of `erasing_since`, are still on disk."""

    users: int
    movies: int
    pairs: int
    watching_now: int
    watch_seconds: Seconds
    events: int
    events_per_second: float
    erasing: int
    erasing_since: str | None
    shards: list[ShardAnswer]


class PositionAnswer(msgspec.Struct, frozen=True):
    """Where a viewer was."""

    position: Seconds


def seconds(ms: int) -> Seconds:
    """Whole seconds as an integer."""
    return ms / 1000 if ms % 1000 else ms // 1000


def time_of(unix_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    minute, ms = divmod(unix_ms, 60_000)
    return _minute(minute) + _SECOND[ms // 1000] + _MILLISECOND[ms % 1000]


@lru_cache(maxsize=1 << 13)
def _minute(number: int) -> str:
    """Without seconds; answers that are near in time have it in common."""
    return (_EPOCH + timedelta(minutes=number)).isoformat(timespec="minutes")[:-6]


def progress_answer(user: str, slug: str, progress: Progress) -> ProgressAnswer:
    # Without a resume point positions mean nothing, so nothing can be completed.
    completed = None if progress.resume_ms is None else progress.completed_t is not None
    return ProgressAnswer(
        user=user,
        slug=slug,
        latest=Moment(seconds(progress.latest_ms), time_of(progress.latest_t)),
        furthest=seconds(progress.furthest_ms),
        resume_at=_optional(progress.resume_ms, seconds),
        watch_seconds=seconds(progress.watch_ms),
        unique_seconds=_optional(progress.unique_ms, seconds),
        completed=completed,
        completed_at=_optional(progress.completed_t, time_of),
        views=progress.views,
        events=progress.events,
        duration=_optional(progress.duration_ms, seconds),
        version=progress.version,
    )


def user_answer(user: str, totals: UserTotals, by_position: bool) -> UserAnswer:
    """Nothing is known of completion unless positions are: `by_position`."""
    return UserAnswer(
        user=user,
        watch_seconds=seconds(totals.watch_ms),
        movies=totals.movies,
        completed=totals.completed if by_position else None,
        events=totals.events,
        last_event=_optional(totals.last_t, time_of),
    )


def movie_answer(
    totals: MovieTotals, by_position: bool, watch_ms: int | None = None
) -> MovieAnswer:
    """`watch_ms` replaces the watch time of all times by that of a window."""
    return MovieAnswer(
        slug=totals.slug,
        watch_seconds=seconds(totals.watch_ms if watch_ms is None else watch_ms),
        viewers=totals.viewers,
        views=totals.views,
        completions=totals.completions if by_position else None,
        events=totals.events,
        watching_now=totals.watching_now,
        average_watch_seconds=seconds(round(totals.watch_ms / max(totals.viewers, 1))),
        duration=_optional(totals.duration_ms, seconds),
        title=totals.title,
        first_event=_optional(totals.first_t, time_of),
        last_event=_optional(totals.last_t, time_of),
    )


def user_line(user: UserAnswer) -> bytes:
    """A line of an export, as the next two."""
    return _line({"type": "user"} | msgspec.to_builtins(user))


def progress_line(progress: ProgressAnswer) -> bytes:
    return _line({"type": "progress"} | msgspec.to_builtins(progress))


def fact_line(fact: Fact) -> bytes:
    return _line(
        FactAnswer(
            type=fact.kind,
            received=time_of(fact.received_ms),
            slug=fact.slug,
            at=_optional(fact.at_ms, seconds),
            time=_optional(fact.ts_ms, time_of),
            session=fact.session,
            duration=_optional(fact.duration_ms, seconds),
        )
    )


def answer(value: msgspec.Struct, headers: dict[str, str] | None = None) -> JsonAnswer:
    """A 200 with `value` as JSON."""
    return JsonAnswer(encode(value), headers)


def _line(value: Any) -> bytes:
    return encode(value) + b"\n"


def _optional(value: int | None, show: Callable[[int], T]) -> T | None:
    return None if value is None else show(value)
