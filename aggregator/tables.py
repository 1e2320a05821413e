"""All that a state says, as tables: for SQL, and to compare it with other ways to the same.

Milliseconds and Unix milliseconds; null where there is nothing to say.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.answers import progress_columns
from aggregator.names import TOGETHER_MAX, Names
from aggregator.state import State
from kernels.rows import NONE

Int64s = NDArray[np.int64]


def tables_of(state: State) -> dict[str, pa.Table]:
    """Tables progress, users, movies, retention and hours, in no particular order of rows."""
    return {
        "progress": _progress(state),
        "users": _users(state),
        "movies": _movies(state),
        "retention": _retention(state),
        "hours": _hours(state),
    }


def _progress(state: State) -> pa.Table:
    rows = np.flatnonzero(state.pairs.exist())
    return pa.table(
        {
            "user": _names(state.user_names, state.pairs["user"][rows]),
            "slug": _names(state.movie_names, state.pairs["movie"][rows]),
            **{name: _nullable(c) for name, c in progress_columns(state, rows).items()},
            "begun_again": pa.array(state.pairs.of("begun_again", rows)),
            "hidden": pa.array(state.pairs.of("hidden", rows)),
        }
    )


def _users(state: State) -> pa.Table:
    users = state.users
    codes = np.flatnonzero(users["pairs"] > 0)
    return pa.table(
        {
            "user": _names(state.user_names, codes),
            "watch_ms": users["watch_ms"][codes],
            "movies": users["pairs"][codes].astype(np.int64),
            "completed": users["completions"][codes].astype(np.int64),
            "events": users["events"][codes],
            "last_t": _nullable(users["last_t"][codes]),
        }
    )


def _movies(state: State) -> pa.Table:
    movies = state.movies
    codes = np.flatnonzero((movies["pairs"] > 0) | movies["described"])
    first_t = np.where(movies["events"] > 0, movies["first_t"], NONE)[codes]
    duration_ms = np.where(movies["duration_ms"] > 0, movies["duration_ms"], NONE)[codes]
    titles = [state.titles.get(code) for code in codes.tolist()]
    return pa.table(
        {
            "slug": _names(state.movie_names, codes),
            "watch_ms": movies["watch_ms"][codes],
            **{
                name: movies[name][codes].astype(np.int64)
                for name in ("viewers", "views", "completions", "events")
            },
            "duration_ms": _nullable(duration_ms),
            "title": pa.array(titles, pa.string()),
            "first_t": _nullable(first_t),
            "last_t": _nullable(movies["last_t"][codes]),
        }
    )


def _retention(state: State) -> pa.Table:
    played = state.retention.played()
    table = pa.table(
        {
            "slug": _names(state.movie_names, played["movie"]),
            **{name: played[name].astype(np.int64) for name in ("bucket", "viewers", "plays")},
        }
    )
    return table.filter(pa.array(played["plays"] > 0))


def _hours(state: State) -> pa.Table:
    hours = state.hours.totals()
    return pa.table(
        {
            "slug": _names(state.movie_names, hours["movie"].to_numpy()),
            "hour": hours["hour"].cast(pa.int64()),
            "watch_ms": hours["watch_ms"],
        }
    )


def _names(names: Names, codes: NDArray[Any]) -> pa.ChunkedArray:
    """A chunk of strings has less than 2 GiB."""
    every = names.to_arrow()
    some = (codes[i : i + TOGETHER_MAX] for i in range(0, len(codes), TOGETHER_MAX))
    chunks = [every.take(pa.array(part.astype(np.int64))).cast(pa.string()) for part in some]
    return pa.chunked_array(chunks, pa.string())


def _nullable(column: NDArray[Any]) -> pa.Array:
    return pa.array(column.astype(np.int64), mask=column == NONE)
