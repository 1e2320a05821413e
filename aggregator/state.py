"""The state of a shard: everything it knows, as tables of rows.

A row a pair (user, movie), a stream, a user, a movie, and an hour of a movie; rows
refer to each other by number. `kernels.watching` applies the rules to them, and
`reference` says the same as plainly as it can be said; a property test holds the two
together.

A pair, user or movie exists from its first change to its erasure. Its row stays
in memory, as one that is new, and is left out of the next snapshot.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.audience import Audience
from aggregator.hours import Hours
from aggregator.names import Names
from aggregator.pairs import Pairs
from aggregator.recent import RecentHashes
from aggregator.retention import Retention, pages_each
from aggregator.rules import HOURS_KEPT_DAYS, Rules
from aggregator.runs import Runs
from aggregator.table import IndexedTable, Table
from aggregator.visits import Visits
from kernels import lists, names, progress, watching
from kernels.compiler import frozen
from kernels.pairs import begin_pair
from kernels.rows import (
    LATE,
    MOVIE,
    NAMELESS,
    NONE,
    PAIR_HOUR,
    STREAM,
    USER,
)
from kernels.tables import PAIRS, STREAMS, USERS, Indexed, Tables
from kernels.tables import Table as TableRows
from persistence.batch import Batch
from persistence.strings import Strings

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Room for so many pages of retention is made at a time, whatever events may come to.
_PAGES_AT_ONCE = 1 << 16

_SUMS = ("watch_ms", "first_t", "last_t", "views", "events", "pairs", "viewers", "completions")
_PAIR_COLUMNS = (
    *("user", "movie", "events", "views", "version", "begun_again", "hidden", "watch_ms"),
    *("latest_ms", "latest_t", "latest_order", "furthest_ms", "duration_ms", "completed_t"),
    "first_t",
)
_STREAM_COLUMNS = ("session_hash", "last_t", "last_at", "run_start")
_NOTHING = np.zeros(0, np.int64)
_NO_SESSIONS = np.full(1, NAMELESS, np.int64)


class State:
    """Everything a shard knows. `apply` counts events, `changes` and `erasure` do the rest.

    All of it is deterministic and does no I/O.
    """

    def __init__(self, rules: Rules, hours_kept_days: int = HOURS_KEPT_DAYS) -> None:
        self.rules = rules
        self.user_names, self.movie_names = Names(), Names()
        self.users = Table(USER, {"first_t": LATE, "last_t": NONE, "first_pair": NONE})
        self.movies = Table(MOVIE, {"first_t": LATE, "last_t": NONE})
        self.titles: dict[int, str] = {}
        self.pairs = Pairs()
        self.streams = IndexedTable(STREAM, {"last_t": NONE, "next": NONE})
        #: Of pairs that were watched in more than one hour.
        self.hours_of_pairs = Table(PAIR_HOUR)
        self.hours = Hours(hours_kept_days)
        self.runs = Runs(lambda: self.tables)
        self.retention = Retention()
        self.visits = Visits(lambda: self.tables)
        self.recent = RecentHashes()
        self.audience = Audience()
        #: How many users, pairs and streams exist, as in `kernels.tables`.
        self.totals = np.zeros(4, np.int64)
        #: Numbers changes in order of arrival; only its order means anything.
        self.order = 0
        self._settings = watching.Settings(
            rules.max_gap_ms,
            rules.idle_ms,
            rules.complete_parts,
            rules.resume_parts,
            rules.credit == "position",
        )

    @property
    def tables(self) -> Tables:
        """All tables as kernels take them, until one of them grows."""
        pairs, streams = self.pairs, self.streams
        pages, visits = self.retention.pages, self.visits.pages
        closed, hours = self.runs.closed, self.hours_of_pairs
        return Tables(
            pairs=Indexed(pairs.rows, pairs.size, pairs.slots),
            more=TableRows(pairs.more.rows, pairs.more.size),
            streams=Indexed(streams.rows, streams.size, streams.index.slots),
            runs=TableRows(closed.rows, closed.size),
            pair_hours=TableRows(hours.rows, hours.size),
            users=self.users.rows,
            movies=self.movies.rows,
            pages=Indexed(pages.rows, pages.size, pages.index.slots),
            buckets=self.retention.buckets,
            visits=Indexed(visits.rows, visits.size, visits.index.slots),
            live_pairs=self.audience.pairs.marked,
            live_streams=self.audience.streams.marked,
            totals=self.totals,
        )

    @property
    def events(self) -> int:
        return int(self.movies["events"].sum())

    def apply(self, batch: Batch, received_ms: int | Int64s, record: Int64s | None = None) -> Bools:
        """Counts the events of `batch` and returns which were duplicates and changed nothing.

        `received_ms` is one for all, or one an event, never falling. `record`
        numbers the log record of each event, when the batch joins several.
        """
        duplicate = self.find_duplicates(batch, received_ms, record)
        self.count(batch, received_ms, duplicate)
        return duplicate

    def find_duplicates(
        self, batch: Batch, received_ms: int | Int64s, record: Int64s | None = None
    ) -> Bools:
        """The first half of `apply`: only for the second half is what others count needed."""
        keys, ids = batch.key_hash, batch.id_hash
        if not len(batch) or (keys is None and ids is None):
            return np.zeros(len(batch), np.bool_)
        if record is None:
            record = np.zeros(len(batch), np.int64)
        return self.recent.mark(keys, ids, record, _each(received_ms, len(batch)))

    def pair_row(self, user: str, slug: str) -> int | None:
        """The row of a pair that exists."""
        row = int(self.rows_of_pairs([user], [slug])[0])
        return None if row == NONE else row

    def rows_of_pairs(self, users: list[str], slugs: list[str]) -> Int64s:
        """The row of each pair, NONE where it does not exist."""
        user_codes = self.user_names.codes(Strings.of(users))
        movie_codes = self.movie_names.codes(Strings.of(slugs))
        return lists.rows_of_pairs(self.tables, user_codes, movie_codes)

    def moments(self, user: str) -> Int64s:
        """Of a user's pairs that exist, as `kernels.progress.moments`."""
        code = self.user_names.code(user)
        first = NONE if code is None else int(self.users.rows["first_pair"][code])
        return progress.moments(self._settings, self.tables, first)

    def progress(self, rows: Int64s) -> Int64s:
        """Of each pair, as `kernels.progress.progress`."""
        return progress.progress(self._settings, self.tables, rows)

    def movie_code(self, slug: str) -> int | None:
        """The code of a movie that exists: someone watched it, or the catalogue has it."""
        code = self.movie_names.code(slug)
        if code is None:
            return None
        movie = self.movies.rows[code]
        return code if movie["pairs"] or movie["described"] else None

    def movie_codes(self, slugs: Sequence[str]) -> Int64s:
        """The code of each movie, NONE where it does not exist."""
        codes = self.movie_names.codes(Strings.of(slugs))
        rows = self.movies.rows[codes]
        return np.where((rows["pairs"] > 0) | rows["described"], codes, NONE)

    def watching_now(self, now_ms: int) -> Int64s:
        """By movie, the streams whose last event is at most a minute old."""
        self._reserve_marks(0)
        return self.audience.by_movie(self.tables, now_ms, len(self.movies))

    def add_pair(self, user: str, slug: str) -> int:
        """The row of a pair that does not exist yet, and does from now on."""
        chosen = np.ones(1, np.bool_)
        user_code = int(intern(self.user_names, self.users, Strings.of([user]), chosen)[0])
        movie_code = int(intern(self.movie_names, self.movies, Strings.of([slug]), chosen)[0])
        self.pairs.reserve(1)
        row = int(begin_pair(self.tables, user_code, movie_code))
        self.pairs.more_of(np.array([row]))  # what is done by hand stands there
        return row

    def count(self, batch: Batch, received_ms: int | Int64s, duplicate: Bools) -> None:
        """The second half of `apply`."""
        if not len(batch):
            return
        received = _each(received_ms, len(batch))
        users = names.wanted_of(frozen(batch.user), duplicate, len(batch.users))
        movies = names.wanted_of(frozen(batch.slug), duplicate, len(batch.slugs))
        sessions = batch.sessions
        has_sessions = len(sessions) > 1 or len(sessions.data) > 0
        events = watching.Batch(
            user=frozen(batch.user),
            movie=frozen(batch.slug),
            session=frozen(batch.session),
            at_ms=frozen(batch.at_ms),
            received_ms=frozen(received),
            ts_ms=frozen(_NOTHING if batch.ts_ms is None else batch.ts_ms),
            duration_ms=frozen(_NOTHING if batch.duration_ms is None else batch.duration_ms),
            duplicate=duplicate,
            users=intern(self.user_names, self.users, batch.users, users),
            movies=intern(self.movie_names, self.movies, batch.slugs, movies),
            session_hashes=(
                names.hash_sessions(sessions.offsets, sessions.data)
                if has_sessions
                else _NO_SESSIONS
            ),
        )
        pages = pages_each(self.rules.max_gap_ms)
        at_once = max(_PAGES_AT_ONCE // pages, 1)
        at = 0
        while at < len(batch):
            end = min(at + at_once, len(batch))
            for table in (self.pairs, self.pairs.more, self.runs.closed, self.hours_of_pairs):
                table.reserve(end - at)
            if has_sessions:
                self.streams.reserve(end - at)
            self.retention.reserve((end - at) * pages)
            self.visits.reserve(end - at, self.rules.max_gap_ms)
            self._reserve_marks(end - at)
            at = self._count_some(events, at, end)
        counted = received[~duplicate]
        if len(counted):  # what has no effect, as stored events do not know of it
            self.hours.fold(int(counted[-1]))

    def _count_some(self, events: watching.Batch, start: int, end: int) -> int:
        """Counts events from `start` to before `end`, for which there is room; where it ended."""
        effects = watching.Effects(*np.empty((6, end - start), np.int64))
        counted, self.order, credited, merging, crowded = watching.count(
            self._settings, self.tables, events, effects, start, end, self.order
        )
        self.hours.add(*(column[:credited] for column in effects[1:4]))
        if merging:
            self.runs.merge(np.unique(effects.merging[:merging]))
        if crowded:
            self.visits.begin(np.unique(effects.crowded[:crowded]))
        return counted

    def _reserve_marks(self, rows: int) -> None:
        """Makes room for so many more."""
        self.audience.reserve(len(self.pairs) + rows, len(self.streams) + rows)

    # Snapshots

    def to_arrow(self) -> dict[str, pa.Table]:
        """A frozen copy of all that exists, by table name, with rows and codes of its own."""
        has_users = self.users["pairs"] > 0
        has_movies = (self.movies["pairs"] > 0) | self.movies["described"]
        has_pairs = self.pairs.exist()
        users, movies, pairs = map(_renumber, (has_users, has_movies, has_pairs))
        chosen = np.flatnonzero(has_pairs)
        runs = self.pairs.of("runs", chosen).astype(np.int64)
        return {
            "users": _with_names(self.users.to_arrow(_SUMS, has_users), self.user_names, has_users),
            "movies": self._movies_to_arrow(has_movies),
            "pairs": _mapped(
                self.pairs.to_arrow(_PAIR_COLUMNS, has_pairs), user=users, movie=movies
            ),
            "streams": self._streams_to_arrow(has_pairs, pairs),
            "recent": self.recent.to_arrow(),
            "hours": self.hours.to_arrow(movies),
            "pair_hours": self._pair_hours_to_arrow(chosen),
            "retention": self.retention.to_arrow(movies),
            **self.runs.to_arrow(runs, pairs),
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
        self.user_names.load_arrow(tables["users"]["name"])
        self.movie_names.load_arrow(tables["movies"]["name"])
        titles = tables["movies"]["title"].to_pylist()
        self.titles = {code: title for code, title in enumerate(titles) if title is not None}
        self.users.load_arrow(tables["users"])
        self.movies.load_arrow(tables["movies"])
        pairs = self.pairs
        pairs.load_arrow(_with_nameless(tables["pairs"], tables["streams"]))
        owners = pairs["user"].astype(np.int64)
        lists.link(pairs.rows, len(pairs), owners, self.users["first_pair"])
        self._load_streams(tables["streams"])
        self.runs.load_arrow(tables, pairs)
        self.visits.begin_all()
        counted = tables["retention"]  # which says how far it goes
        self.retention.load_arrow(counted)
        movies, ends = counted["movie"].to_numpy(), counted["bucket"].to_numpy() + 1
        np.maximum.at(self.movies["buckets"], movies, ends)
        self._load_pair_hours(tables["pair_hours"])
        self.hours.load_arrow(tables["hours"], extra["fold_before"])
        self.recent.load_arrow(tables["recent"], extra["young_since_ms"])
        self.order = extra["order"]
        self._reserve_marks(0)
        self.audience.begin(self.tables, int(self.movies["last_t"].max(initial=NONE)))
        self.totals[USERS] = np.count_nonzero(self.users["pairs"])
        self.totals[PAIRS] = len(pairs)
        self.totals[STREAMS] = len(tables["streams"])

    def _movies_to_arrow(self, chosen: Bools) -> pa.Table:
        codes = np.flatnonzero(chosen).tolist()
        titles = pa.array([self.titles.get(code) for code in codes], pa.string())
        columns = (*_SUMS, "duration_ms", "described")
        movies = _with_names(self.movies.to_arrow(columns, chosen), self.movie_names, chosen)
        return movies.append_column("title", titles)

    def _streams_to_arrow(self, has_pairs: Bools, pair_rows: Int64s) -> pa.Table:
        """Those without a session, which stand in the rows of pairs, and then the others."""
        nameless = np.flatnonzero(has_pairs & (self.pairs["last_t"] != NONE))
        named = np.flatnonzero(self.streams["last_t"] != NONE)
        pair = np.concatenate([nameless, self.streams["pair"][named]])
        columns = {
            name: np.concatenate(
                [
                    np.full(len(nameless), NAMELESS, np.int64)
                    if name == "session_hash"
                    else self.pairs.of(name, nameless),
                    self.streams[name][named],
                ]
            )
            for name in _STREAM_COLUMNS
        }
        return pa.table({"pair": pair_rows[pair].astype(np.int32), **columns})

    def _load_streams(self, stored: pa.Table) -> None:
        columns = {name: stored[name].to_numpy() for name in ("pair", *_STREAM_COLUMNS)}
        named = columns["session_hash"] != NAMELESS
        self.streams.add(
            int(np.count_nonzero(named)),
            **{name: column[named] for name, column in columns.items()},
        )
        self.streams.reserve(0)
        lists.index_streams(self.tables)
        owners = self.pairs.more_of(columns["pair"][named])
        lists.link(self.streams.rows, len(self.streams), owners, self.pairs.more["streams"])

    def _pair_hours_to_arrow(self, chosen: Int64s) -> pa.Table:
        pair, hour, watch_ms = lists.hours_of(self.tables, chosen)
        return pa.table({"pair": pair, "hour": hour.astype(np.int32), "watch_ms": watch_ms})

    def _load_pair_hours(self, stored: pa.Table) -> None:
        pair, hour = stored["pair"].to_numpy(), stored["hour"].to_numpy()
        left = lists.take_first_hours(self.pairs.rows, frozen(pair), frozen(hour))
        others = stored.filter(pa.array(left))
        self.hours_of_pairs.load_arrow(others.drop_columns("pair"))
        lists.link(self.hours_of_pairs.rows, len(others), pair[left], self.pairs["hours"])


def intern(names: Names, totals: Table, wanted: Strings, chosen: Bools) -> NDArray[np.int32]:
    """The codes of the `chosen` of `wanted`, each with a row of `totals`."""
    codes = names.intern(wanted, chosen)
    if len(names) > len(totals):
        totals.add(len(names) - len(totals))
    return codes


def _each(received_ms: int | Int64s, events: int) -> Int64s:
    """One time an event."""
    if isinstance(received_ms, int):
        return np.full(events, received_ms, np.int64)
    return received_ms


def _with_nameless(pairs: pa.Table, streams: pa.Table) -> pa.Table:
    """`pairs` with columns of their streams without a session."""
    nameless = streams.filter(pa.array(streams["session_hash"].to_numpy() == NAMELESS))
    rows = nameless["pair"].to_numpy()
    for name, absent in (("last_t", NONE), ("last_at", 0), ("run_start", 0)):
        column = np.full(len(pairs), absent, np.int64)
        column[rows] = nameless[name].to_numpy()
        pairs = pairs.append_column(name, pa.array(column))
    return pairs


def _renumber(chosen: Bools) -> Int64s:
    """For each row its number among the `chosen`; NONE for others."""
    return np.where(chosen, np.cumsum(chosen) - 1, NONE)


def _with_names(table: pa.Table, names: Names, chosen: Bools) -> pa.Table:
    return table.append_column("name", names.to_arrow().filter(pa.array(chosen)))


def _mapped(table: pa.Table, **numbers: Int64s) -> pa.Table:
    """`table` with the rows that columns refer to renumbered."""
    for name, number in numbers.items():
        column = pa.array(number[table[name].to_numpy()].astype(np.int32))
        table = table.set_column(table.column_names.index(name), name, column)
    return table
