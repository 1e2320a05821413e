"""What lists of rows hold: of pairs, their streams, runs and hours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import live, narrow, pair_index, streams, visits
from kernels.compiler import allocating_helper, helper, kernel
from kernels.intmap import insert
from kernels.pairs import (
    empty_more,
    empty_pair,
    events_of,
    exists,
    has_more,
    more_row,
    nameless_last,
    watch_ms_of,
)
from kernels.retention import find_bucket
from kernels.rows import BUCKET_MS, NONE, VISITED_MS
from kernels.tables import Table, Tables
from kernels.watching import stream_key

Rows = NDArray[Any]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: The index of an owner, and what one of its rows says.
Columns = tuple[Int64s, Int64s, Int64s]


@kernel
def rows_of_pairs(tables: Tables, users: Int64s, movies: Int64s) -> Int64s:
    """The row of each pair that exists, NONE for others; so are codes that are none."""
    rows = np.full(len(users), NONE, np.int64)
    for i in range(len(users)):
        if users[i] != NONE and movies[i] != NONE:
            row = pair_index.find(tables.pairs.slots, tables.pairs.rows, users[i], movies[i])
            if row != NONE and _exists(tables, row):
                rows[i] = row
    return rows


@helper
def _exists(tables: Tables, row: int) -> bool:
    pair = tables.pairs.rows[row]
    return exists(pair, tables.more.rows[more_row(pair)])


@kernel
def lists_of(rows: Rows, firsts: Int64s) -> tuple[Int64s, Int64s]:
    """The rows of several lists, one after the other: the index of the list, and the row."""
    count = 0
    for i in range(len(firsts)):
        row = firsts[i]
        while row != NONE:
            count, row = count + 1, np.int64(rows[row].next)
    which, numbers = np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for i in range(len(firsts)):
        row = firsts[i]
        while row != NONE:
            which[at], numbers[at] = i, row
            at, row = at + 1, np.int64(rows[row].next)
    return which, numbers


@kernel
def hours_of(tables: Tables, rows: Int64s) -> Columns:
    """What each pair added by hour: the index of the pair, the hour and the watch time."""
    count = 0
    for i in range(len(rows)):
        pair = tables.pairs.rows[rows[i]]
        count += pair.hour != NONE
        at = pair.hours
        while at != NONE:
            count, at = count + 1, tables.pair_hours.rows[at].next
    which, hours = np.empty(count, np.int64), np.empty(count, np.int64)
    watch_ms = np.empty(count, np.int64)
    count = 0
    for i in range(len(rows)):
        pair = tables.pairs.rows[rows[i]]
        if pair.hour == NONE:
            continue
        first, at = count, pair.hours
        which[first], hours[first] = i, pair.hour
        watch_ms[first] = watch_ms_of(pair, tables.more.rows[more_row(pair)])
        count += 1
        while at != NONE:
            other = tables.pair_hours.rows[at]
            which[count], hours[count], watch_ms[count] = i, other.hour, other.watch_ms
            watch_ms[first] -= other.watch_ms
            count, at = count + 1, other.next
    return which, hours, watch_ms


@kernel
def take_first_hours(pairs: Rows, owners: Int64s, hours: Int32s) -> Bools:
    """Gives each pair that has no hour its first; which hours are left."""
    left = np.zeros(len(owners), np.bool_)
    for i in range(len(owners)):
        pair = pairs[owners[i]]
        if pair.hour == NONE:
            pair.hour = hours[i]
        else:
            left[i] = True
    return left


@kernel
def link(rows: Rows, count: int, owners: Int64s, firsts: Rows) -> None:
    """Makes lists of the first `count` rows, each of its owner, in order; `firsts` get theirs."""
    for row in range(count - 1, -1, -1):
        rows[row].next = firsts[owners[row]]
        firsts[owners[row]] = row


@kernel
def rank_runs(runs: Rows, firsts: Int64s) -> None:
    """Numbers the runs of lists from their ends."""
    for i in range(len(firsts)):
        count, row = 0, firsts[i]
        while row != NONE:
            count, row = count + 1, np.int64(runs[row].next)
        row = firsts[i]
        while row != NONE:
            runs[row].rank = count
            count, row = count - 1, np.int64(runs[row].next)


@helper
def release(table: Table, first: int) -> None:
    """Gives the rows of a list back."""
    row = first
    while row != NONE:
        following = table.rows[row].next
        table.rows[row].next = table.size[1]
        table.size[1] = row
        row = following


@allocating_helper
def intervals(tables: Tables, row: int) -> tuple[Int64s, Int64s]:
    """Start and end of all runs of a pair that cover anything, closed and open, by start."""
    pair = tables.pairs.rows[row]
    more = tables.more.rows[more_row(pair)]
    last_at = nameless_last(pair, more)[1]
    count = 1
    at = more.streams
    while at != NONE:
        count, at = count + 1, tables.streams.rows[at].next
    if more.runs != NONE:
        count += tables.runs.rows[more.runs].rank
    start, end = np.empty(count, np.int64), np.empty(count, np.int64)
    count = 0
    run_start = narrow.value(pair.run_start)
    if last_at > run_start:
        start[0], end[0] = run_start, last_at
        count = 1
    at = more.streams
    while at != NONE:
        stream = tables.streams.rows[at]
        start[count], end[count] = streams.open_run(stream)
        count += end[count] > start[count]
        at = stream.next
    at = more.runs
    while at != NONE:
        run = tables.runs.rows[at]
        start[count], end[count] = run.start, run.end
        count, at = count + 1, run.next
    order = np.argsort(start[:count])
    return start[order], end[order]


@kernel
def uncount_runs(tables: Tables, rows: Int64s) -> None:
    """Takes the runs of pairs, and the pairs, out of retention."""
    for i in range(len(rows)):
        movie = tables.pairs.rows[rows[i]].movie
        start, end = intervals(tables, rows[i])
        viewed = np.int64(0)  # up to this bucket
        for k in range(len(start)):
            first, stop = start[k] // BUCKET_MS, (end[k] - 1) // BUCKET_MS + 1
            for bucket in range(first, stop):
                counted = tables.buckets[find_bucket(tables, movie, bucket)]
                counted.plays -= 1
                counted.viewers -= bucket >= viewed
            viewed = max(viewed, stop)


@kernel
def pairs_with_many_runs(tables: Tables, more_than: int) -> Int64s:
    """The pairs that have more streams and runs than so many."""
    pairs = tables.pairs.size[0]
    count = 0
    for row in range(pairs):
        count += _runs(tables, row) > more_than
    found, count = np.empty(count, np.int64), 0
    for row in range(pairs):
        if _runs(tables, row) > more_than:
            found[count], count = row, count + 1
    return found


@helper
def _runs(tables: Tables, row: int) -> int:
    """How many streams and closed runs a pair has."""
    more = tables.more.rows[more_row(tables.pairs.rows[row])]
    count = np.int64(1)
    if more.runs != NONE:
        count += tables.runs.rows[more.runs].rank
    at = more.streams
    while at != NONE:
        count, at = count + 1, tables.streams.rows[at].next
    return count


@kernel
def visited_pages(tables: Tables, rows: Int64s) -> int:
    """How many pages of visits pairs need."""
    pages = np.int64(0)
    for row in rows:
        start, end = intervals(tables, row)
        counted = np.int64(0)  # up to this page
        for k in range(len(start)):
            stop = (end[k] - 1) // VISITED_MS + 1
            pages += max(stop - max(start[k] // VISITED_MS, counted), 0)
            counted = max(counted, stop)
    return pages


@allocating_helper
def _forget_visits(tables: Tables, row: int) -> None:
    start, end = intervals(tables, row)
    for k in range(len(start)):
        for page in range(start[k] // VISITED_MS, (end[k] - 1) // VISITED_MS + 1):
            visits.forget(tables.visits, row, page)


@kernel
def enter_visits(tables: Tables, rows: Int64s) -> None:
    """Gives pairs visits, for whose pages there is room."""
    for row in rows:
        pair = tables.pairs.rows[row]
        tables.more.rows[more_row(pair)].has_visits = True
        start, end = intervals(tables, row)
        entered = np.int64(0)  # up to this bucket
        for k in range(len(start)):
            stop = (end[k] - 1) // BUCKET_MS + 1
            for bucket in range(max(start[k] // BUCKET_MS, entered), stop):
                visits.enter(tables.visits, row, bucket)
            entered = max(entered, stop)


@kernel
def count_plays(tables: Tables, movie: int, first: Int64s, stop: Int64s, plays: Int64s) -> None:
    """Adds plays to ranges of buckets; those where there are any to add have been counted."""
    for i in range(len(first)):
        if plays[i] == 0:
            continue
        for bucket in range(first[i], stop[i]):
            tables.buckets[find_bucket(tables, movie, bucket)].plays += plays[i]


@kernel
def last_t(tables: Tables, rows: Int64s) -> Int64s:
    """The highest t of each pair's events; NONE without."""
    highest = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        highest[i] = _last_t(tables, rows[i])
    return highest


@kernel
def empty(tables: Tables, rows: Int64s) -> int:
    """Makes pairs as they are before the first change; how many streams they had.

    These are marked, so that they no longer count as watched.
    """
    emptied = 0
    for i in range(len(rows)):
        pair = tables.pairs.rows[rows[i]]
        more = tables.more.rows[more_row(pair)]
        if more.has_visits:
            _forget_visits(tables, rows[i])
        if nameless_last(pair, more)[0] != NONE:
            live.mark(tables, rows[i], NONE)
            emptied += 1
        at = more.streams
        while at != NONE:
            stream = tables.streams.rows[at]
            if streams.last_t(stream) != NONE:
                live.mark(tables, rows[i], at)
                emptied += 1
            streams.put(stream, NONE, 0, 0)
            at = stream.next
        release(tables.runs, more.runs)
        release(tables.pair_hours, pair.hours)
        empty_pair(pair)
        if has_more(pair):
            empty_more(more)
    return emptied


@kernel
def ends_of_movies(tables: Tables, count: int, chosen: Bools) -> None:
    """Finds the first and last event anew of the movies that are `chosen`."""
    for row in range(count):
        pair = tables.pairs.rows[row]
        if chosen[pair.movie] and _is_watched(tables, pair):
            movie = tables.movies[pair.movie]
            movie.first_t = min(movie.first_t, narrow.value(pair.first_t))
            movie.last_t = max(movie.last_t, _last_t(tables, row))


@kernel
def ends_of_user(tables: Tables, user: int) -> None:
    """Finds the first and last event of a user anew."""
    owner = tables.users[user]
    row = owner.first_pair
    while row != NONE:
        pair = tables.pairs.rows[row]
        if _is_watched(tables, pair):
            owner.first_t = min(owner.first_t, narrow.value(pair.first_t))
            owner.last_t = max(owner.last_t, _last_t(tables, row))
        row = pair.next


@helper
def _is_watched(tables: Tables, pair: Any) -> bool:
    return events_of(pair, tables.more.rows[more_row(pair)]) > 0


@helper
def _last_t(tables: Tables, row: int) -> int:
    pair = tables.pairs.rows[row]
    more = tables.more.rows[more_row(pair)]
    highest, at = nameless_last(pair, more)[0], more.streams
    while at != NONE:
        stream = tables.streams.rows[at]
        highest, at = max(highest, streams.last_t(stream)), stream.next
    return highest


@kernel
def index_streams(tables: Tables) -> None:
    """Makes all streams, which were loaded, findable; there is room."""
    for row in range(tables.streams.size[0]):
        stream = tables.streams.rows[row]
        key = stream_key(tables, np.int64(stream.pair), stream.session_hash)
        insert(tables.streams.slots, key, row)
