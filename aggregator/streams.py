"""Streams: what the events of one (user, slug, session) add, by rules 1 to 4.

The numbers in comments are those of the rules in docs/watch-time.md.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.groups import before_each, last_of, lengths_of, starts_of
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

    def follow(self, events: Events, pairs: Int64s, sessions: Int64s | None) -> Watched:
        """Applies the rules. `pairs` are the rows of the groups, `sessions` hashes an event."""
        group, at, t = events.group, events.at, events.t
        if sessions is None:
            starts, sessions = events.starts, np.zeros(len(events.starts), np.int64)
        else:
            by_stream = np.lexsort((sessions, group))
            group, at, t, sessions = (c[by_stream] for c in (group, at, t, sessions))
            starts = starts_of((group[1:] != group[:-1]) | (sessions[1:] != sessions[:-1]))
            sessions = sessions[starts]
        rows = self._rows(pairs[group[starts]], sessions)
        stream = np.repeat(np.arange(len(starts)), lengths_of(starts, len(t)))
        late = self._is_late(t, stream, starts, rows)
        all_group, all_at, all_t = group, at, t
        if late.any():
            at, t, group, stream = (column[~late] for column in (at, t, group, stream))
        watched = self._play(at, t, group, stream, rows)
        if self._rules.credit == "position":
            return watched
        opens_view = np.zeros(len(all_t), np.bool_)
        opens_view[~late] = watched.opens_view
        return Watched(all_group, all_t, all_at, opens_view)

    def open_runs(self, pairs: Int64s) -> Intervals:
        """The open runs that cover anything, of all streams of `pairs`."""
        which, rows = self._of_pairs(pairs)
        runs = Intervals(which, self.table["run_start"][rows], self.table["last_at"][rows])
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
        nameless = self._pairs["nameless_stream"][pairs].astype(np.int64)
        has_nameless = np.flatnonzero(nameless != NONE)
        which, at = self._named.positions(pairs)
        rows = np.concatenate([nameless[has_nameless], self._named["stream"][at]])
        return np.concatenate([has_nameless, which]), rows

    def _is_late(self, t: Int64s, stream: Int64s, starts: Int64s, rows: Int64s) -> Bools:
        """Rule 2: earlier than the stream's last t, which late events do not move."""
        # One running maximum over all streams: each is lifted above the one before it.
        lift = stream * (np.ptp(t) + 1)
        highest = np.maximum.accumulate(t + lift) - lift
        before = before_each(highest, starts, self.table["last_t"][rows])
        return t < np.maximum(before, self.table["last_t"][rows][stream])

    def _play(self, at: Int64s, t: Int64s, group: Int64s, stream: Int64s, rows: Int64s) -> Watched:
        """Rules 1, 3 and 4, for events in stream order of which none is late.

        `stream` says which of `rows` an event is of.
        """
        if not len(at):
            return Watched(group, t, at, np.zeros(0, np.bool_))
        starts = starts_of(stream[1:] != stream[:-1])
        touched = rows[stream[starts]]
        first = np.zeros(len(at), np.bool_)
        first[starts] = self.table["last_t"][touched] == NONE
        last_t = before_each(t, starts, self.table["last_t"][touched])
        last_at = before_each(at, starts, self.table["last_at"][touched])
        opens_view = first | (t - last_t > self._rules.idle_ms)  # 1, 3
        step = at - last_at
        goes_on = ~opens_view & (step >= 0) & (step <= self._rules.max_gap_ms)  # 4
        open_start = self.table["run_start"][touched]
        run_start = _run_starts(at, goes_on, starts, open_start)
        start_before = before_each(run_start, starts, open_start)
        if self._rules.credit == "position":
            of_pairs = self.table["pair"][rows].astype(np.int64)[stream]
            self._count_runs(of_pairs, at, goes_on, starts, run_start, last_at)
            closed = np.flatnonzero(~goes_on & ~first & (last_at > start_before))
            self._runs.close(Intervals(of_pairs[closed], start_before[closed], last_at[closed]))
        else:
            run_start = at  # nothing is covered
        last = last_of(starts, len(at))
        for name, column in (("last_t", t), ("last_at", at), ("run_start", run_start)):
            self.table[name][touched] = column[last]
        return Watched(group, t, np.where(goes_on, step, 0), opens_view)

    def _count_runs(
        self,
        pairs: Int64s,
        at: Int64s,
        goes_on: Bools,
        starts: Int64s,
        run_start: Int64s,
        last_at: Int64s,
    ) -> None:
        """Has retention count the buckets that runs come to, before the runs are stored."""
        is_new_stream = np.zeros(len(at), np.bool_)
        is_new_stream[starts] = True
        first = np.flatnonzero(is_new_stream | ~goes_on)  # of each run in this batch
        start, end = run_start[first], at[last_of(first, len(at))]
        # A run that covered something has been counted up to where it was.
        is_counted = goes_on[first] & (last_at[first] > start)
        counted_to = np.where(is_counted, (last_at[first] - 1) // BUCKET_MS + 1, start // BUCKET_MS)
        stop = (end - 1) // BUCKET_MS + 1
        longer = (stop > counted_to) & (end > start)
        group = pairs[first[longer]]
        if len(group):
            of_pair = starts_of(group[1:] != group[:-1])
            distinct = group[of_pair]
            which = np.repeat(np.arange(len(of_pair)), lengths_of(of_pair, len(group)))
            played = Intervals(which, counted_to[longer], stop[longer])
            self._runs.play(distinct, played, self.open_runs(distinct))

    def _rows(self, pairs: Int64s, sessions: Int64s) -> Int64s:
        """The rows of distinct streams in pair order."""
        named = sessions != 0
        rows = self._pairs["nameless_stream"][pairs].astype(np.int64)
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
        self._named.append(pairs[is_new], stream=rows[is_new])
        return rows


def _run_starts(at: Int64s, goes_on: Bools, starts: Int64s, open_start: Int64s) -> Int64s:
    """Where the run of each event began; `open_start` is where the group's open one did."""
    lengths = lengths_of(starts, len(at))
    opened = np.maximum.accumulate(np.where(goes_on, NONE, np.arange(len(at))))
    in_group = opened >= np.repeat(starts, lengths)
    return np.where(in_group, at[opened], np.repeat(open_start, lengths))


def _keys(pairs: Int64s, sessions: Int64s) -> Int64s:
    return (mix(pairs) ^ sessions.view(np.uint64)).view(np.int64)
