"""Taking pairs out of a state, so that what is left is as if they had never been."""

import numpy as np
from numpy.typing import NDArray

from aggregator.state import State
from aggregator.table import Table
from kernels import lists
from kernels.rows import LATE, NONE
from kernels.tables import PAIRS, STREAMS, USERS

Int64s = NDArray[np.int64]


def erase(state: State, user: str, slug: str | None) -> bool:
    """Forgets a pair, or with `slug` None all of a user; False if there was nothing."""
    if slug is None:
        rows = state.moments(user)[0]
    else:
        row = state.pair_row(user, slug)
        rows = np.array([] if row is None else [row], np.int64)
    if not len(rows):
        return False
    _erase_pairs(state, rows)
    code = state.user_names.code(user)
    if code is not None and not state.users["pairs"][code]:
        state.user_names.retire(code)
        state.users["first_pair"][code] = NONE
        state.totals[USERS] -= 1
    return True


def _erase_pairs(state: State, rows: Int64s) -> None:
    """Those of one user."""
    pairs, tables = state.pairs, state.tables
    users, movies = (pairs[of][rows].astype(np.int64) for of in ("user", "movie"))
    first_t, last_t = pairs.of("first_t", rows), lists.last_t(tables, rows)
    state.runs.uncount(rows)
    _forget_hours(state, rows)
    for totals, of in ((state.users, users), (state.movies, movies)):
        for column in ("watch_ms", "views", "events"):
            np.subtract.at(totals[column], of, pairs.of(column, rows))
        for column, counted in (
            ("pairs", pairs.of("version", rows) > 0),
            ("viewers", pairs.of("events", rows) > 0),
            ("completions", pairs.of("completed_t", rows) != NONE),
        ):
            np.subtract.at(totals[column], of, counted)
    state.totals[PAIRS] -= len(rows)
    state.totals[STREAMS] -= lists.empty(tables, rows)
    lost = _without_ends(state.movies, movies, first_t, last_t)
    if lost.any():
        lists.ends_of_movies(tables, len(pairs), lost)
    if _without_ends(state.users, users, first_t, last_t).any():
        lists.ends_of_user(tables, int(users[0]))


def _forget_hours(state: State, rows: Int64s) -> None:
    """Takes what the pairs added from the hours of their movies."""
    which, hours, watch_ms = lists.hours_of(state.tables, rows)
    movies = state.pairs["movie"][rows].astype(np.int64)[which]
    state.hours.add(movies, hours, -watch_ms)


def _without_ends(
    totals: Table, codes: Int64s, first_t: Int64s, last_t: Int64s
) -> NDArray[np.bool_]:
    """By code, which lost their first or last event; these have none for now."""
    is_lost = (totals["first_t"][codes] == first_t) | (totals["last_t"][codes] == last_t)
    lost = np.zeros(len(totals), np.bool_)
    lost[codes[is_lost]] = True
    totals["first_t"][lost] = LATE
    totals["last_t"][lost] = NONE
    return lost
