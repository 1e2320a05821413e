"""The buckets of a movie: how many have been there, and how often."""

import numpy as np

from kernels import intmap, narrow, streams, visits
from kernels.ahead import fetch
from kernels.compiler import helper
from kernels.pairs import more_row, nameless_last
from kernels.rows import BUCKET_MS, NONE, PAGE_BUCKETS
from kernels.tables import Tables

#: A pair gets visits when more of its runs were looked at for a bucket. Of an hour of a movie they
#: take less memory than so many sessions.
LOOKED_AT_MAX = 16


@helper
def lengthen(tables: Tables, row: int, start: int, end_before: int, end: int) -> int:
    """Has retention count the buckets that an open run comes to, before it is any longer.

    Returns how many runs of the pair it looked at, if the pair is to get visits, else 0.
    """
    if end <= end_before:
        return np.int64(0)
    # A run that covers something has been counted up to where it is.
    bucket = start // BUCKET_MS
    if end_before > start:
        bucket = (end_before - 1) // BUCKET_MS + 1
    stop = (end - 1) // BUCKET_MS + 1
    looked_at, looked_at_max = np.int64(0), LOOKED_AT_MAX * (stop - bucket)
    has_visits = tables.more.rows[more_row(tables.pairs.rows[row])].has_visits
    while bucket < stop:
        counted = tables.buckets[_bucket_row(tables, tables.pairs.rows[row].movie, bucket)]
        counted.plays += 1
        if has_visits:
            counted.viewers += visits.enter(tables.visits, row, bucket)
        else:
            has_been, runs = _look(tables, row, bucket)
            counted.viewers += not has_been
            looked_at += runs
        bucket += 1
    return looked_at if looked_at > looked_at_max else np.int64(0)


@helper
def _bucket_row(tables: Tables, movie: int, bucket: int) -> int:
    """The row of a bucket, which gets a page if it has none."""
    pages, key = tables.pages, page_key(movie, bucket)
    page = intmap.find_or_reserve(pages.slots, key, pages.size)
    if page == NONE:
        page = pages.size[0]
        pages.size[0] = page + 1
        added = pages.rows[page]
        added.movie, added.number = movie, bucket // PAGE_BUCKETS
    tables.movies[movie].buckets = max(tables.movies[movie].buckets, bucket + 1)
    return page * PAGE_BUCKETS + bucket % PAGE_BUCKETS


@helper
def page_key(movie: int, bucket: int) -> int:
    return np.int64(movie) << 32 | bucket // PAGE_BUCKETS


@helper
def find_bucket(tables: Tables, movie: int, bucket: int) -> int:
    """The row of a bucket whose page is there."""
    page = intmap.find(tables.pages.slots, page_key(movie, bucket))
    return page * PAGE_BUCKETS + bucket % PAGE_BUCKETS


@helper
def fetch_page_slot(tables: Tables, movie: int, at: int) -> None:
    """Has on its way what `fetch_bucket` looks at."""
    slots = tables.pages.slots
    fetch(slots, intmap.first_slot(slots, page_key(movie, at // BUCKET_MS)))


@helper
def fetch_bucket(tables: Tables, movie: int, at: int) -> None:
    """Has the bucket of a position on its way, most probably."""
    slots, bucket = tables.pages.slots, at // BUCKET_MS
    page = slots[intmap.first_slot(slots, page_key(movie, bucket))].row - 1
    fetch(tables.buckets, max(page, 0) * PAGE_BUCKETS + bucket % PAGE_BUCKETS)


@helper
def _look(tables: Tables, row: int, bucket: int) -> tuple[bool, int]:
    """Whether any run of a pair covers some of a bucket, and how many were looked at."""
    start, end = bucket * BUCKET_MS, (bucket + 1) * BUCKET_MS
    pair = tables.pairs.rows[row]
    more = tables.more.rows[more_row(pair)]
    run_start, last_at = narrow.value(pair.run_start), nameless_last(pair, more)[1]
    if _covers(run_start, last_at, start, end):
        return True, 1
    looked_at, at = 1, more.streams
    while at != NONE:
        stream = tables.streams.rows[at]
        run_start, last_at = streams.open_run(stream)
        looked_at += 1
        if _covers(run_start, last_at, start, end):
            return True, looked_at
        at = stream.next
    at = more.runs
    while at != NONE:
        run = tables.runs.rows[at]
        looked_at += 1
        if _covers(run.start, run.end, start, end):
            return True, looked_at
        at = run.next
    return False, looked_at


@helper
def _covers(run_start: int, run_end: int, start: int, end: int) -> bool:
    return run_start < end and run_end > start and run_end > run_start
