"""The state of a shard as columns, and the rules of watch time on whole batches.

A row a pair (user, movie), a stream, a user, a movie, and an hour of a movie;
rows refer to each other by number. A batch is sorted once, then each rule is
one vector operation over all its events. `reference` says the same for one
event; a property test holds the two together. The numbers in comments are those
of the rules in docs/watch-time.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from aggregator.intmap import IntMap, mix
from aggregator.names import Names
from aggregator.recent import RecentHashes
from aggregator.rules import COMPLETE_TAIL_MS, HOUR_MS, PARTS, Rules
from aggregator.runs import Runs
from aggregator.table import Table
from persistence.batch import Batch

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: No row, no time: where 0 could be meant.
NONE = -1

_PAIR_COLUMNS = {
    "user": np.int32,
    "movie": np.int32,
    "events": np.int32,
    "views": np.int32,
    "version": np.int32,
    "nameless_stream": np.int32,
    "named_stream": np.int32,
    "watch_ms": np.int64,
    "latest_ms": np.int64,
    "latest_t": np.int64,
    "furthest_ms": np.int64,
    "duration_ms": np.int64,
    "completed_t": np.int64,
}
_STREAM_COLUMNS = {
    "pair": np.int32,
    "next": np.int32,
    "session_hash": np.int64,
    "last_t": np.int64,
    "last_at": np.int64,
    "run_start": np.int64,
}
_TOTAL_COLUMNS = {
    "watch_ms": np.int64,
    "first_t": np.int64,
    "last_t": np.int64,
    "pairs": np.int32,
    "completions": np.int32,
    "views": np.int64,
    "events": np.int64,
}
_HOUR_COLUMNS = {"movie": np.int32, "hour": np.int32, "watch_ms": np.int64}


@dataclass(slots=True)
class _Events:
    """Events of a batch in pair order: all of a pair together, as they arrived.

    `group` numbers the pairs of the batch 0, 1, 2 …; `starts` are where they begin.
    """

    at: Int64s
    t: Int64s
    group: Int64s
    starts: Int64s


@dataclass(slots=True)
class _Watched:
    """What streams make of events: which were not late, and what each of those adds."""

    group: Int64s
    t: Int64s
    credit: Int64s
    opens_view: Bools


class State:
    """Everything a shard knows. `apply` changes it; it is deterministic and does no I/O."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.user_names, self.movie_names = Names(), Names()
        nothing = {"first_t": np.iinfo(np.int64).max, "last_t": NONE}
        self.users = Table(_TOTAL_COLUMNS, nothing)
        self.movies = Table(_TOTAL_COLUMNS, nothing)
        self.pairs = Table(
            _PAIR_COLUMNS,
            {"latest_t": NONE, "completed_t": NONE, "nameless_stream": NONE, "named_stream": NONE},
        )
        self.streams = Table(_STREAM_COLUMNS, {})
        self.hours = Table(_HOUR_COLUMNS, {})
        self.runs = Runs()
        self.recent = RecentHashes()
        self._pair_index, self._stream_index, self._hour_index = IntMap(), IntMap(), IntMap()

    @property
    def events(self) -> int:
        return int(self.movies["events"].sum())

    def apply(self, batch: Batch, received_ms: int | Int64s, record: Int64s | None = None) -> Bools:
        """Counts the events of `batch` and returns which were duplicates and changed nothing.

        `received_ms` is one for all, or one an event, never falling. `record`
        numbers the log record of each event, when the batch joins several.
        """
        received = np.broadcast_to(np.asarray(received_ms, np.int64), len(batch))
        duplicate = self._find_duplicates(batch, received, record)
        if duplicate.any():
            batch, received = batch.take(~duplicate), received[~duplicate]
        if len(batch):
            self._count(batch, received)
        return duplicate

    def pair_row(self, user: str, slug: str) -> int | None:
        user_code, movie_code = self.user_names.code(user), self.movie_names.code(slug)
        if user_code is None or movie_code is None:
            return None
        row = int(self._pair_index.find(np.array([user_code << 32 | movie_code]))[0])
        return None if row == NONE else row

    # Duplicates

    def _find_duplicates(self, batch: Batch, received: Int64s, record: Int64s | None) -> Bools:
        duplicate = np.zeros(len(batch), np.bool_)
        fresh: list[Int64s] = []
        since: list[int] = []
        for hashes, of_request in ((batch.key_hash, True), (batch.id_hash, False)):
            if hashes is None:
                continue
            hashed = np.flatnonzero((hashes != 0) & ~duplicate)
            distinct, first, which = np.unique(
                hashes[hashed], return_index=True, return_inverse=True
            )
            known = self.recent.contains(distinct)
            if not of_request:
                repeated = first[which] != np.arange(len(hashed))
            elif record is None:
                repeated = np.zeros(len(hashed), np.bool_)  # one record holds a request once
            else:
                repeated = record[hashed] != record[hashed[first]][which]
            duplicate[hashed] = known[which] | repeated
            fresh.append(distinct[~known])
            since.extend(received[hashed[first[~known]]])
        if since:
            self.recent.add(np.concatenate(fresh), int(min(since)))
        return duplicate

    # Counting

    def _count(self, batch: Batch, received: Int64s) -> None:
        user = self._intern(self.user_names, self.users, batch.users)[batch.user]
        movie = self._intern(self.movie_names, self.movies, batch.slugs)[batch.slug]
        key = user << 32 | movie
        order = np.argsort(key, kind="stable")
        key = key[order]
        starts = _starts(key[1:] != key[:-1])
        counts = np.diff(starts, append=len(key))
        events = _Events(
            at=batch.at_ms[order],
            t=_happened(batch, received)[order],
            group=np.repeat(np.arange(len(starts)), counts),
            starts=starts,
        )
        rows, is_new = self._pair_rows(key[starts])
        self._move_moments(events, rows)
        duration_ms = None if batch.duration_ms is None else batch.duration_ms[order]
        completions = self._complete(events, rows, duration_ms)
        sessions = None if batch.sessions == [""] else _hash_sessions(batch)[order]
        watched = self._follow_streams(events, rows, sessions)
        self._add_hours(watched, rows)
        self._add_totals(events, rows, watched, counts, is_new, completions)

    def _intern(self, names: Names, totals: Table, batch_names: list[str]) -> Int64s:
        codes = names.intern(batch_names)
        if len(names) > len(totals):
            totals.add(len(names) - len(totals))
        return codes

    def _pair_rows(self, keys: Int64s) -> tuple[Int64s, Bools]:
        return _find_or_add(
            self._pair_index, self.pairs, keys, user=keys >> 32, movie=keys & 0xFFFFFFFF
        )

    def _move_moments(self, events: _Events, rows: Int64s) -> None:
        """The latest moment is that of the highest t, the later arrival at a tie."""
        index = np.arange(len(events.t))
        is_peak = events.t == np.maximum.reduceat(events.t, events.starts)[events.group]
        last = np.maximum.reduceat(np.where(is_peak, index, NONE), events.starts)
        moved = events.t[last] >= self.pairs["latest_t"][rows]
        self.pairs["latest_t"][rows[moved]] = events.t[last[moved]]
        self.pairs["latest_ms"][rows[moved]] = events.at[last[moved]]
        furthest = np.maximum.reduceat(events.at, events.starts)
        self.pairs["furthest_ms"][rows] = np.maximum(self.pairs["furthest_ms"][rows], furthest)

    def _complete(self, events: _Events, rows: Int64s, given: Int64s | None) -> Bools:
        """Takes over the durations given and latches completion; which pairs it latched for."""
        known = self.pairs["duration_ms"][rows][events.group]
        index = np.arange(len(known))
        if given is not None:
            last_given = np.maximum.accumulate(np.where(given > 0, index, NONE))
            in_group = last_given >= events.starts[events.group]
            known = np.where(in_group, given[last_given], known)
            self.pairs["duration_ms"][rows] = known[np.append(events.starts[1:], len(known)) - 1]
        latched = np.zeros(len(rows), np.bool_)
        if self.rules.credit == "position" and known.any():
            complete = (known > 0) & (
                (events.at * PARTS >= self.rules.complete_parts * known)
                | (known - events.at <= COMPLETE_TAIL_MS)
            )
            first = np.minimum.reduceat(np.where(complete, index, len(index)), events.starts)
            latched = (first < len(index)) & (self.pairs["completed_t"][rows] == NONE)
            self.pairs["completed_t"][rows[latched]] = events.t[first[latched]]
        return latched

    # Streams

    def _follow_streams(self, events: _Events, pairs: Int64s, sessions: Int64s | None) -> _Watched:
        """Applies rules 1 to 4. `pairs` are the rows of the groups, `sessions` hashes an event."""
        group, at, t = events.group, events.at, events.t
        if sessions is None:
            starts, sessions = events.starts, np.zeros(len(events.starts), np.int64)
        else:
            by_stream = np.lexsort((sessions, group))
            group, at, t, sessions = (c[by_stream] for c in (group, at, t, sessions))
            starts = _starts((group[1:] != group[:-1]) | (sessions[1:] != sessions[:-1]))
            sessions = sessions[starts]
        streams, is_new = self._stream_rows(pairs[group[starts]], sessions)
        stream = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(t)))
        late = self._late(t, stream, starts, streams)
        all_group, all_at, all_t = group, at, t
        if late.any():
            at, t, group, stream = (column[~late] for column in (at, t, group, stream))
        watched = self._follow(at, t, group, stream, streams, is_new)
        if self.rules.credit == "position":
            return watched
        opens_view = np.zeros(len(all_t), np.bool_)
        opens_view[~late] = watched.opens_view
        return _Watched(all_group, all_t, all_at, opens_view)

    def _late(self, t: Int64s, stream: Int64s, starts: Int64s, streams: Int64s) -> Bools:
        """Rule 2: earlier than the stream's last t, which late events do not move."""
        before = np.empty_like(t)
        # One running maximum over all streams: each is lifted above the one before it.
        lift = stream * (np.ptp(t) + 1)
        before[1:] = (np.maximum.accumulate(t + lift) - lift)[:-1]
        before[starts] = NONE
        return t < np.maximum(before, self.streams["last_t"][streams][stream])

    def _follow(
        self,
        at: Int64s,
        t: Int64s,
        group: Int64s,
        stream: Int64s,
        streams: Int64s,
        is_new: Bools,
    ) -> _Watched:
        """Rules 1, 3 and 4, for events in stream order of which none is late.

        `stream` says which of the rows `streams` an event is of; those with
        `is_new` have had no event yet.
        """
        if not len(at):
            return _Watched(group, t, at, np.zeros(0, np.bool_))
        starts = _starts(stream[1:] != stream[:-1])
        rows = streams[stream[starts]]
        first = np.zeros(len(at), np.bool_)
        first[starts] = is_new[stream[starts]]
        last_t, last_at = _shifted(t), _shifted(at)
        last_t[starts], last_at[starts] = (
            self.streams["last_t"][rows],
            self.streams["last_at"][rows],
        )
        opens_view = first | (t - last_t > self.rules.idle_ms)  # 1, 3
        step = at - last_at
        goes_on = ~opens_view & (step >= 0) & (step <= self.rules.max_gap_ms)  # 4
        run_start = self._run_starts(at, goes_on, starts, rows)
        start_before = _shifted(run_start)
        start_before[starts] = self.streams["run_start"][rows]
        if self.rules.credit == "position":
            closes = np.flatnonzero(~goes_on & ~first & (last_at > start_before))
            pairs = self.streams["pair"][streams[stream[closes]]]
            movies = self.pairs["movie"][pairs]
            columns = (pairs, movies, start_before[closes], last_at[closes])
            for run in zip(*(column.tolist() for column in columns), strict=True):
                self.runs.close(*run)
        ends = np.append(starts[1:], len(at)) - 1
        self.streams["last_t"][rows] = t[ends]
        self.streams["last_at"][rows] = at[ends]
        self.streams["run_start"][rows] = run_start[ends]
        return _Watched(group, t, np.where(goes_on, step, 0), opens_view)

    def _run_starts(self, at: Int64s, goes_on: Bools, starts: Int64s, rows: Int64s) -> Int64s:
        """Where the run of each event began."""
        index = np.arange(len(at))
        opened = np.maximum.accumulate(np.where(goes_on, NONE, index))
        counts = np.diff(starts, append=len(at))
        inherited = np.repeat(self.streams["run_start"][rows], counts)
        return np.where(opened >= np.repeat(starts, counts), at[opened], inherited)

    def _stream_rows(self, pairs: Int64s, sessions: Int64s) -> tuple[Int64s, Bools]:
        """Rows of distinct streams in pair order. The nameless one is found through its pair."""
        named = sessions != 0
        rows = self.pairs["nameless_stream"][pairs].astype(np.int64)
        is_new = rows == NONE
        nameless_new = is_new & ~named
        if nameless_new.any():
            of_pairs = pairs[nameless_new]
            rows[nameless_new] = self.streams.add(
                len(of_pairs), pair=of_pairs, next=NONE, last_t=NONE
            )
            self.pairs["nameless_stream"][of_pairs] = rows[nameless_new]
        if named.any():
            rows[named], is_new[named] = self._named_stream_rows(pairs[named], sessions[named])
        return rows, is_new

    def _named_stream_rows(self, pairs: Int64s, sessions: Int64s) -> tuple[Int64s, Bools]:
        rows, is_new = _find_or_add(
            self._stream_index,
            self.streams,
            _stream_keys(pairs, sessions),
            pair=pairs,
            session_hash=sessions,
            last_t=np.full(len(pairs), NONE),
        )
        fresh, of_pairs = rows[is_new], pairs[is_new]
        # The named streams of a pair are a list: each new one points to the one before it.
        chained = np.append(False, of_pairs[1:] == of_pairs[:-1])[: len(fresh)]
        before = np.where(chained, fresh - 1, self.pairs["named_stream"][of_pairs])
        self.streams["next"][fresh] = before
        self.pairs["named_stream"][of_pairs] = fresh
        return rows, is_new

    # Sums

    def _add_hours(self, watched: _Watched, pairs: Int64s) -> None:
        credited = watched.credit > 0
        movie = self.pairs["movie"][pairs[watched.group[credited]]].astype(np.int64)
        key = movie << 32 | watched.t[credited] // HOUR_MS
        distinct, which = np.unique(key, return_inverse=True)
        rows, _ = _find_or_add(
            self._hour_index, self.hours, distinct, movie=distinct >> 32, hour=distinct & 0xFFFFFFFF
        )
        np.add.at(self.hours["watch_ms"], rows[which], watched.credit[credited])

    def _add_totals(
        self,
        events: _Events,
        rows: Int64s,
        watched: _Watched,
        counts: Int64s,
        is_new: Bools,
        completions: Bools,
    ) -> None:
        watch_ms = _sum_groups(watched.group, watched.credit, len(rows))
        views = _sum_groups(watched.group, watched.opens_view, len(rows))
        for column, more in (
            ("watch_ms", watch_ms),
            ("views", views),
            ("events", counts),
            ("version", counts),
        ):
            self.pairs[column][rows] += more
        first_t = np.minimum.reduceat(events.t, events.starts)
        last_t = np.maximum.reduceat(events.t, events.starts)
        for totals, of in ((self.users, "user"), (self.movies, "movie")):
            total = self.pairs[of][rows]
            np.add.at(totals["watch_ms"], total, watch_ms)
            np.add.at(totals["views"], total, views)
            np.add.at(totals["events"], total, counts)
            np.add.at(totals["pairs"], total, is_new)
            np.add.at(totals["completions"], total, completions)
            np.minimum.at(totals["first_t"], total, first_t)
            np.maximum.at(totals["last_t"], total, last_t)

    # Snapshots

    def to_arrow(self) -> dict[str, pa.Table]:
        """A frozen copy of everything, by table name."""
        return {
            "users": self.users.to_arrow().append_column(
                "name", pa.array(self.user_names.to_list(), pa.string())
            ),
            "movies": self.movies.to_arrow().append_column(
                "name", pa.array(self.movie_names.to_list(), pa.string())
            ),
            "pairs": self.pairs.to_arrow(),
            "streams": self.streams.to_arrow(),
            "hours": self.hours.to_arrow(),
            "recent": self.recent.to_arrow(),
            **self.runs.to_arrow(),
        }

    def load_arrow(self, tables: dict[str, pa.Table], young_since_ms: int) -> None:
        """Fills an empty state with what `to_arrow` gave, and `recent.young_since_ms` then."""
        self.user_names = Names(tables["users"]["name"].to_pylist())
        self.movie_names = Names(tables["movies"]["name"].to_pylist())
        for name in ("users", "movies", "pairs", "streams", "hours"):
            getattr(self, name).load_arrow(tables[name])
        self.runs.load_arrow(tables)
        self.recent.load_arrow(tables["recent"], young_since_ms)
        self._index_rows()

    def _index_rows(self) -> None:
        user, movie = self.pairs["user"].astype(np.int64), self.pairs["movie"]
        self._pair_index.insert(user << 32 | movie, np.arange(len(self.pairs)))
        named = np.flatnonzero(self.streams["session_hash"])
        keys = _stream_keys(
            self.streams["pair"][named].astype(np.int64), self.streams["session_hash"][named]
        )
        self._stream_index.insert(keys, named)
        of_movie = self.hours["movie"].astype(np.int64)
        self._hour_index.insert(of_movie << 32 | self.hours["hour"], np.arange(len(self.hours)))


def _find_or_add(
    index: IntMap, table: Table, keys: Int64s, **columns: Int64s
) -> tuple[Int64s, Bools]:
    """Rows of distinct `keys`; missing ones are added with their `columns`. And which were."""
    rows = index.find(keys)
    is_new = rows == NONE
    if is_new.any():
        chosen: dict[str, Any] = {name: column[is_new] for name, column in columns.items()}
        rows[is_new] = table.add(int(np.count_nonzero(is_new)), **chosen)
        index.insert(keys[is_new], rows[is_new])
    return rows, is_new


def _happened(batch: Batch, received: Int64s) -> Int64s:
    """The time t of each event."""
    if batch.ts_ms is None:
        return received
    return np.where(batch.ts_ms == NONE, received, np.minimum(batch.ts_ms, received))


def _hash_sessions(batch: Batch) -> Int64s:
    """A hash an event, 0 for the nameless session."""
    hashes = [xxhash.xxh3_64_intdigest(name.encode()) | 1 if name else 0 for name in batch.sessions]
    return np.array(hashes, np.uint64).view(np.int64)[batch.session]


def _stream_keys(pairs: Int64s, sessions: Int64s) -> Int64s:
    return (mix(pairs) ^ sessions.view(np.uint64)).view(np.int64)


def _starts(changes: Bools) -> Int64s:
    """Where groups begin, from whether each element but the first differs from the one before."""
    return np.append(0, np.flatnonzero(changes) + 1)


def _shifted(column: Int64s) -> Int64s:
    """Each element's predecessor; the first one is left to the caller."""
    shifted = np.empty_like(column)
    shifted[1:] = column[:-1]
    return shifted


def _sum_groups(group: Int64s, values: NDArray[Any], groups: int) -> Int64s:
    # Sums of a batch stay far below 2**53, so float weights are exact.
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)
