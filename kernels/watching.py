"""The rules of watch time, event by event, over the rows of a shard's state.

The numbers in comments are those of the rules in docs/watch-time.md; `aggregator.reference`
says the same in plain Python, and a property test holds the two together.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import intmap, live, narrow, pair_index, streams
from kernels.ahead import fetch
from kernels.compiler import helper, lean_kernel
from kernels.hashing import mix
from kernels.pairs import (
    EVENTS_MAX,
    begin,
    events_of,
    exists,
    give_more,
    has_more,
    more_row,
    nameless_last,
    pair_row,
)
from kernels.retention import fetch_bucket, fetch_page_slot, lengthen
from kernels.rows import COMPLETE_TAIL_MS, HOUR_MS, NAMELESS, NONE, PARTS
from kernels.tables import STREAMS, Table, Tables, allocate

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: From so many closed runs on, those of a pair are merged where they overlap.
MERGED_FROM = 64
#: Sessions may be hours apart; of so many each hour stands in a pair's list once.
_HOURS_LOOKED_AT = 8
#: Nothing else is counted before a pair gets visits of which so many runs were looked at.
_LOOKED_AT_STOP = 256
#: So many rows are brought into the cache together, which waits for memory once.
_AHEAD = 16


class Settings(NamedTuple):
    """`aggregator.rules.Rules`, as kernels see them."""

    max_gap_ms: int
    idle_ms: int
    complete_parts: int
    resume_parts: int
    by_position: bool


class Batch(NamedTuple):
    """Events as columns. `ts_ms` and `duration_ms` are empty where no event has any."""

    user: Int32s
    movie: Int32s
    session: Int32s
    at_ms: Int64s
    received_ms: Int64s
    ts_ms: Int64s
    duration_ms: Int64s
    #: Counted before: left out.
    duplicate: Bools
    #: By index in the batch's tables of names.
    users: Int32s
    movies: Int32s
    session_hashes: Int64s


class Effects(NamedTuple):
    """What is found of events, and left to do after them; as long as the batch."""

    #: The pair of each event.
    pairs: Int64s
    #: Credit, mostly one a movie and hour.
    movies: Int64s
    hours: Int64s
    watch_ms: Int64s
    #: Pairs with runs to merge.
    merging: Int64s
    #: Pairs that are to get visits.
    crowded: Int64s


@lean_kernel
def count(
    settings: Settings,
    tables: Tables,
    batch: Batch,
    effects: Effects,
    first: int,
    end: int,
    order: int,
) -> tuple[int, int, int, int, int]:
    """Counts the events from `first` to before `end`; there is room for what they add.

    `order` is the number of the next change. Returns the event that it came to, which is
    before `end` where a pair is to get visits first, the next order then, and how many
    credits, pairs to merge and pairs to get visits there are in `effects`.
    """
    credited = merging = crowded = 0
    rows = effects.pairs
    for block in range(first, end, _AHEAD):
        _find_pairs(tables, batch, block, min(block + _AHEAD, end), rows[block - first :])
        for i in range(block, min(block + _AHEAD, end)):
            if batch.duplicate[i]:
                continue
            row, at, t = rows[i - first], batch.at_ms[i], _happened(batch, i)
            pair = tables.pairs.rows[row]
            user, movie = tables.users[pair.user], tables.movies[pair.movie]
            session = batch.session_hashes[batch.session[i]]
            duration = batch.duration_ms[i] if len(batch.duration_ms) else np.int64(0)
            is_more = (
                session != NAMELESS or duration > 0 or not _is_evident(settings, pair, movie, at, t)
            )
            if is_more and not has_more(pair):
                give_more(tables.more, pair)
            more = tables.more.rows[more_row(pair)]
            runs_before = more.runs
            if not exists(pair, more):
                begin(tables.totals, user, movie)
            _complete(settings, tables, pair, more, duration, at, t)
            stream = NONE if session == NAMELESS else _stream_row(tables, row, more, session)
            credit, is_view, looked_at = _follow(settings, tables, row, stream, at, t)
            live.mark(tables, row, stream)
            _move(pair, more, at, t, order)
            order += 1
            _add_sums(pair, more, user, movie, t, credit, is_view)
            if credit > 0:
                hour = t // HOUR_MS
                _add_hour(tables.pair_hours, pair, hour, credit)
                credited = _credit(effects, movie, pair.movie, hour, credit, credited)
            if more.runs != runs_before and _is_to_merge(tables.runs.rows[more.runs].rank):
                effects.merging[merging] = row
                merging += 1
            if looked_at:
                effects.crowded[crowded] = row
                crowded += 1
                if looked_at > _LOOKED_AT_STOP:
                    return i + 1, order, credited, merging, crowded
    return end, order, credited, merging, crowded


@helper
def _credit(effects: Effects, movie: Any, code: int, hour: int, credit: int, credited: int) -> int:
    """Adds to the movie's last credit, or a new one; how many there are then."""
    last = np.int64(movie.credited)  # perhaps in another batch
    if last < credited and effects.movies[last] == code and effects.hours[last] == hour:
        effects.watch_ms[last] += credit
        return credited
    effects.movies[credited], effects.hours[credited] = code, hour
    effects.watch_ms[credited] = credit
    movie.credited = credited
    return credited + 1


@helper
def _happened(batch: Batch, i: int) -> int:
    """The time t of an event."""
    if len(batch.ts_ms) and batch.ts_ms[i] != NONE:
        return min(batch.ts_ms[i], batch.received_ms[i])
    return batch.received_ms[i]


@helper
def _is_evident(settings: Settings, pair: Any, movie: Any, at: int, t: int) -> bool:
    """Whether a pair without `more` needs none for an event without session and duration."""
    if not settings.by_position or is_complete(settings, movie.duration_ms, at):
        return False
    events = pair.events_or_more  # more than there can be would be a row of `more`
    latest_t, latest_ms = narrow.value(pair.latest_t), narrow.value(pair.latest_ms)
    return events == 0 or (events < EVENTS_MAX and _goes_on(settings, latest_t, latest_ms, at, t))


@helper
def _complete(
    settings: Settings, tables: Tables, pair: Any, more: Any, given: int, at: int, t: int
) -> None:
    """Latches completion; what happens after it begins the movie again."""
    if given > 0:
        narrow.put(more.duration_ms, given)
    duration = duration_ms_of(tables, pair, more)
    completed_t = narrow.value(more.completed_t)
    if completed_t != NONE:
        more.begun_again |= t >= completed_t
    elif settings.by_position and is_complete(settings, duration, at):
        narrow.put(more.completed_t, t)
        tables.users[pair.user].completions += 1
        tables.movies[pair.movie].completions += 1


@helper
def duration_ms_of(tables: Tables, pair: Any, more: Any) -> int:
    """The pair's own, else the catalogue's, else 0."""
    own = narrow.value(more.duration_ms)
    return own if own > 0 else tables.movies[pair.movie].duration_ms


@helper
def _move(pair: Any, more: Any, at: int, t: int, order: int) -> None:
    """The latest moment is that of the highest t, the later arrival at a tie."""
    if t >= narrow.value(pair.latest_t):
        narrow.put(pair.latest_t, t)
        narrow.put(pair.latest_ms, at)
        narrow.put(pair.latest_order, order)
    if has_more(pair):
        narrow.put(more.furthest_ms, max(narrow.value(more.furthest_ms), at))
        more.hidden = False


@helper
def _add_sums(
    pair: Any, more: Any, user: Any, movie: Any, t: int, credit: int, is_view: bool
) -> None:
    """Adds an event to its pair, user and movie."""
    is_first = events_of(pair, more) == 0
    user.viewers += is_first
    movie.viewers += is_first
    narrow.put(pair.first_t, min(narrow.value(pair.first_t), t))
    user.first_t, movie.first_t = min(user.first_t, t), min(movie.first_t, t)
    user.last_t, movie.last_t = max(user.last_t, t), max(movie.last_t, t)
    user.events += 1
    movie.events += 1
    if has_more(pair):
        more.events += 1
        more.views += is_view
        more.watch_ms += credit
    else:
        pair.events_or_more += 1
    user.views += is_view
    movie.views += is_view
    user.watch_ms += credit
    movie.watch_ms += credit


@helper
def _find_pairs(tables: Tables, batch: Batch, first: int, end: int, rows: Int64s) -> None:
    """The pair of each event, new ones added, with what it needs on its way to the cache."""
    slots = tables.pairs.slots
    for i in range(first, end):
        user, movie = _names_of(batch, i)
        fetch(tables.users, user)
        fetch(slots, pair_index.first_place(slots, pair_index.hash_of(slots, user, movie)))
        fetch_page_slot(tables, movie, batch.at_ms[i])
    for i in range(first, end):
        user, movie = _names_of(batch, i)
        row = pair_index.guess(slots, pair_index.hash_of(slots, user, movie))
        fetch(tables.pairs.rows, max(row, 0))
        fetch(tables.live_pairs, max(row, 0) >> 6)
        fetch_bucket(tables, movie, batch.at_ms[i])
    for i in range(first, end):
        if not batch.duplicate[i]:
            user, movie = _names_of(batch, i)
            row = pair_row(tables, user, movie)
            rows[i - first] = row
            fetch(tables.more.rows, more_row(tables.pairs.rows[row]))
            session = batch.session_hashes[batch.session[i]]
            if session != NAMELESS:
                key, of_streams = stream_key(tables, row, session), tables.streams.slots
                fetch(of_streams, intmap.first_slot(of_streams, key))


@helper
def _names_of(batch: Batch, i: int) -> tuple[int, int]:
    """The user and the movie of an event."""
    return np.int64(batch.users[batch.user[i]]), np.int64(batch.movies[batch.movie[i]])


@helper
def stream_key(tables: Tables, pair: int, session: int) -> int:
    """Seeded, so that no client can choose a session that has the key of another pair's."""
    return np.int64(mix(pair ^ intmap.seed_of(tables.streams.slots))) ^ session


@helper
def _stream_row(tables: Tables, pair: int, more: Any, session: int) -> int:
    """The row of a stream; one that is new stands first in its pair's list."""
    rows, size = tables.streams.rows, tables.streams.size
    key = stream_key(tables, pair, session)
    row = intmap.find_or_reserve(tables.streams.slots, key, size)
    if row != NONE:
        return row
    row = size[0]
    size[0] = row + 1
    stream = rows[row]
    stream.session_hash, stream.pair = session, pair
    streams.put(stream, NONE, 0, 0)
    stream.next = more.streams
    more.streams = row
    return row


@helper
def is_complete(settings: Settings, duration: int, at: int) -> bool:
    """Whether `at` is at or past the end, as far as completion goes."""
    return duration > 0 and (
        at * PARTS >= settings.complete_parts * duration or duration - at <= COMPLETE_TAIL_MS
    )


@helper
def _goes_on(settings: Settings, last_t: int, last_at: int, at: int, t: int) -> bool:
    """Whether an event goes on with a run: it is neither late nor idle, and no seek."""
    return 0 <= t - last_t <= settings.idle_ms and 0 <= at - last_at <= settings.max_gap_ms


@helper
def _follow(
    settings: Settings, tables: Tables, row: int, stream: int, at: int, t: int
) -> tuple[int, bool, int]:
    """What an event adds to its stream: the credit, and whether it opens a view.

    And how many runs of the pair were looked at, as `lengthen` says.
    """
    pair = tables.pairs.rows[row]
    more = tables.more.rows[more_row(pair)]
    if stream == NONE:
        last_t, last_at = nameless_last(pair, more)
        run_start = narrow.value(pair.run_start)
    else:
        named = tables.streams.rows[stream]
        last_t = streams.last_t(named)
        run_start, last_at = streams.open_run(named)
    credit, looked_at = np.int64(0) if settings.by_position else at, np.int64(0)
    if last_t == NONE:  # 1
        tables.totals[STREAMS] += 1
        run_start = at
    elif t < last_t:  # 2
        return credit, False, looked_at
    elif not settings.by_position:
        run_start = at  # positions mean nothing, so runs cover nothing
    elif _goes_on(settings, last_t, last_at, at, t):  # 4
        looked_at = lengthen(tables, row, run_start, last_at, at)
        credit = at - last_at
    else:  # 3
        if last_at > run_start:
            _close_run(tables.runs, more, run_start, last_at)
        run_start = at
    if stream == NONE:
        narrow.put(pair.run_start, run_start)
        if has_more(pair):  # else the latest moment tells
            narrow.put(more.last_t, t)
            narrow.put(more.last_at, at)
    else:
        streams.put(tables.streams.rows[stream], t, run_start, at)
    return credit, last_t == NONE or t - last_t > settings.idle_ms, looked_at


@helper
def _close_run(runs: Table, more: Any, start: int, end: int) -> None:
    row = allocate(runs)
    run = runs.rows[row]
    run.start, run.end, run.next = start, end, more.runs
    run.rank = 1 if more.runs == NONE else runs.rows[more.runs].rank + 1
    more.runs = row


@helper
def _is_to_merge(runs: int) -> bool:
    """Each time that their number has doubled."""
    return runs >= MERGED_FROM and runs & (runs - 1) == 0


@helper
def _add_hour(hours: Table, pair: Any, hour: int, credit: int) -> None:
    if pair.hour == NONE:
        pair.hour = hour
    if pair.hour == hour:
        return
    at = pair.hours
    for _ in range(_HOURS_LOOKED_AT):
        if at == NONE:
            break
        if hours.rows[at].hour == hour:
            hours.rows[at].watch_ms += credit
            return
        at = hours.rows[at].next
    row = allocate(hours)
    added = hours.rows[row]
    added.watch_ms, added.hour, added.next = credit, hour, pair.hours
    pair.hours = row
