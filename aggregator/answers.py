"""What a shard's state says to a query."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.messages import (
    ContinueQuery,
    HistoryPage,
    HistoryQuery,
    HoursQuery,
    Listed,
    MoviesQuery,
    MovieTotals,
    Place,
    Progress,
    ProgressQuery,
    Query,
    Ranked,
    Retention,
    RetentionQuery,
    Sort,
    TopQuery,
    UserQuery,
    UserTotals,
)
from aggregator.state import State
from aggregator.table import Table
from kernels.progress import COLUMNS
from kernels.rows import NONE
from persistence.strings import Strings

Int64s = NDArray[np.int64]

_COLUMN_OF: dict[Sort, str] = {
    "watch_seconds": "watch_ms",
    "viewers": "viewers",
    "views": "views",
    "completions": "completions",
}


class _Page(NamedTuple):
    """The rows of pairs in a part of a user's list, and the place where it goes on."""

    rows: Int64s
    next: Place | None = None


class View:
    """A state at a moment by the shard's clock, for all queries that are answered together."""

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms
        self._together: dict[type[Query], Callable[[Any], list[Any]]] = {
            ProgressQuery: self._progress,
            HistoryQuery: self._histories,
            ContinueQuery: self._continue_lists,
            UserQuery: self._users,
            MoviesQuery: self._movies,
        }

    def answer_all(self, queries: Sequence[Query]) -> list[Any]:
        """The answers that `messages` names beside the queries; None for what was never seen.

        Most is looked up for all queries of a kind at once.
        """
        kinds = self._together.keys() & set(map(type, queries))
        answers = {
            kind: iter(self._together[kind]([query for query in queries if type(query) is kind]))
            for kind in kinds
        }
        return [
            next(answers[type(query)]) if type(query) in kinds else self._answer(query)
            for query in queries
        ]

    def _progress(self, queries: list[ProgressQuery]) -> list[Progress | None]:
        rows = self.state.rows_of_pairs(
            [query.user for query in queries], [query.slug for query in queries]
        )
        known = iter(progresses_of(self.state, rows[rows != NONE]))
        return [None if row == NONE else next(known) for row in rows.tolist()]

    def _histories(self, queries: list[HistoryQuery]) -> list[HistoryPage | None]:
        return _histories(
            self.state,
            [_history(self.state, query.user, query.limit, query.after) for query in queries],
        )

    def _continue_lists(self, queries: list[ContinueQuery]) -> list[list[Listed] | None]:
        return _listed(
            self.state, [_to_continue(self.state, query.user, query.limit) for query in queries]
        )

    def _users(self, queries: list[UserQuery]) -> list[UserTotals | None]:
        return user_totals(self.state, [query.user for query in queries])

    def _movies(self, queries: list[MoviesQuery]) -> list[list[MovieTotals]]:
        slugs = [slug for query in queries for slug in query.slugs]
        totals = iter(movie_totals(self.state, slugs, self.watching_now))
        of_each = [[*islice(totals, len(query.slugs))] for query in queries]
        return [[movie for movie in found if movie is not None] for found in of_each]

    def _answer(self, query: Query) -> Any:
        state = self.state
        match query:
            case TopQuery():
                return top(state, query)
            case RetentionQuery(slug):
                return retention(state, slug)
            case HoursQuery(slug, first, end):
                code = state.movie_code(slug)
                if code is None:
                    return None
                return state.hours.of_movie(code, first, end, self.now_ms).tobytes()
        raise TypeError(f"not a query about the state: {query}")

    @cached_property
    def watching_now(self) -> Int64s:
        """By movie, the streams whose last event is at most a minute old."""
        return self.state.watching_now(self.now_ms)


# One user


def progress_of(state: State, row: int) -> Progress:
    return progresses_of(state, np.array([row]))[0]


def progresses_of(state: State, rows: Int64s) -> list[Progress]:
    """The progress of each pair, in order."""
    values = zip(*map(_optional, state.progress(rows).tolist()), strict=True)
    return [Progress(*one) for one in values]


def progress_columns(state: State, rows: Int64s) -> dict[str, Int64s]:
    """The fields of `Progress` by name, `NONE` where one is None."""
    return dict(zip(COLUMNS, state.progress(rows), strict=True))


def _optional(values: list[int]) -> list[Any]:
    return [None if value == NONE else value for value in values] if NONE in values else values


def history(state: State, user: str, limit: int, after: Place | None) -> HistoryPage | None:
    """A page of the user's movies, newest first."""
    return _histories(state, [_history(state, user, limit, after)])[0]


def continue_list(state: State, user: str, limit: int) -> list[Listed] | None:
    """What the user can go on with, newest first."""
    return _listed(state, [_to_continue(state, user, limit)])[0]


def _history(state: State, user: str, limit: int, after: Place | None) -> _Page | None:
    moments = state.moments(user)
    if not moments.size:
        return None
    if after is not None:
        _, t, order, _ = moments
        moments = moments[:, (t < after.t) | ((t == after.t) & (order < after.order))]
    page = _newest(moments, limit)
    next_place = None
    if page.shape[1] < moments.shape[1]:
        _, t, order, _ = page[:, -1].tolist()
        next_place = Place(t, order)
    return _Page(page[0], next_place)


def _to_continue(state: State, user: str, limit: int) -> _Page | None:
    moments = state.moments(user)
    if not moments.size:
        return None
    *_, is_to_continue = moments
    return _Page(_newest(moments[:, is_to_continue != 0], limit)[0])


def _newest(moments: Int64s, limit: int) -> Int64s:
    """The `limit` newest of `moments`, newest first."""
    t = moments[1]
    if len(t) > limit:
        moments = moments[:, t >= np.partition(t, len(t) - limit)[len(t) - limit]]
    _, t, order, _ = moments
    return moments[:, np.lexsort((order, t))[::-1][:limit]]


def _histories(state: State, pages: Sequence[_Page | None]) -> list[HistoryPage | None]:
    return [
        None if page is None or movies is None else HistoryPage(movies, page.next)
        for page, movies in zip(pages, _listed(state, pages), strict=True)
    ]


def _listed(state: State, pages: Sequence[_Page | None]) -> list[list[Listed] | None]:
    """What is on each page."""
    known = [page.rows for page in pages if page is not None]
    if not known:
        return [None] * len(pages)
    rows = np.concatenate(known)
    slugs = _slugs(state, state.pairs["movie"][rows])
    movies = map(Listed, slugs, progresses_of(state, rows))
    return [None if page is None else [*islice(movies, len(page.rows))] for page in pages]


def user_totals(state: State, users: Sequence[str]) -> list[UserTotals | None]:
    """Those of each user; None for one that is not known."""
    codes = state.user_names.codes(Strings.of(users))
    rows = iter(_rows(state.users, codes[codes != NONE]))
    return [
        None
        if code == NONE
        else UserTotals(
            watch_ms=(row := next(rows))["watch_ms"],
            movies=row["pairs"],
            completed=row["completions"],
            events=row["events"],
            last_t=row["last_t"] if row["events"] else None,
        )
        for code in codes.tolist()
    ]


def _rows(table: Table, codes: Int64s) -> list[dict[str, int]]:
    """These rows by column, which takes far less time than to take each value from the table."""
    names = table.rows.dtype.names or ()
    return [dict(zip(names, row, strict=True)) for row in table.rows[codes].tolist()]


# Movies


def movie_totals(state: State, slugs: Sequence[str], watching: Int64s) -> list[MovieTotals | None]:
    """Those of each movie; None for one that does not exist."""
    codes = state.movie_codes(slugs)
    known = codes[codes != NONE]
    rows = iter(zip(_rows(state.movies, known), watching[known].tolist(), strict=True))
    return [
        None if code == NONE else _movie_totals(slug, *next(rows), state.titles.get(code))
        for slug, code in zip(slugs, codes.tolist(), strict=True)
    ]


def _movie_totals(
    slug: str, row: Mapping[str, int], watching_now: int, title: str | None
) -> MovieTotals:
    return MovieTotals(
        slug=slug,
        watch_ms=row["watch_ms"],
        viewers=row["viewers"],
        views=row["views"],
        completions=row["completions"],
        events=row["events"],
        watching_now=watching_now,
        first_t=row["first_t"] if row["events"] else None,
        last_t=row["last_t"] if row["events"] else None,
        duration_ms=row["duration_ms"] or None,
        title=title,
    )


def retention(state: State, slug: str) -> Retention | None:
    """What was watched of each bucket."""
    code = state.movie_code(slug)
    if code is None:
        return None
    viewers, plays = state.retention.of(code, int(state.movies["buckets"][code]))
    return Retention(viewers.tobytes(), plays.tobytes())


def top(state: State, query: TopQuery) -> list[Ranked]:
    """The movies with the most, highest first, ties by slug; or the values of those named."""
    values = _values(state, query.sort, query.since_hour)
    if query.slugs is not None:
        codes = zip(query.slugs, state.movie_codes(query.slugs).tolist(), strict=True)
        return [Ranked(slug, int(values[code])) for slug, code in codes if code != NONE]
    known = np.flatnonzero(state.movies["pairs"] > 0)
    values = values[known]
    limit = min(query.limit, len(values))
    if limit == 0:
        return []
    least = int(np.partition(values, len(values) - limit)[len(values) - limit])
    above = np.flatnonzero(values > least)
    leaders = zip(_slugs(state, known[above]), values[above].tolist(), strict=True)
    ranked = [Ranked(slug, value) for slug, value in leaders]
    ranked.sort(key=lambda movie: (-movie.value, movie.slug))
    ties = _slugs(state, known[values == least])
    return ranked + [Ranked(slug, least) for slug in nsmallest(limit - len(ranked), ties)]


def _slugs(state: State, codes: NDArray[np.integer]) -> list[str]:
    slugs: list[str] = state.movie_names.to_arrow().take(pa.array(codes)).to_pylist()
    return slugs


def _values(state: State, sort: Sort, since_hour: int | None) -> Int64s:
    if since_hour is None:
        return state.movies[_COLUMN_OF[sort]].astype(np.int64)
    return state.hours.since(since_hour, len(state.movies))
