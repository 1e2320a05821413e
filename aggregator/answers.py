"""What a shard's state says to a query."""

from functools import cached_property
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

from aggregator.messages import (
    MoviesQuery,
    MovieTotals,
    Progress,
    ProgressQuery,
    Query,
    Ranked,
    Sort,
    TopQuery,
    UserQuery,
    UserTotals,
)
from aggregator.rules import WATCHING_NOW_MS
from aggregator.state import State
from aggregator.table import NONE

Answer = Progress | UserTotals | list[MovieTotals] | list[Ranked] | None

_COLUMN_OF: dict[Sort, str] = {
    "watch_seconds": "watch_ms",
    "viewers": "pairs",
    "views": "views",
    "completions": "completions",
}


class View:
    """A state at a moment by the shard's clock, for all queries that are answered together."""

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms

    def answer(self, query: Query) -> Answer:
        """None where the user, or the pair, has never been seen."""
        match query:
            case ProgressQuery(user, slug):
                return progress(self.state, user, slug)
            case UserQuery(user):
                return user_totals(self.state, user)
            case MoviesQuery(slugs):
                return movie_totals(self.state, slugs, self.watching_now)
            case TopQuery():
                return top(self.state, query)
        raise TypeError(f"not a query about the state: {query}")

    @cached_property
    def watching_now(self) -> NDArray[np.int64]:
        """By movie, the streams whose last event is at most a minute old."""
        pairs = self.state.streams.live_pairs(self.now_ms - WATCHING_NOW_MS)
        return np.bincount(self.state.pairs["movie"][pairs], minlength=len(self.state.movies))


def progress(state: State, user: str, slug: str) -> Progress | None:
    row = state.pair_row(user, slug)
    if row is None:
        return None
    pair = {name: int(state.pairs[name][row]) for name in _PROGRESS_COLUMNS}
    by_position = state.rules.credit == "position"
    completed_t, duration_ms = pair.pop("completed_t"), pair.pop("duration_ms")
    return Progress(
        user=user,
        slug=slug,
        resume_ms=state.rules.resume_ms(pair["latest_ms"], duration_ms) if by_position else None,
        unique_ms=state.runs.unique_ms(row, state.streams.open_runs(row)) if by_position else None,
        completed_t=None if completed_t == NONE else completed_t,
        duration_ms=duration_ms or None,
        **pair,
    )


_PROGRESS_COLUMNS = (
    "latest_ms",
    "latest_t",
    "furthest_ms",
    "watch_ms",
    "views",
    "events",
    "version",
    "completed_t",
    "duration_ms",
)


def user_totals(state: State, user: str) -> UserTotals | None:
    code = state.user_names.code(user)
    if code is None:
        return None
    totals = state.users
    return UserTotals(
        user=user,
        watch_ms=int(totals["watch_ms"][code]),
        movies=int(totals["pairs"][code]),
        completed=int(totals["completions"][code]),
        events=int(totals["events"][code]),
        last_t=int(totals["last_t"][code]),
    )


def movie_totals(state: State, slugs: list[str], watching: NDArray[np.int64]) -> list[MovieTotals]:
    totals = state.movies
    return [
        MovieTotals(
            slug=slug,
            watch_ms=int(totals["watch_ms"][code]),
            viewers=int(totals["pairs"][code]),
            views=int(totals["views"][code]),
            completions=int(totals["completions"][code]),
            events=int(totals["events"][code]),
            watching_now=int(watching[code]),
            first_t=int(totals["first_t"][code]),
            last_t=int(totals["last_t"][code]),
        )
        for slug in slugs
        if (code := state.movie_names.code(slug)) is not None
    ]


def top(state: State, query: TopQuery) -> list[Ranked]:
    """The movies with the most, highest first, ties by slug; or the values of those named."""
    values = _values(state, query.sort, query.since_hour)
    if query.slugs is not None:
        codes = [(slug, state.movie_names.code(slug)) for slug in query.slugs]
        return [Ranked(slug, int(values[code])) for slug, code in codes if code is not None]
    limit = min(query.limit, len(values))
    if limit == 0:
        return []
    least = int(np.partition(values, len(values) - limit)[len(values) - limit])
    above = np.flatnonzero(values > least).tolist()
    ranked = [Ranked(state.movie_names[code], int(values[code])) for code in above]
    ranked.sort(key=lambda movie: (-movie.value, movie.slug))
    ties = (state.movie_names[code] for code in np.flatnonzero(values == least).tolist())
    return ranked + [Ranked(slug, least) for slug in nsmallest(limit - len(ranked), ties)]


def _values(state: State, sort: Sort, since_hour: int | None) -> NDArray[np.int64]:
    if since_hour is None:
        return state.movies[_COLUMN_OF[sort]].astype(np.int64)
    rows = np.flatnonzero(state.hours["hour"] >= since_hour)
    values = np.zeros(len(state.movies), np.int64)
    np.add.at(values, state.hours["movie"][rows], state.hours["watch_ms"][rows])
    return values
