"""Streams: what the events of one (user, slug, session) add, by rules 1 to 4.

The numbers in comments are those of the rules in docs/watch-time.md.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.groups import before_each, last_of, lengths_of, starts_of
from aggregator.intmap import mix
from aggregator.rules import Rules
from aggregator.runs import Interval, Runs
from aggregator.table import NONE, IndexedTable, Table

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

_COLUMNS = {
    "pair": np.int32,
    "next": np.int32,
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
    of pair and session; the named streams of a pair are chained through `next`.
    """

    def __init__(self, rules: Rules, pairs: Table, runs: Runs) -> None:
        self._rules = rules
        self._pairs = pairs
        self._runs = runs
        self.table = IndexedTable(_COLUMNS, {"next": NONE, "last_t": NONE})

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
        rows, is_new = self._rows(pairs[group[starts]], sessions)
        stream = np.repeat(np.arange(len(starts)), lengths_of(starts, len(t)))
        late = self._is_late(t, stream, starts, rows)
        all_group, all_at, all_t = group, at, t
        if late.any():
            at, t, group, stream = (column[~late] for column in (at, t, group, stream))
        watched = self._play(at, t, group, stream, rows, is_new)
        if self._rules.credit == "position":
            return watched
        opens_view = np.zeros(len(all_t), np.bool_)
        opens_view[~late] = watched.opens_view
        return Watched(all_group, all_t, all_at, opens_view)

    def open_runs(self, pair: int) -> list[Interval]:
        """The open runs of a pair's streams that cover anything."""
        streams = [int(self._pairs[c][pair]) for c in ("nameless_stream", "named_stream")]
        while streams[-1] != NONE:
            streams.append(int(self.table["next"][streams[-1]]))
        rows = np.array([stream for stream in streams if stream != NONE], np.int64)
        starts, ends = self.table["run_start"][rows], self.table["last_at"][rows]
        return [(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True) if e > s]

    def live_pairs(self, since_t: int) -> Int64s:
        """The pair of each stream whose last event was at `since_t` or later."""
        return self.table["pair"][np.flatnonzero(self.table["last_t"] >= since_t)].astype(np.int64)

    def load_arrow(self, stored: pa.Table) -> None:
        self.table.load_arrow(stored)
        named = np.flatnonzero(self.table["session_hash"])
        pairs = self.table["pair"][named].astype(np.int64)
        self.table.index(_keys(pairs, self.table["session_hash"][named]), named)

    def _is_late(self, t: Int64s, stream: Int64s, starts: Int64s, rows: Int64s) -> Bools:
        """Rule 2: earlier than the stream's last t, which late events do not move."""
        # One running maximum over all streams: each is lifted above the one before it.
        lift = stream * (np.ptp(t) + 1)
        highest = np.maximum.accumulate(t + lift) - lift
        before = before_each(highest, starts, self.table["last_t"][rows])
        return t < np.maximum(before, self.table["last_t"][rows][stream])

    def _play(
        self, at: Int64s, t: Int64s, group: Int64s, stream: Int64s, rows: Int64s, is_new: Bools
    ) -> Watched:
        """Rules 1, 3 and 4, for events in stream order of which none is late.

        `stream` says which of `rows` an event is of; those with `is_new` have
        had no event yet.
        """
        if not len(at):
            return Watched(group, t, at, np.zeros(0, np.bool_))
        starts = starts_of(stream[1:] != stream[:-1])
        touched = rows[stream[starts]]
        first = np.zeros(len(at), np.bool_)
        first[starts] = is_new[stream[starts]]
        last_t = before_each(t, starts, self.table["last_t"][touched])
        last_at = before_each(at, starts, self.table["last_at"][touched])
        opens_view = first | (t - last_t > self._rules.idle_ms)  # 1, 3
        step = at - last_at
        goes_on = ~opens_view & (step >= 0) & (step <= self._rules.max_gap_ms)  # 4
        open_start = self.table["run_start"][touched]
        run_start = _run_starts(at, goes_on, starts, open_start)
        start_before = before_each(run_start, starts, open_start)
        if self._rules.credit == "position":
            closed = np.flatnonzero(~goes_on & ~first & (last_at > start_before))
            self._close(rows[stream[closed]], start_before[closed], last_at[closed])
        last = last_of(starts, len(at))
        for name, column in (("last_t", t), ("last_at", at), ("run_start", run_start)):
            self.table[name][touched] = column[last]
        return Watched(group, t, np.where(goes_on, step, 0), opens_view)

    def _close(self, rows: Int64s, start_ms: Int64s, end_ms: Int64s) -> None:
        pairs = self.table["pair"][rows]
        columns = (pairs, self._pairs["movie"][pairs], start_ms, end_ms)
        for run in zip(*(column.tolist() for column in columns), strict=True):
            self._runs.close(*run)

    def _rows(self, pairs: Int64s, sessions: Int64s) -> tuple[Int64s, Bools]:
        """The rows of distinct streams in pair order, and which are new."""
        named = sessions != 0
        rows = self._pairs["nameless_stream"][pairs].astype(np.int64)
        is_new = rows == NONE
        nameless_new = is_new & ~named
        if nameless_new.any():
            of_pairs = pairs[nameless_new]
            rows[nameless_new] = self.table.add(len(of_pairs), pair=of_pairs)
            self._pairs["nameless_stream"][of_pairs] = rows[nameless_new]
        if named.any():
            rows[named], is_new[named] = self._named_rows(pairs[named], sessions[named])
        return rows, is_new

    def _named_rows(self, pairs: Int64s, sessions: Int64s) -> tuple[Int64s, Bools]:
        rows, is_new = self.table.find_or_add(
            _keys(pairs, sessions), pair=pairs, session_hash=sessions
        )
        fresh, of_pairs = rows[is_new], pairs[is_new]
        chained = np.append(False, of_pairs[1:] == of_pairs[:-1])[: len(fresh)]
        self.table["next"][fresh] = np.where(
            chained, fresh - 1, self._pairs["named_stream"][of_pairs]
        )
        self._pairs["named_stream"][of_pairs] = fresh
        return rows, is_new


def _run_starts(at: Int64s, goes_on: Bools, starts: Int64s, open_start: Int64s) -> Int64s:
    """Where the run of each event began; `open_start` is where the group's open one did."""
    lengths = lengths_of(starts, len(at))
    opened = np.maximum.accumulate(np.where(goes_on, NONE, np.arange(len(at))))
    in_group = opened >= np.repeat(starts, lengths)
    return np.where(in_group, at[opened], np.repeat(open_start, lengths))


def _keys(pairs: Int64s, sessions: Int64s) -> Int64s:
    return (mix(pairs) ^ sessions.view(np.uint64)).view(np.int64)
