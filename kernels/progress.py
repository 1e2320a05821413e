"""What is said of pairs: the progress of each, and where a user's are in time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import narrow
from kernels.compiler import allocating_helper, helper, kernel
from kernels.lists import intervals
from kernels.pairs import events_of, exists, has_more, more_row, nameless_last, watch_ms_of
from kernels.rows import NONE, PARTS
from kernels.tables import Tables
from kernels.watching import Settings, duration_ms_of, is_complete

Int64s = NDArray[np.int64]

#: The columns of `progress`, which are the fields of `aggregator.messages.Progress`.
COLUMNS = (
    *("latest_ms", "latest_t", "furthest_ms", "resume_ms", "watch_ms", "unique_ms"),
    *("completed_t", "views", "events", "duration_ms", "version"),
)
#: The columns of `moments`.
MOMENT_COLUMNS = ("row", "t", "order", "is_to_continue")
_COLUMNS, _MOMENT_COLUMNS = len(COLUMNS), len(MOMENT_COLUMNS)


@kernel
def progress(settings: Settings, tables: Tables, rows: Int64s) -> Int64s:
    """A row for each of `COLUMNS`, with a value a pair; NONE is nothing to say."""
    columns = np.empty((_COLUMNS, len(rows)), np.int64)
    for i in range(len(rows)):
        pair = tables.pairs.rows[rows[i]]
        more = tables.more.rows[more_row(pair)]
        latest_ms, events = narrow.value(pair.latest_ms), events_of(pair, more)
        duration_ms = duration_ms_of(tables, pair, more)
        columns[0, i] = latest_ms
        columns[1, i] = narrow.value(pair.latest_t)
        columns[2, i] = narrow.value(more.furthest_ms) if has_more(pair) else latest_ms
        columns[3, i] = columns[5, i] = NONE
        if settings.by_position:
            columns[3, i] = _resume_ms(settings, latest_ms, duration_ms)
            columns[5, i] = _unique_ms(tables, rows[i], pair, more)
        columns[4, i] = watch_ms_of(pair, more)
        columns[6, i] = narrow.value(more.completed_t)
        columns[7, i] = more.views
        columns[8, i] = events
        columns[9, i] = duration_ms if duration_ms > 0 else NONE
        columns[10, i] = events + more.changes
    return columns


@kernel
def moments(settings: Settings, tables: Tables, first: int) -> Int64s:
    """A row for each of `MOMENT_COLUMNS`, with a value a pair of the user's that exists.

    `first` begins the list of the user's pairs.
    """
    count, row = 0, first
    while row != NONE:
        count, row = count + 1, np.int64(tables.pairs.rows[row].next)
    columns = np.empty((_MOMENT_COLUMNS, count), np.int64)
    count, row = 0, first
    while row != NONE:
        pair = tables.pairs.rows[row]
        more = tables.more.rows[more_row(pair)]
        if exists(pair, more):
            columns[0, count] = row
            columns[1, count] = narrow.value(pair.latest_t)
            columns[2, count] = narrow.value(pair.latest_order)
            columns[3, count] = _is_to_continue(settings, tables, pair, more)
            count += 1
        row = np.int64(pair.next)
    return columns[:, :count]


@helper
def _is_to_continue(settings: Settings, tables: Tables, pair: Any, more: Any) -> bool:
    """Whether there is somewhere to go on, which was not hidden, and it is not finished."""
    is_finished = narrow.value(more.completed_t) != NONE and not more.begun_again
    if not settings.by_position or more.hidden or is_finished:
        return False
    duration_ms = duration_ms_of(tables, pair, more)
    return _resume_ms(settings, narrow.value(pair.latest_ms), duration_ms) > 0


@helper
def _resume_ms(settings: Settings, latest_ms: int, duration_ms: int) -> int:
    """The resume point; `duration_ms` is 0 where it is not known."""
    starts_over = latest_ms * PARTS < settings.resume_parts * duration_ms
    if starts_over or is_complete(settings, duration_ms, latest_ms):
        return np.int64(0)
    return latest_ms


@allocating_helper
def _unique_ms(tables: Tables, row: int, pair: Any, more: Any) -> int:
    """How much of the movie the runs of a pair cover."""
    if more.runs == NONE and more.streams == NONE:
        return nameless_last(pair, more)[1] - narrow.value(pair.run_start)
    start, end = intervals(tables, row)
    length, reached = np.int64(0), np.int64(0)
    for k in range(len(start)):
        length += max(end[k] - max(start[k], reached), 0)
        reached = max(reached, end[k])
    return length
