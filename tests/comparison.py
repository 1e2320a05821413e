"""Compares a state with the scalar reference, in all that both know."""

from typing import Any

from aggregator.answers import progress
from aggregator.reference import Reference
from aggregator.rules import HOUR_MS
from aggregator.runs import Interval
from aggregator.state import State

#: Keyed by what it is about: ("pair", user, slug), ("movie", slug), ("hour", slug, start) …
Facts = dict[tuple[str | int, ...], Any]


def facts_of_state(state: State) -> Facts:
    """Every total, in a form that does not depend on the order of rows."""
    facts: Facts = {}
    for user, movie in zip(state.pairs["user"], state.pairs["movie"], strict=True):
        found = progress(state, state.user_names[int(user)], state.movie_names[int(movie)])
        assert found is not None
        facts["pair", found.user, found.slug] = (
            found.watch_ms,
            found.unique_ms,
            found.latest_ms,
            found.latest_t,
            found.furthest_ms,
            found.resume_ms,
            found.completed_t,
            found.views,
            found.events,
            found.duration_ms or 0,
        )
    for kind, names, totals in (
        ("movie", state.movie_names, state.movies),
        ("user", state.user_names, state.users),
    ):
        for code in range(len(totals)):
            facts[kind, names[code]] = tuple(
                int(totals[column][code])
                for column in ("watch_ms", "pairs", "views", "completions", "events")
            )
    for code in range(len(state.movies)):
        facts["retention", state.movie_names[code]] = retention(state, code)
    for movie, hour, watch_ms in zip(*(state.hours[c] for c in state.hours.names), strict=True):
        facts["hour", state.movie_names[int(movie)], int(hour) * HOUR_MS] = int(watch_ms)
    return facts


def facts_of_reference(reference: Reference) -> Facts:
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
            pair.duration_ms,
        )
        for kind, name, totals in (
            ("movie", slug, reference.movie(slug)),
            ("user", user, reference.user(user)),
        ):
            facts[kind, name] = (
                totals.watch_ms,
                totals.pairs,
                totals.views,
                totals.completions,
                totals.events,
            )
        facts["retention", slug] = reference.retention(slug)
    facts |= {("hour", slug, start): ms for (slug, start), ms in reference.hours.items()}
    return facts


def retention(state: State, movie: int) -> tuple[list[int], list[int]]:
    rows = [row for row, of in enumerate(state.pairs["movie"].tolist()) if of == movie]
    runs = [(row, *run) for row in rows for run in _runs(state, row)]
    viewers, plays = state.runs.retention(movie, runs)
    return viewers.tolist(), plays.tolist()


def _runs(state: State, row: int) -> list[Interval]:
    return state.streams.open_runs(row) if state.rules.credit == "position" else []
