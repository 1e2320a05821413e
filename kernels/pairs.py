"""Rows of pairs: where they begin, what they are without events, and what is evident.

A pair that only goes on has no row in `more`: its run is where its watch time comes from.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import narrow, pair_index
from kernels.compiler import helper, kernel
from kernels.rows import LATE, NO_MORE, NONE
from kernels.tables import PAIRS, USERS, Table, Tables

Int64s = NDArray[np.int64]

#: A pair without `more` can have so many events.
EVENTS_MAX = (1 << 31) - 1


@helper
def more_row(pair: Any) -> int:
    """Its row in `more`, which is NO_MORE if it has none of its own."""
    if pair.events_or_more < 0:
        return ~np.int64(pair.events_or_more)
    return np.int64(NO_MORE)


@helper
def has_more(pair: Any) -> bool:
    return pair.events_or_more < 0


@helper
def events_of(pair: Any, more: Any) -> int:
    return more.events if has_more(pair) else np.int64(pair.events_or_more)


@helper
def watch_ms_of(pair: Any, more: Any) -> int:
    if has_more(pair):
        return more.watch_ms
    return narrow.value(pair.latest_ms) - narrow.value(pair.run_start)


@helper
def exists(pair: Any, more: Any) -> bool:
    return events_of(pair, more) > 0 or more.changes > 0


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
    pair.events_or_more = 0
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
    narrow.put(pair.latest_ms, 0)
    narrow.put(pair.run_start, 0)
    narrow.put(pair.latest_t, NONE)
    narrow.put(pair.latest_order, NONE)
    narrow.put(pair.first_t, LATE)
    pair.hour = pair.hours = NONE
    if not has_more(pair):
        pair.events_or_more = 0


@helper
def empty_more(more: Any) -> None:
    """As `empty_pair`."""
    more.watch_ms = more.events = 0
    narrow.put(more.duration_ms, 0)
    narrow.put(more.furthest_ms, 0)
    narrow.put(more.last_at, 0)
    narrow.put(more.completed_t, NONE)
    narrow.put(more.last_t, NONE)
    more.runs = NONE
    more.views = more.changes = 0
    more.begun_again = more.hidden = more.has_visits = False


@helper
def give_more(table: Table, pair: Any) -> None:
    """A row of its own for a pair without, which says what was evident; there is room."""
    row = table.size[0]
    table.size[0] += 1
    more = table.rows[row]
    empty_more(more)
    more.streams = NONE
    more.watch_ms = watch_ms_of(pair, more)
    narrow.put(more.furthest_ms, narrow.value(pair.latest_ms))
    narrow.put(more.last_at, narrow.value(pair.latest_ms))
    narrow.put(more.last_t, narrow.value(pair.latest_t))
    more.events = pair.events_or_more
    more.views = more.events > 0
    pair.events_or_more = ~row


@helper
def nameless_last(pair: Any, more: Any) -> tuple[int, int]:
    """Where the stream without a session is: last t, NONE without events, and last at."""
    if has_more(pair):
        return narrow.value(more.last_t), narrow.value(more.last_at)
    return narrow.value(pair.latest_t), narrow.value(pair.latest_ms)
