"""The state of a shard as columns, and the rules of watch time on whole batches.

A row a pair (user, movie), a stream, a user, a movie, and an hour of a movie;
rows refer to each other by number. A batch is sorted once, then each rule is
one vector operation over all its events. `reference` says the same for one
event; a property test holds the two together. The numbers in comments are those
of the rules in docs/watch-time.md.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from aggregator.groups import last_of, lengths_of, starts_of
from aggregator.names import Names
from aggregator.recent import RecentHashes
from aggregator.rules import COMPLETE_TAIL_MS, HOUR_MS, PARTS, Rules
from aggregator.runs import Runs
from aggregator.streams import Events, Streams, Watched
from aggregator.table import NONE, IndexedTable, Table
from persistence.batch import Batch

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

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


class State:
    """Everything a shard knows. `apply` changes it; it is deterministic and does no I/O."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.user_names, self.movie_names = Names(), Names()
        nothing = {"first_t": np.iinfo(np.int64).max, "last_t": NONE}
        self.users = Table(_TOTAL_COLUMNS, nothing)
        self.movies = Table(_TOTAL_COLUMNS, nothing)
        self.pairs = IndexedTable(
            _PAIR_COLUMNS,
            {"latest_t": NONE, "completed_t": NONE, "nameless_stream": NONE, "named_stream": NONE},
        )
        self.hours = IndexedTable(_HOUR_COLUMNS, {})
        self.runs = Runs()
        self.streams = Streams(rules, self.pairs, self.runs)
        self.recent = RecentHashes()

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
        row = int(self.pairs.find(np.array([user_code << 32 | movie_code]))[0])
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
        starts = starts_of(key[1:] != key[:-1])
        counts = lengths_of(starts, len(key))
        events = Events(
            at=batch.at_ms[order],
            t=_happened(batch, received)[order],
            group=np.repeat(np.arange(len(starts)), counts),
            starts=starts,
        )
        rows, is_new = self.pairs.find_or_add(
            key[starts], user=user[order][starts], movie=movie[order][starts]
        )
        self._move_moments(events, rows)
        duration_ms = None if batch.duration_ms is None else batch.duration_ms[order]
        completions = self._complete(events, rows, duration_ms)
        sessions = None if batch.sessions == [""] else _hash_sessions(batch)[order]
        watched = self.streams.follow(events, rows, sessions)
        self._add_hours(watched, rows)
        self._add_totals(events, rows, watched, counts, is_new, completions)

    def _intern(self, names: Names, totals: Table, batch_names: list[str]) -> Int64s:
        codes = names.intern(batch_names)
        if len(names) > len(totals):
            totals.add(len(names) - len(totals))
        return codes

    def _move_moments(self, events: Events, rows: Int64s) -> None:
        """The latest moment is that of the highest t, the later arrival at a tie."""
        index = np.arange(len(events.t))
        is_peak = events.t == np.maximum.reduceat(events.t, events.starts)[events.group]
        last = np.maximum.reduceat(np.where(is_peak, index, NONE), events.starts)
        moved = events.t[last] >= self.pairs["latest_t"][rows]
        self.pairs["latest_t"][rows[moved]] = events.t[last[moved]]
        self.pairs["latest_ms"][rows[moved]] = events.at[last[moved]]
        furthest = np.maximum.reduceat(events.at, events.starts)
        self.pairs["furthest_ms"][rows] = np.maximum(self.pairs["furthest_ms"][rows], furthest)

    def _complete(self, events: Events, rows: Int64s, given: Int64s | None) -> Bools:
        """Takes over the durations given and latches completion; which pairs it latched for."""
        known = self.pairs["duration_ms"][rows][events.group]
        index = np.arange(len(known))
        if given is not None:
            last_given = np.maximum.accumulate(np.where(given > 0, index, NONE))
            in_group = last_given >= events.starts[events.group]
            known = np.where(in_group, given[last_given], known)
            self.pairs["duration_ms"][rows] = known[last_of(events.starts, len(known))]
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

    # Sums

    def _add_hours(self, watched: Watched, pairs: Int64s) -> None:
        credited = watched.credit > 0
        movie = self.pairs["movie"][pairs[watched.group[credited]]].astype(np.int64)
        key = movie << 32 | watched.t[credited] // HOUR_MS
        distinct, which = np.unique(key, return_inverse=True)
        rows, _ = self.hours.find_or_add(distinct, movie=distinct >> 32, hour=distinct & 0xFFFFFFFF)
        np.add.at(self.hours["watch_ms"], rows[which], watched.credit[credited])

    def _add_totals(
        self,
        events: Events,
        rows: Int64s,
        watched: Watched,
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
            "streams": self.streams.table.to_arrow(),
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
        for table, high, low in ((self.pairs, "user", "movie"), (self.hours, "movie", "hour")):
            keys = table[high].astype(np.int64) << 32 | table[low]
            table.index(keys, np.arange(len(table)))


def _happened(batch: Batch, received: Int64s) -> Int64s:
    """The time t of each event."""
    if batch.ts_ms is None:
        return received
    return np.where(batch.ts_ms == NONE, received, np.minimum(batch.ts_ms, received))


def _hash_sessions(batch: Batch) -> Int64s:
    """A hash an event, 0 for the nameless session."""
    hashes = [xxhash.xxh3_64_intdigest(name.encode()) | 1 if name else 0 for name in batch.sessions]
    return np.array(hashes, np.uint64).view(np.int64)[batch.session]


def _sum_groups(group: Int64s, values: NDArray[Any], groups: int) -> Int64s:
    # Sums of a batch stay far below 2**53, so float weights are exact.
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)
