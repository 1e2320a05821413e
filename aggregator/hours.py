"""Watch time by movie and UTC hour; of days long past, by day.

What each pair added is kept beside, so that erasing one leaves the rest exact.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.groups import starts_of
from aggregator.lists import Lists
from aggregator.rules import DAY_HOURS, HOUR_MS, fold_before
from aggregator.table import NONE, IndexedTable

Int64s = NDArray[np.int64]

_COLUMNS = {"movie": np.int32, "hour": np.int32, "watch_ms": np.int64}


class Hours:
    """Hours are numbered from 1970 on. A folded day's sum stands at its first hour.

    A table a day, and one for all days that are folded, so that folding is
    cheap and the memory of an hour is free again.
    """

    def __init__(self, kept_days: int) -> None:
        self._kept_days = kept_days
        self._days: dict[int, IndexedTable] = {}
        self._folded = IndexedTable(_COLUMNS, {})
        self._of_pairs = Lists({"hour": np.int32, "watch_ms": np.int64})
        #: The first hour that is still kept as an hour.
        self.fold_before = 0

    def add(self, pairs: Int64s, movies: Int64s, t: Int64s, credit: Int64s) -> None:
        """Adds credits at times `t`, a pair and a movie each; equal pairs are neighbours."""
        hours = t // HOUR_MS
        self._add_to_movies(movies, hours, credit)
        self._add_to_pairs(pairs, hours, credit)

    def fold(self, received_ms: int) -> None:
        """Folds the days that are too old at `received_ms`, by the shard's clock."""
        before = fold_before(received_ms, self._kept_days)
        if before <= self.fold_before:
            return
        self.fold_before = before
        for day in [day for day in self._days if day * DAY_HOURS < before]:
            table = self._days.pop(day)
            self._add_to_movies(table["movie"], table["hour"], table["watch_ms"])

    def forget(self, pairs: Int64s, movies: Int64s) -> None:
        """Takes away all that distinct `pairs` added."""
        which, at = self._of_pairs.positions(pairs)
        hours = self._of_pairs["hour"][at].astype(np.int64)
        self._add_to_movies(movies[which], hours, -self._of_pairs["watch_ms"][at])
        self._of_pairs.clear(pairs)

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
        return pa.concat_tables([table.to_arrow(table["watch_ms"] != 0) for table in tables])

    def _add_to_movies(self, movies: Int64s, hours: Int64s, watch_ms: Int64s) -> None:
        old = hours < self.fold_before
        if old.any():
            day_starts = hours[old] // DAY_HOURS * DAY_HOURS
            _add(self._folded, movies[old], day_starts, watch_ms[old])
            movies, hours, watch_ms = movies[~old], hours[~old], watch_ms[~old]
        days = hours // DAY_HOURS
        for day in _distinct(days):
            table = self._days.get(day)
            if table is None:
                table = self._days[day] = IndexedTable(_COLUMNS, {})
            chosen = days == day
            _add(table, movies[chosen], hours[chosen], watch_ms[chosen])

    def _add_to_pairs(self, pairs: Int64s, hours: Int64s, watch_ms: Int64s) -> None:
        is_new_pair = pairs[1:] != pairs[:-1]
        starts = starts_of(is_new_pair | (hours[1:] != hours[:-1]))
        sums = np.add.reduceat(watch_ms, starts)
        is_first = np.append(True, is_new_pair)[starts]
        pairs, hours = pairs[starts], hours[starts]
        last = self._of_pairs.last(pairs)
        going_on = is_first & (last >= 0)
        going_on[going_on] = self._of_pairs["hour"][last[going_on]] == hours[going_on]
        self._of_pairs["watch_ms"][last[going_on]] += sums[going_on]
        if not going_on.all():
            fresh = ~going_on
            self._of_pairs.append(pairs[fresh], hour=hours[fresh], watch_ms=sums[fresh])

    # Snapshots

    def to_arrow(self, pair_rows: Int64s, movie_codes: Int64s) -> dict[str, pa.Table]:
        """`pair_rows` and `movie_codes` map rows and codes to those in the snapshot, or -1."""
        pairs = np.flatnonzero(pair_rows >= 0)
        which, at = self._of_pairs.positions(pairs)
        hours = self.totals()
        return {
            "hours": hours.set_column(
                0, "movie", pa.array(movie_codes[hours["movie"].to_numpy()], pa.int32())
            ),
            "pair_hours": pa.table(
                {
                    "pair": pair_rows[pairs][which],
                    "hour": self._of_pairs["hour"][at],
                    "watch_ms": self._of_pairs["watch_ms"][at],
                }
            ),
        }

    def load_arrow(self, tables: dict[str, pa.Table], before: int) -> None:
        """`before` is what `fold_before` was."""
        self.fold_before = before
        hours = {name: tables["hours"][name].to_numpy() for name in _COLUMNS}
        self._add_to_movies(
            hours["movie"].astype(np.int64), hours["hour"].astype(np.int64), hours["watch_ms"]
        )
        stored = tables["pair_hours"]
        self._of_pairs.append(
            stored["pair"].to_numpy(),
            hour=stored["hour"].to_numpy(),
            watch_ms=stored["watch_ms"].to_numpy(),
        )


def _add(table: IndexedTable, movies: Int64s, hours: Int64s, watch_ms: Int64s) -> None:
    rows = table.rows(movies.astype(np.int64) << 32 | hours, movie=movies, hour=hours)
    np.add.at(table["watch_ms"], rows, watch_ms)


def _distinct(days: Int64s) -> list[int]:
    if not len(days):
        return []
    first, last = int(days.min()), int(days.max())
    return [first] if first == last else np.unique(days).tolist()
