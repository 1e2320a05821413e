"""The rows that a shard's state is made of: what lies in a row is read and written together.

Milliseconds; `t` are Unix ms. Rows refer to each other by number, NONE being no row
and no time. Rows with a `next` make lists, whose first row stands in what they belong to.
"""

import numpy as np

#: No row, no time: where 0 could be meant.
NONE = -1
#: The width of a retention bucket.
BUCKET_MS = 10_000
HOUR_MS = 3_600_000
#: Ratios are compared in millionths, in integers.
PARTS = 1_000_000
#: A movie is complete this close to its end, whatever its length.
COMPLETE_TAIL_MS = 1_000

#: Numbers in few bytes, as `kernels.narrow` reads and writes them: positions, of which the
#: highest has 34 bits; and Unix times, or changes in order.
INT40 = np.dtype([("low", np.uint32), ("high", np.int8)])
INT48 = np.dtype([("low", np.uint32), ("high", np.int16)])
#: Later than any event: the first t where there is none.
LATE = (1 << 47) - 1

#: A user and a movie, packed. Its stream without a session is where its latest moment is,
#: unless there is `more`. The hour of the first credit has what `hours` leave of its watch time.
PAIR = np.dtype(
    [
        ("latest_ms", INT40),
        ("run_start", INT40),  # of the stream without a session
        ("latest_t", INT48),
        ("latest_order", INT48),
        ("first_t", INT48),
        ("user", np.int32),
        ("movie", np.int32),
        ("next", np.int32),  # pair of the user
        ("hour", np.int32),
        ("hours", np.int32),
        ("events_or_more", np.int32),  # how many events; or ~ the row in `more`, which says it
    ]
)

#: What most pairs have no need to say. The first row is that of all pairs without one of
#: their own, and is never written to.
MORE = np.dtype(
    [
        ("watch_ms", np.int64),
        ("events", np.int64),
        ("streams", np.int32),
        ("runs", np.int32),
        ("views", np.int32),
        ("changes", np.int32),  # by hand
        ("duration_ms", INT40),
        ("furthest_ms", INT40),
        ("completed_t", INT48),
        # The stream without a session.
        ("last_t", INT48),
        ("last_at", INT40),
        ("begun_again", np.bool_),
        ("hidden", np.bool_),
        ("has_visits", np.bool_),  # as in `kernels.visits`
        ("unused", np.int16),  # 64 bytes are a line of the processor's cache
    ]
)
NO_MORE = 0

#: The hash of what is no session.
NAMELESS = 0
#: A stream of a pair that has a session.
STREAM = np.dtype(
    [
        ("session_hash", np.int64),
        ("last_t", INT48),
        ("last_at", INT40),
        ("run_start", INT40),
        ("pair", np.int32),
        ("next", np.int32),
    ]
)

#: A closed run of a pair; `rank` is how many there are from here to the end of the list.
RUN = np.dtype(
    [("start", np.int64), ("end", np.int64), ("rank", np.int32), ("next", np.int32)], align=True
)

#: What a pair added in another hour than its first; it may stand there several times.
PAIR_HOUR = np.dtype([("watch_ms", np.int64), ("hour", np.int32), ("next", np.int32)], align=True)

_SUMS = [
    ("watch_ms", np.int64),
    ("first_t", np.int64),
    ("last_t", np.int64),
    ("views", np.int64),
    ("events", np.int64),
    ("pairs", np.int32),
    ("viewers", np.int32),
    ("completions", np.int32),
]
USER = np.dtype([*_SUMS, ("first_pair", np.int32)], align=True)
#: `duration_ms` is the catalogue's; `buckets` is up to where retention was ever counted;
#: `credited` is scratch of `watching.count`: where its last credit stood among the effects.
MOVIE = np.dtype(
    [
        *_SUMS,
        ("buckets", np.int32),
        ("duration_ms", np.int64),
        ("credited", np.int32),
        ("described", np.bool_),
    ],
    align=True,
)

#: Retention: the pairs that have been in a bucket of a movie, and the runs.
BUCKET = np.dtype([("viewers", np.int32), ("plays", np.int32)])
#: So many buckets of a movie follow each other in the rows of buckets, those of page 3 from
#: 3 * PAGE_BUCKETS on; `number` is which of the movie's they are.
PAGE = np.dtype([("movie", np.int32), ("number", np.int32)])
PAGE_BUCKETS = 16
#: A bit a bucket that a pair has been in, of so many that follow each other.
VISITED = np.dtype([("buckets", np.uint64)])
VISITED_BUCKETS = 64
VISITED_MS = VISITED_BUCKETS * BUCKET_MS
MOVIE_HOUR = np.dtype([("watch_ms", np.int64), ("movie", np.int32), ("hour", np.int32)])
