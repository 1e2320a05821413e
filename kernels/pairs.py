"""Rows of pairs: where they begin, and what they are without events."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import pair_index
from kernels.compiler import helper, kernel
from kernels.rows import NO_MORE, NONE
from kernels.tables import PAIRS, USERS, Table, Tables

Int64s = NDArray[np.int64]


@helper
def exists(pair: Any, more: Any) -> bool:
    return pair.events > 0 or more.changes > 0


@helper
def pair_row(tables: Tables, user: int, movie: int) -> int:
    """The row of a pair; one that is new stands first in its user's list."""
    slots, rows, size = tables.pairs.slots, tables.pairs.rows, tables.pairs.size
    row = pair_index.find_or_reserve(slots, rows, user, movie, size[0])
    if row != NONE:
        return row
    row = size[0]
    size[0] = row + 1
    pair, owner = rows[row], tables.users[user]
    pair.user, pair.movie, pair.next = user, movie, owner.first_pair
    pair.more = NO_MORE
    empty_pair(pair)
    owner.first_pair = row
    return row


@kernel
def begin_pair(tables: Tables, user: int, movie: int) -> int:
    """The row of a pair that does not exist yet, and does from now on; there is room."""
    row = pair_row(tables, np.int64(user), np.int64(movie))
    begin(tables.totals, tables.users[user], tables.movies[movie])
    return row


@helper
def begin(totals: Int64s, user: Any, movie: Any) -> None:
    totals[PAIRS] += 1
    totals[USERS] += user.pairs == 0
    user.pairs += 1
    movie.pairs += 1


@helper
def empty_pair(pair: Any) -> None:
    """Makes all of it as it is before the first change, but for what it refers to."""
    pair.watch_ms = pair.latest_ms = pair.run_start = 0
    pair.latest_t = pair.latest_order = NONE
    pair.first_t = np.iinfo(np.int64).max
    pair.hour = pair.hours = NONE
    pair.events = 0


@helper
def empty_more(more: Any) -> None:
    """As `empty_pair`."""
    more.furthest_ms = more.duration_ms = more.last_at = 0
    more.completed_t = more.last_t = more.runs = NONE
    more.views = more.changes = 0
    more.begun_again = more.hidden = False


@helper
def give_more(table: Table, pair: Any) -> None:
    """A row of its own for a pair without, which says what was evident; there is room."""
    pair.more = table.size[0]
    table.size[0] += 1
    more = table.rows[pair.more]
    empty_more(more)
    more.streams = NONE
    more.furthest_ms = more.last_at = pair.latest_ms
    more.last_t = pair.latest_t
    more.views = pair.events > 0


@helper
def nameless_last(pair: Any, more: Any) -> tuple[int, int]:
    """Where the stream without a session is: last t, NONE without events, and last at."""
    if pair.more == NO_MORE:
        return pair.latest_t, pair.latest_ms
    return more.last_t, more.last_at
