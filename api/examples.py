"""An answer of each kind, for the documentation: one user's evening."""

import msgspec

from api.schema import (
    EventsAnswer,
    HistoryAnswer,
    ListAnswer,
    Moment,
    MovieAnswer,
    MoviesAnswer,
    PointAnswer,
    PositionAnswer,
    ProgressAnswer,
    RetentionAnswer,
    ShardAnswer,
    StatsAnswer,
    TimeseriesAnswer,
    UserAnswer,
)

_PROGRESS = ProgressAnswer(
    user="username",
    slug="show_slug",
    latest=Moment(4500, "2026-01-31T20:15:00.000Z"),
    furthest=4700,
    resume_at=4500,
    watch_seconds=4630.5,
    unique_seconds=4430.5,
    completed=False,
    completed_at=None,
    views=2,
    events=930,
    duration=5400,
    version=930,
)
_MOVIE = MovieAnswer(
    slug="show_slug",
    watch_seconds=1_234_567.5,
    viewers=412,
    views=530,
    completions=201,
    events=246_913,
    watching_now=17,
    average_watch_seconds=2996.523,
    duration=5400,
    title="Show",
    first_event="2026-01-02T10:00:00.000Z",
    last_event="2026-01-31T20:15:00.000Z",
)
_SHARD = ShardAnswer(
    shard=0,
    users=60_000,
    pairs=250_000,
    streams=310_000,
    watching_now=1_200,
    watch_seconds=912_345_678.25,
    events=190_000_000,
    events_per_second=240.5,
    memory_bytes=312_000_000,
    remembered_ids=1_500_000,
    epoch=3,
    log_sequence=912_345,
    log_segments=3,
    log_bytes=150_000_000,
    broken_tails=0,
    snapshot_sequence=905_000,
    snapshot_time="2026-01-31T20:10:00.000Z",
    stored_sequence=905_000,
    stored_events=189_900_000,
    stored_bytes=1_100_000_000,
    erasing=0,
    erasing_since=None,
    writable=True,
)

ANSWERS: dict[type[msgspec.Struct], msgspec.Struct] = {
    type(example): example
    for example in (
        EventsAnswer(2, 0, 0, [], "2026-01-31T20:15:00.000Z"),
        _PROGRESS,
        _MOVIE,
        MoviesAnswer([_MOVIE]),
        UserAnswer("username", 91_230.5, 12, 4, 18_250, "2026-01-31T20:15:00.000Z"),
        HistoryAnswer([_PROGRESS], "1769890500000-912345"),
        ListAnswer([_PROGRESS]),
        RetentionAnswer("show_slug", 10, [412, 405, 398], [530, 521, 540]),
        TimeseriesAnswer(
            "show_slug",
            "hour",
            [
                PointAnswer("2026-01-31T19:00:00.000Z", 7210.5),
                PointAnswer("2026-01-31T20:00:00.000Z", 3605),
            ],
        ),
        PositionAnswer(4500),
        StatsAnswer(
            users=60_000,
            movies=1_200,
            pairs=250_000,
            watching_now=1_200,
            watch_seconds=912_345_678.25,
            events=190_000_000,
            events_per_second=240.5,
            erasing=0,
            erasing_since=None,
            shards=[_SHARD],
        ),
    )
}
