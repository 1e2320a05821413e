"""Taking pairs out of a state, so that what is left is as if they had never been."""

import numpy as np
from numpy.typing import NDArray

from aggregator.state import State
from aggregator.table import NONE, Table

Int64s = NDArray[np.int64]

#: What a pair's row keeps: it is found again when the pair comes back.
_KEPT = ("user", "movie", "nameless_stream")


def erase(state: State, user: str, slug: str | None) -> bool:
    """Forgets a pair, or with `slug` None all of a user; False if there was nothing."""
    if slug is None:
        rows = state.pair_rows(user)
    else:
        row = state.pair_row(user, slug)
        rows = np.array([] if row is None else [row], np.int64)
    if not len(rows):
        return False
    _erase_pairs(state, rows)
    code = state.user_names.code(user)
    if code is not None and not state.users["pairs"][code]:
        state.user_names.retire(code)
        state.pairs_of_users.clear(np.array([code]))
    return True


def _erase_pairs(state: State, rows: Int64s) -> None:
    pairs = state.pairs
    users, movies = (pairs[of][rows].astype(np.int64) for of in ("user", "movie"))
    last_t = state.streams.last_t(rows)
    state.runs.count(-state.runs.counted(rows, state.streams.open_runs(rows)))
    state.runs.forget(rows)
    state.hours.forget(rows, movies)
    state.streams.forget(rows)
    for totals, of in ((state.users, users), (state.movies, movies)):
        for column in ("watch_ms", "views", "events"):
            np.subtract.at(totals[column], of, pairs[column][rows])
        for column, counted in (
            ("pairs", pairs["version"][rows] > 0),
            ("viewers", pairs["events"][rows] > 0),
            ("completions", pairs["completed_t"][rows] != NONE),
        ):
            np.subtract.at(totals[column], of, counted)
    first_t = pairs["first_t"][rows]
    pairs.clear(rows, *_KEPT)
    _mend_ends(state, state.users, "user", users, first_t, last_t)
    _mend_ends(state, state.movies, "movie", movies, first_t, last_t)


def _mend_ends(
    state: State, totals: Table, of: str, codes: Int64s, first_t: Int64s, last_t: Int64s
) -> None:
    """Finds the first and last event anew of those that lost theirs."""
    lost = (totals["first_t"][codes] == first_t) | (totals["last_t"][codes] == last_t)
    codes = np.unique(codes[lost])
    totals["first_t"][codes] = np.iinfo(np.int64).max
    totals["last_t"][codes] = NONE
    rows = np.flatnonzero(np.isin(state.pairs[of], codes) & (state.pairs["events"] > 0))
    left = state.pairs[of][rows]
    np.minimum.at(totals["first_t"], left, state.pairs["first_t"][rows])
    np.maximum.at(totals["last_t"], left, state.streams.last_t(rows))
