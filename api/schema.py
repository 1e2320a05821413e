"""The shapes of answers. Positions and amounts are seconds, exact to the millisecond."""

from datetime import UTC, datetime, timedelta

import msgspec

from aggregator.messages import MovieTotals, Progress, UserTotals
from api.problems import FieldError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Seconds = int | float


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
    completed: int
    events: int
    last_event: str


class MovieAnswer(msgspec.Struct, frozen=True):
    """One movie over all users; `average_watch_seconds` is per viewer."""

    slug: str
    watch_seconds: Seconds
    viewers: int
    views: int
    completions: int
    events: int
    watching_now: int
    average_watch_seconds: Seconds
    duration: Seconds | None
    title: str | None
    first_event: str
    last_event: str


class MoviesAnswer(msgspec.Struct, frozen=True):
    """Movies, highest first, ties by slug."""

    movies: list[MovieAnswer]


class ShardAnswer(msgspec.Struct, frozen=True):
    """How a shard is doing."""

    shard: int
    users: int
    pairs: int
    streams: int
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
    writable: bool


class StatsAnswer(msgspec.Struct, frozen=True):
    """The whole server."""

    users: int
    movies: int
    pairs: int
    events: int
    events_per_second: float
    shards: list[ShardAnswer]


class PositionAnswer(msgspec.Struct, frozen=True):
    """Where a viewer was."""

    position: Seconds


def seconds(ms: int) -> Seconds:
    """Whole seconds as an integer."""
    whole, rest = divmod(ms, 1000)
    return ms / 1000 if rest else whole


def time_of(unix_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = _EPOCH + timedelta(milliseconds=unix_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def progress_answer(progress: Progress) -> ProgressAnswer:
    completed_t = progress.completed_t
    return ProgressAnswer(
        user=progress.user,
        slug=progress.slug,
        latest=Moment(seconds(progress.latest_ms), time_of(progress.latest_t)),
        furthest=seconds(progress.furthest_ms),
        resume_at=_optional_seconds(progress.resume_ms),
        watch_seconds=seconds(progress.watch_ms),
        unique_seconds=_optional_seconds(progress.unique_ms),
        # Without a resume point positions mean nothing, so nothing can be completed.
        completed=None if progress.resume_ms is None else completed_t is not None,
        completed_at=None if completed_t is None else time_of(completed_t),
        views=progress.views,
        events=progress.events,
        duration=_optional_seconds(progress.duration_ms),
        version=progress.version,
    )


def user_answer(totals: UserTotals) -> UserAnswer:
    return UserAnswer(
        user=totals.user,
        watch_seconds=seconds(totals.watch_ms),
        movies=totals.movies,
        completed=totals.completed,
        events=totals.events,
        last_event=time_of(totals.last_t),
    )


def movie_answer(totals: MovieTotals, watch_ms: int | None = None) -> MovieAnswer:
    """`watch_ms` replaces the watch time of all times by that of a window."""
    return MovieAnswer(
        slug=totals.slug,
        watch_seconds=seconds(totals.watch_ms if watch_ms is None else watch_ms),
        viewers=totals.viewers,
        views=totals.views,
        completions=totals.completions,
        events=totals.events,
        watching_now=totals.watching_now,
        average_watch_seconds=seconds(round(totals.watch_ms / totals.viewers)),
        duration=None,
        title=None,
        first_event=time_of(totals.first_t),
        last_event=time_of(totals.last_t),
    )


def _optional_seconds(ms: int | None) -> Seconds | None:
    return None if ms is None else seconds(ms)
