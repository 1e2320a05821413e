"""The state of a shard as columns, and the rules of watch time on whole batches.

A row a pair (user, movie), a stream, a user, a movie, and an hour of a movie;
rows refer to each other by number. A batch is sorted once, then each rule is
one vector operation over all its events. `reference` says the same for one
event; a property test holds the two together. The numbers in comments are those
of the rules in docs/watch-time.md.

A pair, user or movie exists from its first change to its erasure. Its row stays
in memory, as one that is new, and is left out of the next snapshot.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from aggregator.groups import first_of_equals, last_of, lengths_of, order_of, starts_of
from aggregator.hours import Hours
from aggregator.lists import Lists
from aggregator.names import Names
from aggregator.recent import RecentHashes
from aggregator.rules import COMPLETE_TAIL_MS, HOUR_MS, HOURS_KEPT_DAYS, PARTS, Rules
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
    "begun_again": np.bool_,
    "hidden": np.bool_,
    "watch_ms": np.int64,
    "latest_ms": np.int64,
    "latest_t": np.int64,
    "latest_order": np.int64,
    "furthest_ms": np.int64,
    "duration_ms": np.int64,
    "completed_t": np.int64,
    "first_t": np.int64,
}
_PAIR_ABSENT = {
    "latest_t": NONE,
    "latest_order": NONE,
    "completed_t": NONE,
    "nameless_stream": NONE,
    "first_t": np.iinfo(np.int64).max,
}
_TOTAL_COLUMNS: dict[str, DTypeLike] = {
    "watch_ms": np.int64,
    "first_t": np.int64,
    "last_t": np.int64,
    "pairs": np.int32,
    "viewers": np.int32,
    "completions": np.int32,
    "views": np.int64,
    "events": np.int64,
}
_TOTAL_ABSENT = {"first_t": np.iinfo(np.int64).max, "last_t": NONE}
#: Of the catalogue; and up to where retention was ever counted.
_MOVIE_COLUMNS: dict[str, DTypeLike] = {
    "described": np.bool_,
    "duration_ms": np.int64,
    "buckets": np.int32,
}


class State:
    """Everything a shard knows. `apply` counts events, `changes` and `erasure` do the rest.

    All of it is deterministic and does no I/O.
    """

    def __init__(self, rules: Rules, hours_kept_days: int = HOURS_KEPT_DAYS) -> None:
        self.rules = rules
        self.user_names, self.movie_names = Names(), Names()
        self.users = Table(_TOTAL_COLUMNS, _TOTAL_ABSENT)
        self.movies = Table(_TOTAL_COLUMNS | _MOVIE_COLUMNS, _TOTAL_ABSENT)
        self.titles: dict[int, str] = {}
        self.pairs = IndexedTable(_PAIR_COLUMNS, _PAIR_ABSENT)
        self.pairs_of_users = Lists({"pair": np.int32})
        self.hours = Hours(hours_kept_days)
        self.runs = Runs(self.pairs, self.movies)
        self.streams = Streams(rules, self.pairs, self.runs)
        self.recent = RecentHashes()
        #: Numbers changes in order of arrival; only its order means anything.
        self.order = 0

    @property
    def events(self) -> int:
        return int(self.movies["events"].sum())

    def apply(self, batch: Batch, received_ms: int | Int64s, record: Int64s | None = None) -> Bools:
        """Counts the events of `batch` and returns which were duplicates and changed nothing.

        `received_ms` is one for all, or one an event, never falling. `record`
        numbers the log record of each event, when the batch joins several.
        """
        received = (
            np.full(len(batch), received_ms, np.int64)
            if isinstance(received_ms, int)
            else received_ms
        )
        duplicate = self._find_duplicates(batch, received, record)
        if duplicate.any():
            batch, received = batch.take(~duplicate), received[~duplicate]
        if len(batch):
            self._count(batch, received)
        return duplicate

    def pair_row(self, user: str, slug: str) -> int | None:
        """The row of a pair that exists."""
        user_code, movie_code = self.user_names.code(user), self.movie_names.code(slug)
        if user_code is None or movie_code is None:
            return None
        row = int(self.pairs.find(np.array([user_code << 32 | movie_code]))[0])
        return None if row == NONE or not self.pairs["version"][row] else row

    def pair_rows(self, user: str) -> Int64s:
        """The rows of a user's pairs that exist."""
        code = self.user_names.code(user)
        if code is None:
            return np.zeros(0, np.int64)
        rows = self.pairs_of_users.of(code)["pair"].astype(np.int64)
        return rows[self.pairs["version"][rows] > 0]

    def movie_code(self, slug: str) -> int | None:
        """The code of a movie that exists: someone watched it, or the catalogue has it."""
        code = self.movie_names.code(slug)
        if code is None or not (self.movies["pairs"][code] or self.movies["described"][code]):
            return None
        return code

    def durations_ms(self, rows: Int64s) -> Int64s:
        """Of each pair: its own, else the catalogue's, else 0."""
        own = self.pairs["duration_ms"][rows]
        return np.where(own > 0, own, self.movies["duration_ms"][self.pairs["movie"][rows]])

    def is_complete(self, at_ms: Int64s, duration_ms: Int64s) -> Bools:
        """Whether each position is at or past the end, as far as completion goes."""
        return (duration_ms > 0) & (
            (at_ms * PARTS >= self.rules.complete_parts * duration_ms)
            | (duration_ms - at_ms <= COMPLETE_TAIL_MS)
        )

    def add_pairs(self, users: Int64s, movies: Int64s) -> Int64s:
        """The rows of distinct pairs, new ones added."""
        rows, is_new = self.pairs.find_or_add(users << 32 | movies, user=users, movie=movies)
        if is_new.any():
            new_users, new_rows = users[is_new], rows[is_new]
            by_user = order_of(new_users, len(self.users))
            self.pairs_of_users.append(new_users.take(by_user), pair=new_rows.take(by_user))
        return rows

    # Duplicates

    def _find_duplicates(self, batch: Batch, received: Int64s, record: Int64s | None) -> Bools:
        duplicate = np.zeros(len(batch), np.bool_)
        fresh: list[Int64s] = []
        since = len(batch)
        for column, of_request in ((batch.key_hash, True), (batch.id_hash, False)):
            if column is None:
                continue
            hashed = ((column != 0) & ~duplicate).nonzero()[0]
            hashes = column.take(hashed)
            is_fresh = ~self.recent.contains(hashes)
            first = first_of_equals(hashes)
            duplicate[hashed] = ~is_fresh
            if first is not None:
                repeated = first != np.arange(len(hashed))
                is_fresh &= ~repeated
                if of_request:  # one record holds a request once
                    repeated &= record is not None and record[hashed] != record[hashed[first]]
                duplicate[hashed] |= repeated
            if is_fresh.any():
                fresh.append(hashes[is_fresh])
                since = min(since, int(hashed[is_fresh.argmax()]))
        if fresh:
            self.recent.add(np.concatenate(fresh), int(received[since]))
        return duplicate

    # Counting

    def _count(self, batch: Batch, received: Int64s) -> None:
        user = intern(self.user_names, self.users, batch.users).take(batch.user)
        movie = intern(self.movie_names, self.movies, batch.slugs).take(batch.slug)
        key = user * len(self.movies) + movie
        order = order_of(key, len(self.users) * len(self.movies))
        key = key.take(order)
        starts = starts_of(key[1:] != key[:-1])
        counts = lengths_of(starts, len(key))
        events = Events(
            at=batch.at_ms.take(order),
            t=_happened(batch, received).take(order),
            group=np.arange(len(starts)).repeat(counts),
            starts=starts,
        )
        first = order.take(starts)
        rows = self.add_pairs(user.take(first), movie.take(first))
        first_t = np.minimum.reduceat(events.t, starts)
        last_t = np.maximum.reduceat(events.t, starts)
        furthest = np.maximum.reduceat(events.at, starts)
        self._move_moments(events, rows, last_t, furthest, self.order + order)
        self.order += len(order)
        given = None if batch.duration_ms is None else batch.duration_ms.take(order)
        completions = self._complete(events, rows, last_t, furthest, given)
        self.pairs["hidden"][rows] = False
        session = None if batch.sessions == [""] else batch.session.take(order)
        watched = self.streams.follow(events, rows, session, batch.sessions)
        watch_ms = self._add_credit(watched, rows)
        views = np.bincount(watched.group[watched.opens_view], minlength=len(rows))
        self.hours.fold(int(received[-1]))
        self._add_totals(rows, watch_ms, views, counts, first_t, last_t, completions)

    def _move_moments(
        self, events: Events, rows: Int64s, last_t: Int64s, furthest: Int64s, arrival: Int64s
    ) -> None:
        """The latest moment is that of the highest t, the later arrival at a tie."""
        peaks = (events.t == last_t.take(events.group)).nonzero()[0]
        last = peaks.take(last_of(starts_of(np.diff(events.group.take(peaks)) > 0), len(peaks)))
        pairs = self.pairs
        moved = last_t >= pairs["latest_t"].take(rows)
        if not moved.all():
            of_moved, last, last_t = rows[moved], last[moved], last_t[moved]
        else:
            of_moved = rows
        pairs["latest_t"][of_moved] = last_t
        pairs["latest_ms"][of_moved] = events.at.take(last)
        pairs["latest_order"][of_moved] = arrival.take(last)
        pairs["furthest_ms"][rows] = np.maximum(pairs["furthest_ms"].take(rows), furthest)

    def _complete(
        self,
        events: Events,
        rows: Int64s,
        last_t: Int64s,
        furthest: Int64s,
        given: Int64s | None,
    ) -> Bools:
        """Takes over the durations given and latches completion; which pairs it latched for."""
        pairs = self.pairs
        before = self.durations_ms(rows)
        shortest = before
        if given is not None and given.any():
            at = given.nonzero()[0]
            group = events.group.take(at)
            first_given = starts_of(group[1:] != group[:-1])
            has_given = group.take(first_given)
            least = np.minimum.reduceat(given.take(at), first_given)
            shortest = before.copy()
            known = before.take(has_given)
            shortest[has_given] = np.where(known > 0, np.minimum(known, least), least)
            last_given = at.take(last_of(first_given, len(at)))
            pairs["duration_ms"][rows.take(has_given)] = given.take(last_given)
        completed_t = pairs["completed_t"].take(rows)
        is_complete = completed_t != NONE
        # A pair that is complete already has been since before the batch.
        if is_complete.any():
            pairs["begun_again"][rows[is_complete & (last_t >= completed_t)]] = True
        latched = np.zeros(len(rows), np.bool_)
        if self.rules.credit == "position" and shortest.any():
            close = self.is_complete(furthest, shortest) & ~is_complete
            if close.any():
                self._latch(events, rows, before, given, close, latched)
        return latched

    def _latch(
        self,
        events: Events,
        rows: Int64s,
        before: Int64s,
        given: Int64s | None,
        close: Bools,
        latched: Bools,
    ) -> None:
        """Goes through the events of the pairs that come `close` to the end; sets `latched`."""
        at = close.take(events.group).nonzero()[0]
        group = events.group.take(at)
        starts = starts_of(group[1:] != group[:-1])
        known, index = before.take(group), np.arange(len(at))
        counts = lengths_of(starts, len(at))
        if given is not None:
            of_these = given.take(at)
            last_given = np.maximum.accumulate(np.where(of_these > 0, index, NONE))
            in_group = last_given >= starts.repeat(counts)
            known = np.where(in_group, of_these.take(last_given), known)
        complete = self.is_complete(events.at.take(at), known)
        latch = np.minimum.reduceat(np.where(complete, index, len(at)), starts)
        done = latch < len(at)
        t = events.t.take(at)
        completed_t = t.take(latch, mode="clip")
        after = (index > latch.repeat(counts)) & (t >= completed_t.repeat(counts))
        begun_again = np.logical_or.reduceat(after, starts) & done
        chosen = group.take(starts)
        latched[chosen] = done
        self.pairs["completed_t"][rows.take(chosen[done])] = completed_t[done]
        self.pairs["begun_again"][rows.take(chosen[begun_again])] = True

    # Sums

    def _add_credit(self, watched: Watched, pairs: Int64s) -> Int64s:
        """Adds the credits to the hours; returns their sum for each of `pairs`."""
        if not len(watched.group):
            return np.zeros(len(pairs), np.int64)
        group, hours = watched.group, watched.t // HOUR_MS
        starts = starts_of((group[1:] != group[:-1]) | (hours[1:] != hours[:-1]))
        sums = np.add.reduceat(watched.credit, starts)
        if not sums.all():
            credited = sums.nonzero()[0]
            starts, sums = starts.take(credited), sums.take(credited)
        group = group.take(starts)
        if len(group):
            rows = pairs.take(group)
            movies = self.pairs["movie"].take(rows).astype(np.int64)
            self.hours.add(rows, movies, watched.t.take(starts), sums)
        # They stay far below 2**53, so float weights are exact.
        return np.bincount(group, weights=sums, minlength=len(pairs)).astype(np.int64)

    def _add_totals(
        self,
        rows: Int64s,
        watch_ms: Int64s,
        views: Int64s,
        counts: Int64s,
        first_t: Int64s,
        last_t: Int64s,
        completions: Bools,
    ) -> None:
        pairs = self.pairs
        version, events = pairs["version"].take(rows), pairs["events"].take(rows)
        # Few events are one of these; each costs as much as all that follows.
        rare = [
            (column, chosen)
            for column, chosen in (
                ("pairs", version == 0),
                ("viewers", events == 0),
                ("completions", completions),
            )
            if chosen.any()
        ]
        pairs["watch_ms"][rows] += watch_ms
        pairs["events"][rows] = events + counts
        pairs["version"][rows] = version + counts
        if opens_views := bool(views.any()):
            pairs["views"][rows] += views
        pairs["first_t"][rows] = np.minimum(pairs["first_t"].take(rows), first_t)
        for totals, of in ((self.users, "user"), (self.movies, "movie")):
            total = pairs[of].take(rows)
            np.add.at(totals["watch_ms"], total, watch_ms)
            if opens_views:
                np.add.at(totals["views"], total, views)
            np.add.at(totals["events"], total, counts)
            for column, chosen in rare:
                np.add.at(totals[column], total[chosen], 1)
            np.minimum.at(totals["first_t"], total, first_t)
            np.maximum.at(totals["last_t"], total, last_t)

    # Snapshots

    def to_arrow(self) -> dict[str, pa.Table]:
        """A frozen copy of all that exists, by table name, with rows and codes of its own."""
        has_users = self.users["pairs"] > 0
        has_movies = (self.movies["pairs"] > 0) | self.movies["described"]
        has_pairs, has_streams = self.pairs["version"] > 0, self.streams.table["last_t"] != NONE
        users, movies, pairs, streams = (
            _renumber(chosen) for chosen in (has_users, has_movies, has_pairs, has_streams)
        )
        return {
            "users": _with_names(self.users.to_arrow(has_users), self.user_names, has_users),
            "movies": self._movies_to_arrow(has_movies),
            "pairs": _mapped(
                self.pairs.to_arrow(has_pairs), user=users, movie=movies, nameless_stream=streams
            ),
            "streams": _mapped(self.streams.table.to_arrow(has_streams), pair=pairs),
            "recent": self.recent.to_arrow(),
            **self.hours.to_arrow(pairs, movies),
            **self.runs.to_arrow(pairs, movies),
        }

    def extra(self) -> dict[str, int]:
        """What else a snapshot has to remember."""
        return {
            "order": self.order,
            "fold_before": self.hours.fold_before,
            "young_since_ms": self.recent.young_since_ms,
        }

    def load_arrow(self, tables: dict[str, pa.Table], extra: dict[str, int]) -> None:
        """Fills an empty state with what `to_arrow` and `extra` gave."""
        self.user_names = Names(tables["users"]["name"].to_pylist())
        self.movie_names = Names(tables["movies"]["name"].to_pylist())
        titles = tables["movies"]["title"].to_pylist()
        self.titles = {code: title for code, title in enumerate(titles) if title is not None}
        for table, name in (
            (self.users, "users"),
            (self.movies, "movies"),
            (self.pairs, "pairs"),
            (self.streams, "streams"),
        ):
            table.load_arrow(tables[name])
        users = self.pairs["user"].astype(np.int64)
        self.pairs.index(users << 32 | self.pairs["movie"], np.arange(len(users)))
        by_user = order_of(users, len(self.users))
        self.pairs_of_users.append(users[by_user], pair=by_user)
        self.runs.load_arrow(tables)
        self.hours.load_arrow(tables, extra["fold_before"])
        self.recent.load_arrow(tables["recent"], extra["young_since_ms"])
        self.order = extra["order"]

    def _movies_to_arrow(self, chosen: Bools) -> pa.Table:
        codes = np.flatnonzero(chosen).tolist()
        titles = pa.array([self.titles.get(code) for code in codes], pa.string())
        movies = _with_names(self.movies.to_arrow(chosen), self.movie_names, chosen)
        return movies.append_column("title", titles)


def intern(names: Names, totals: Table, wanted: list[str]) -> Int64s:
    """The codes of `wanted`, each with a row of `totals`."""
    codes = names.intern(wanted)
    if len(names) > len(totals):
        totals.add(len(names) - len(totals))
    return codes


def _renumber(chosen: Bools) -> Int64s:
    """For each row its number among the `chosen`; NONE for others."""
    return np.where(chosen, np.cumsum(chosen) - 1, NONE)


def _with_names(table: pa.Table, names: Names, chosen: Bools) -> pa.Table:
    of_rows = [names[code] for code in np.flatnonzero(chosen).tolist()]
    return table.append_column("name", pa.array(of_rows, pa.string()))


def _mapped(table: pa.Table, **numbers: Int64s) -> pa.Table:
    """`table` with the rows that columns refer to renumbered; NONE, which is -1, stays NONE."""
    for name, number in numbers.items():
        old = table[name].to_numpy()
        column = pa.array(np.append(number, NONE)[old].astype(np.int32))
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _happened(batch: Batch, received: Int64s) -> Int64s:
    """The time t of each event."""
    if batch.ts_ms is None:
        return received
    return np.where(batch.ts_ms == NONE, received, np.minimum(batch.ts_ms, received))
