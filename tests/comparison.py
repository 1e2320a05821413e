"""Compares a state with the scalar reference, in all that both know."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from aggregator.answers import continue_list, history, movie_totals, progress_of, user_totals
from aggregator.reference import Pair, Reference
from aggregator.rules import HOURS_KEPT_DAYS
from aggregator.state import State
from kernels.rows import HOUR_MS

#: Keyed by what it is about: ("pair", user, slug), ("movie", slug), ("hour", slug, start) …
Facts = dict[tuple[str | int, ...], Any]
#: By table.
Rows = dict[str, list[dict[str, Any]]]


def facts_of_state(state: State) -> Facts:
    """Every answer, in a form that does not depend on the order of rows."""
    facts: Facts = {}
    slugs = [slug for slug in state.movie_names.to_list() if slug]
    for user in filter(None, state.user_names.to_list()):
        facts |= _facts_of_user(state, user)
        for slug in slugs:
            if (row := state.pair_row(user, slug)) is not None:
                progress = progress_of(state, row)
                facts["pair", user, slug] = (
                    progress.watch_ms,
                    progress.unique_ms,
                    progress.latest_ms,
                    progress.latest_t,
                    progress.furthest_ms,
                    progress.resume_ms,
                    progress.completed_t,
                    progress.views,
                    progress.events,
                    progress.duration_ms,
                    progress.version,
                )
    watching = np.zeros(len(state.movies), np.int64)
    for movie in filter(None, movie_totals(state, slugs, watching)):
        facts["movie", movie.slug] = (
            movie.watch_ms,
            movie.viewers,
            movie.views,
            movie.completions,
            movie.events,
            movie.first_t,
            movie.last_t,
            movie.duration_ms,
            movie.title,
        )
        code = state.movie_code(movie.slug)
        assert code is not None
        viewers, plays = state.retention.of(code, int(state.movies["buckets"][code]))
        facts["retention", movie.slug] = (viewers.tolist(), plays.tolist())
    hours = state.hours.totals()
    for code, hour, watch_ms in zip(*hours.to_pydict().values(), strict=True):
        facts["hour", state.movie_names[code], hour * HOUR_MS] = watch_ms
    return facts


def _facts_of_user(state: State, user: str) -> Facts:
    (totals,) = user_totals(state, [user])
    if totals is None or not totals.movies:
        return {}
    pages: list[str] = []
    after = None
    while pages == [] or after is not None:
        page = history(state, user, 1, after)
        assert page is not None
        pages += [listed.slug for listed in page.movies]
        after = page.next
    going_on = continue_list(state, user, 100)
    assert going_on is not None
    return {
        ("user", user): (
            totals.watch_ms,
            totals.movies,
            totals.completed,
            totals.events,
            totals.last_t,
        ),
        ("history", user): pages,
        ("continue", user): [listed.slug for listed in going_on],
    }


def rows_of_state(state: State) -> Rows:
    """All that a snapshot of it has, with names for row numbers, and sorted: these mean nothing."""
    tables = {name: table.to_pylist() for name, table in state.to_arrow().items()}
    users, movies = ([row["name"] for row in tables[name]] for name in ("users", "movies"))
    pairs = [(users[row["user"]], movies[row["movie"]]) for row in tables["pairs"]]
    named = {"user": users, "movie": movies, "pair": pairs}
    for rows in tables.values():
        for row in rows:
            row |= {name: names[row[name]] for name, names in named.items() if name in row}
            if "nameless_stream" in row:
                row["nameless_stream"] = row["nameless_stream"] >= 0
        rows.sort(key=repr)
    return tables


def facts_of_reference(reference: Reference, hours_kept_days: int = HOURS_KEPT_DAYS) -> Facts:
    facts: Facts = {}
    for (user, slug), pair in reference.pairs.items():
        by_position = reference.rules.credit == "position"
        facts["pair", user, slug] = (
            pair.watch_ms,
            pair.unique_ms() if by_position else None,
            pair.latest_ms,
            pair.latest_t,
            pair.furthest_ms,
            reference.resume_ms(user, slug) if by_position else None,
            pair.completed_t,
            pair.views,
            pair.events,
            reference.duration_ms(user, slug) or None,
            pair.version,
        )
    for user in {user for user, _ in reference.pairs}:
        totals = reference.user(user)
        facts["user", user] = (
            totals.watch_ms,
            totals.pairs,
            totals.completions,
            totals.events,
            _last_t(pair for (u, _), pair in reference.pairs.items() if u == user),
        )
        facts["history", user] = reference.history(user)
        facts["continue", user] = reference.continue_list(user)
    for slug in {slug for _, slug in reference.pairs} | set(reference.catalogue):
        facts |= _facts_of_movie(reference, slug)
    hours = reference.hours(hours_kept_days)
    facts |= {("hour", slug, hour * HOUR_MS): ms for (slug, hour), ms in hours.items()}
    return facts


def _facts_of_movie(reference: Reference, slug: str) -> Facts:
    totals = reference.movie(slug)
    pairs = [pair for (_, s), pair in reference.pairs.items() if s == slug]
    first_t = min((pair.first_t for pair in pairs if pair.first_t is not None), default=None)
    duration_ms, title = reference.catalogue.get(slug, (0, None))
    return {
        ("movie", slug): (
            totals.watch_ms,
            totals.viewers,
            totals.views,
            totals.completions,
            totals.events,
            first_t,
            _last_t(pairs),
            duration_ms or None,
            title,
        ),
        ("retention", slug): reference.retention(slug),
    }


def _last_t(pairs: Iterable[Pair]) -> int | None:
    moments = [stream.last_t for pair in pairs for stream in pair.streams.values()]
    return max(moments, default=None)
