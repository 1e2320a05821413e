"""Watch time by movie and UTC hour; of days long past, by day."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.rules import DAY_HOURS, fold_before
from aggregator.table import IndexedTable
from kernels import hours as kernels
from kernels.compiler import frozen
from kernels.rows import MOVIE_HOUR, NONE
from kernels.tables import Indexed

Int64s = NDArray[np.int64]

_COLUMNS = ("movie", "hour", "watch_ms")


class Hours:
    """Hours are numbered from 1970 on. A folded day's sum stands at its first hour.

    A table a day, and one for all days that are folded, so that folding is
    cheap and the memory of an hour is free again.
    """

    def __init__(self, kept_days: int) -> None:
        self._kept_days = kept_days
        self._days: dict[int, IndexedTable] = {}
        self._folded = IndexedTable(MOVIE_HOUR)
        #: The first hour that is still kept as an hour.
        self.fold_before = 0

    def add(self, movies: Int64s, hours: Int64s, watch_ms: Int64s) -> None:
        """Adds to hours of movies, in any order."""
        if not len(hours):
            return
        first, last = int(hours.min()) // DAY_HOURS, int(hours.max()) // DAY_HOURS
        if first * DAY_HOURS < self.fold_before:
            _add(self._folded, movies, hours, watch_ms, 0, self.fold_before, DAY_HOURS)
            first = self.fold_before // DAY_HOURS
        if last - first > 1:
            days = np.unique(hours // DAY_HOURS)
            chosen = days[days >= first].tolist()
        else:
            chosen = list(range(first, last + 1))
        for day in chosen:
            table = self._days.get(day)
            if table is None:
                table = self._days[day] = IndexedTable(MOVIE_HOUR)
            _add(table, movies, hours, watch_ms, day * DAY_HOURS, (day + 1) * DAY_HOURS, 1)

    def fold(self, received_ms: int) -> None:
        """Folds the days that are too old at `received_ms`, by the shard's clock."""
        before = fold_before(received_ms, self._kept_days)
        if before <= self.fold_before:
            return
        self.fold_before = before
        for day in [day for day in self._days if day * DAY_HOURS < before]:
            table = self._days.pop(day)
            movies, hours = (table[name].astype(np.int64) for name in ("movie", "hour"))
            self.add(movies, hours, table["watch_ms"].copy())

    def of_movie(self, movie: int, first: int, end: int, now_ms: int) -> Int64s:
        """Watch time of each hour from `first` to before `end`, in days as far as at `now_ms`.

        The last fold may be long ago: a shard in which little happens must not tell
        other hours than the others.
        """
        before = max(self.fold_before, fold_before(now_ms, self._kept_days))
        first_day, end_day = first // DAY_HOURS, max(-(-end // DAY_HOURS), first // DAY_HOURS)
        watch_ms = self._kept(movie, first_day * DAY_HOURS, end_day * DAY_HOURS)
        days = watch_ms.reshape(-1, DAY_HOURS)[: max(before // DAY_HOURS - first_day, 0)]
        days[:, 0] = days.sum(axis=1)
        days[:, 1:] = 0
        start = first - first_day * DAY_HOURS
        return watch_ms[start : start + max(end - first, 0)]

    def _kept(self, movie: int, first: int, end: int) -> Int64s:
        """Watch time of each hour as it is in memory."""
        watch_ms = np.zeros(end - first, np.int64)
        day_starts = np.arange(
            -(-first // DAY_HOURS) * DAY_HOURS, min(end, self.fold_before), DAY_HOURS
        )
        known = [(self._folded, day_starts)]
        for day, table in self._days.items():
            hours = np.arange(max(first, day * DAY_HOURS), min(end, (day + 1) * DAY_HOURS))
            known.append((table, hours))
        for table, hours in known:
            rows = table.find(movie << 32 | hours)
            watch_ms[hours[rows != NONE] - first] = table["watch_ms"][rows[rows != NONE]]
        return watch_ms

    def since(self, hour: int, movies: int) -> Int64s:
        """By movie, watch time from `hour` on, which is not folded yet."""
        watch_ms = np.zeros(movies, np.int64)
        for day, table in self._days.items():
            if day >= hour // DAY_HOURS:
                rows = np.flatnonzero(table["hour"] >= hour)
                np.add.at(watch_ms, table["movie"][rows], table["watch_ms"][rows])
        return watch_ms

    def totals(self) -> pa.Table:
        """Columns movie, hour, watch_ms, where there is any."""
        tables = [self._folded, *self._days.values()]
        return pa.concat_tables(
            [table.to_arrow(_COLUMNS, table["watch_ms"] != 0) for table in tables]
        )

    # Snapshots

    def to_arrow(self, movie_codes: Int64s) -> pa.Table:
        """`movie_codes` map codes to those in the snapshot."""
        hours = self.totals()
        codes = pa.array(movie_codes[hours["movie"].to_numpy()], pa.int32())
        return hours.set_column(0, "movie", codes)

    def load_arrow(self, stored: pa.Table, before: int) -> None:
        """`before` is what `fold_before` was."""
        self.fold_before = before
        movies, hours = (stored[name].to_numpy().astype(np.int64) for name in ("movie", "hour"))
        self.add(movies, hours, stored["watch_ms"].to_numpy())


def _add(
    table: IndexedTable,
    movies: Int64s,
    hours: Int64s,
    watch_ms: Int64s,
    first: int,
    end: int,
    per: int,
) -> None:
    table.reserve(len(hours))
    indexed = Indexed(table.rows, table.size, table.index.slots)
    kernels.add(indexed, frozen(movies), frozen(hours), frozen(watch_ms), first, end, per)
