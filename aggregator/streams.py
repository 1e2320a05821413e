"""Streams: what the events of one (user, slug, session) add, by rules 1 to 4.

The numbers in comments are those of the rules in docs/watch-time.md.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from aggregator.groups import before_each, last_of, lengths_of, order_of, starts_of
from aggregator.intmap import mix
from aggregator.lists import Lists
from aggregator.rules import BUCKET_MS, Rules
from aggregator.runs import Intervals, Runs
from aggregator.table import NONE, IndexedTable, Table

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

_COLUMNS = {
    "pair": np.int32,
    "session_hash": np.int64,
    "last_t": np.int64,
    "last_at": np.int64,
    "run_start": np.int64,
}


@dataclass(slots=True)
class Events:
    """Events of a batch in pair order: all of a pair together, as they arrived.

    `group` numbers the pairs of the batch 0, 1, 2 …; `starts` are where they begin.
    """

    at: Int64s
    t: Int64s
    group: Int64s
    starts: Int64s


@dataclass(slots=True)
class Watched:
    """What streams make of events: which were not late, and what each of those adds."""

    group: Int64s
    t: Int64s
    credit: Int64s
    opens_view: Bools


class Streams:
    """All streams: where each one's last event was, and its open run; closed runs go to `runs`.

    A pair's nameless stream is found through the pair's row, named ones by a key
    of pair and session. A stream without events has no `last_t`.
    """

    def __init__(self, rules: Rules, pairs: Table, runs: Runs) -> None:
        self._rules = rules
        self._pairs = pairs
        self._runs = runs
        self.table = IndexedTable(_COLUMNS, {"last_t": NONE})
        self._named = Lists({"stream": np.int32})

    def __len__(self) -> int:
        return int(np.count_nonzero(self.table["last_t"] != NONE))

    def follow(
        self, events: Events, pairs: Int64s, session: NDArray[np.int32] | None, names: list[str]
    ) -> Watched:
        """Applies the rules. `pairs` are the rows of the groups.

        `session` is an index into `names` an event; None if all are nameless.
        """
        group, at, t, starts = events.group, events.at, events.t, events.starts
        hashes = np.zeros(len(starts), np.int64)
        if session is not None:
            number, hashed = _hash_sessions(session, names)
            changes = number[1:] != number[:-1]
            if (changes & (group[1:] == group[:-1])).any():
                by_stream = order_of(group * len(names) + number, len(starts) * len(names))
                group, at, t, number = (c.take(by_stream) for c in (group, at, t, number))
                changes = number[1:] != number[:-1]
                starts = starts_of((group[1:] != group[:-1]) | changes)
            hashes = hashed.take(number.take(starts))
        rows = self._rows(pairs.take(group.take(starts)), hashes)
        stream = np.arange(len(starts)).repeat(lengths_of(starts, len(t)))
        late = self._is_late(t, stream, starts, rows)
        if late is None:
            watched = self._play(at, t, group, stream, rows)
            if self._rules.credit == "duration":
                watched.credit = at
            return watched
        on_time = (~late).nonzero()[0]
        at_on_time, t_on_time = at.take(on_time), t.take(on_time)
        watched = self._play(at_on_time, t_on_time, group.take(on_time), stream.take(on_time), rows)
        if self._rules.credit == "position":
            return watched
        opens_view = np.zeros(len(t), np.bool_)
        opens_view[on_time] = watched.opens_view
        return Watched(group, t, at, opens_view)

    def open_runs(self, pairs: Int64s) -> Intervals:
        """The open runs that cover anything, of all streams of `pairs`."""
        which, rows = self._of_pairs(pairs)
        runs = Intervals(
            which, self.table["run_start"].take(rows), self.table["last_at"].take(rows)
        )
        return runs.covering()

    def last_t(self, pairs: Int64s) -> Int64s:
        """The highest t of each pair's events; NONE without."""
        which, rows = self._of_pairs(pairs)
        last_t = np.full(len(pairs), NONE, np.int64)
        np.maximum.at(last_t, which, self.table["last_t"][rows])
        return last_t

    def forget(self, pairs: Int64s) -> None:
        """Empties all streams of `pairs`; retention does not count their runs any more."""
        _, rows = self._of_pairs(pairs)
        self.table.clear(rows, "pair", "session_hash")

    def live_pairs(self, since_t: int) -> Int64s:
        """The pair of each stream whose last event was at `since_t` or later."""
        return self.table["pair"][np.flatnonzero(self.table["last_t"] >= since_t)].astype(np.int64)

    def load_arrow(self, stored: pa.Table) -> None:
        self.table.load_arrow(stored)
        named = np.flatnonzero(self.table["session_hash"])
        pairs = self.table["pair"][named].astype(np.int64)
        self.table.index(_keys(pairs, self.table["session_hash"][named]), named)
        by_pair = np.argsort(pairs, kind="stable")
        self._named.append(pairs[by_pair], stream=named[by_pair])

    def _of_pairs(self, pairs: Int64s) -> tuple[Int64s, Int64s]:
        """The streams of `pairs`: the index of the pair, and the stream's row."""
        nameless = self._pairs["nameless_stream"].take(pairs).astype(np.int64)
        has_nameless = (nameless != NONE).nonzero()[0]
        which, at = self._named.positions(pairs)
        if not len(which):
            return has_nameless, nameless.take(has_nameless)
        rows = np.concatenate([nameless.take(has_nameless), self._named["stream"].take(at)])
        return np.concatenate([has_nameless, which]), rows

    def _is_late(self, t: Int64s, stream: Int64s, starts: Int64s, rows: Int64s) -> Bools | None:
        """Rule 2: earlier than the stream's last t, which late events do not move; None if none."""
        last_t = self.table["last_t"].take(rows)
        is_back = np.empty(len(t), np.bool_)
        np.less(t[1:], t[:-1], out=is_back[1:])
        is_back[starts] = t.take(starts) < last_t
        if not is_back.any():
            return None
        # Only in a stream that goes back once is anything late.
        suspect = np.zeros(len(rows), np.bool_)
        suspect[stream[is_back]] = True
        at = suspect.take(stream).nonzero()[0]
        t, stream = t.take(at), stream.take(at)
        # One running maximum over all streams: each is lifted above the one before it.
        lift = stream * (np.ptp(t) + 1)
        highest = np.maximum.accumulate(t + lift) - lift
        starts = starts_of(stream[1:] != stream[:-1])
        before = before_each(highest, starts, last_t.take(stream.take(starts)))
        late = np.zeros(len(is_back), np.bool_)
        late[at] = t < np.maximum(before, last_t.take(stream))
        return late

    def _play(self, at: Int64s, t: Int64s, group: Int64s, stream: Int64s, rows: Int64s) -> Watched:
        """Rules 1, 3 and 4, for events in stream order of which none is late.

        `stream` says which of `rows` an event is of.
        """
        if not len(at):
            return Watched(group, t, at, np.zeros(0, np.bool_))
        table = self.table
        starts = starts_of(stream[1:] != stream[:-1])
        touched = rows.take(stream.take(starts))
        last_t, last_at = table["last_t"].take(touched), table["last_at"].take(touched)
        at_before = before_each(at, starts, last_at)
        opens_view = t - before_each(t, starts, last_t) > self._rules.idle_ms  # 3
        is_new = last_t == NONE
        if is_new.any():
            opens_view[starts[is_new]] = True  # 1
        step = at - at_before
        goes_on = ~opens_view & (step >= 0) & (step <= self._rules.max_gap_ms)  # 4
        last = last_of(starts, len(at))
        if self._rules.credit == "position":
            run_start = self._follow_runs(at, at_before, goes_on, starts, touched, is_new)
        else:
            run_start = at.take(last)  # nothing is covered
        table["last_t"][touched] = t.take(last)
        table["last_at"][touched] = at.take(last)
        table["run_start"][touched] = run_start
        return Watched(group, t, step * goes_on, opens_view)

    def _follow_runs(
        self,
        at: Int64s,
        at_before: Int64s,
        goes_on: Bools,
        starts: Int64s,
        touched: Int64s,
        is_new: Bools,
    ) -> Int64s:
        """Closes runs, and has retention count what they come to; where the open ones began.

        A piece is what a run has of a stream's events: all of them, mostly.
        """
        begins = ~goes_on
        begins[starts] = True
        first = begins.nonzero()[0]
        end, end_before = at.take(last_of(first, len(at))), at_before.take(first)
        goes_on = goes_on.take(first)
        open_start = self.table["run_start"].take(touched)
        of_stream = first.searchsorted(starts)
        length = lengths_of(of_stream, len(first))
        start = np.where(goes_on, open_start.repeat(length), at.take(first))
        start_before = before_each(start, of_stream, open_start)
        pairs = self.table["pair"].take(touched).astype(np.int64).repeat(length)
        self._count_runs(pairs, start, end, np.where(goes_on, end_before, start))
        is_closed = ~goes_on & (end_before > start_before)
        if is_new.any():
            is_closed[of_stream[is_new]] = False
        if is_closed.any():
            closed = is_closed.nonzero()[0]
            runs = Intervals(pairs, start_before, end_before).take(closed)
            self._runs.close(runs)
        return start.take(last_of(of_stream, len(first)))

    def _count_runs(self, pairs: Int64s, start: Int64s, end: Int64s, end_before: Int64s) -> None:
        """Has retention count the buckets that runs come to, before the runs are stored."""
        # A run that covered something has been counted up to where it was.
        is_counted = end_before > start
        counted_to = np.where(is_counted, (end_before - 1) // BUCKET_MS + 1, start // BUCKET_MS)
        stop = (end - 1) // BUCKET_MS + 1
        longer = ((stop > counted_to) & (end > start)).nonzero()[0]
        if len(longer):
            group = pairs.take(longer)
            of_pair = starts_of(group[1:] != group[:-1])
            distinct = group.take(of_pair)
            which = np.arange(len(of_pair)).repeat(lengths_of(of_pair, len(group)))
            played = Intervals(which, counted_to.take(longer), stop.take(longer))
            self._runs.play(distinct, played, self.open_runs(distinct))

    def _rows(self, pairs: Int64s, sessions: Int64s) -> Int64s:
        """The rows of distinct streams in pair order."""
        named = sessions != 0
        if named.all():
            return self._named_rows(pairs, sessions)
        rows = self._pairs["nameless_stream"].take(pairs).astype(np.int64)
        is_new = (rows == NONE) & ~named
        if is_new.any():
            of_pairs = pairs[is_new]
            rows[is_new] = self.table.add(len(of_pairs), pair=of_pairs)
            self._pairs["nameless_stream"][of_pairs] = rows[is_new]
        if named.any():
            rows[named] = self._named_rows(pairs[named], sessions[named])
        return rows

    def _named_rows(self, pairs: Int64s, sessions: Int64s) -> Int64s:
        rows, is_new = self.table.find_or_add(
            _keys(pairs, sessions), pair=pairs, session_hash=sessions
        )
        if is_new.any():
            self._named.append(pairs[is_new], stream=rows[is_new])
        return rows


def _hash_sessions(session: NDArray[np.int32], names: list[str]) -> tuple[Int64s, Int64s]:
    """Equal names with equal numbers, an event each; and a hash a number, 0 for the nameless."""
    if len(set(names)) < len(names):
        numbers: dict[str, int] = {}
        number = [numbers.setdefault(name, len(numbers)) for name in names]
        session, names = np.array(number, np.int32).take(session), list(numbers)
    digest = xxhash.xxh3_64_intdigest
    hashes = np.array([digest(name.encode()) | 1 if name else 0 for name in names], np.uint64)
    return session.astype(np.int64), hashes.view(np.int64)


def _keys(pairs: Int64s, sessions: Int64s) -> Int64s:
    return (mix(pairs) ^ sessions.view(np.uint64)).view(np.int64)
