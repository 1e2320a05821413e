"""Closed runs, merged where they became many, and the retention of movies.

Retention counts open runs too, so that asking is a lookup: each time a run gets
longer, the buckets that it comes to are counted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.pairs import Pairs
from aggregator.table import IndexedTable, Table
from kernels import lists, merging
from kernels.rows import BUCKET, NONE, RUN
from kernels.tables import Tables

Int64s = NDArray[np.int64]


class Runs:
    """The closed runs of pairs, by lists in the rows of pairs; and the buckets of movies."""

    def __init__(self, tables: Callable[[], Tables]) -> None:
        """`tables` gives those of the state that this is a part of."""
        self._tables = tables
        self.closed = Table(RUN)
        self.buckets = IndexedTable(BUCKET)
        #: Plays by bucket beyond those of a pair's runs, where these were merged, as changes.
        self._more_plays: defaultdict[int, Counter[int]] = defaultdict(Counter)

    def merge(self, pairs: Int64s) -> None:
        """Replaces closed runs of distinct pairs by their union, and notes the plays it lacks."""
        owners, *changes = merging.merge_all(self._tables(), pairs)
        columns = (pairs[owners], *changes)
        for pair, bucket, change in zip(*(each.tolist() for each in columns), strict=True):
            self._more_plays[pair][bucket] += change

    def uncount(self, pairs: Int64s) -> None:
        """Takes distinct pairs out of retention."""
        tables = self._tables()
        lists.uncount_runs(tables, pairs)
        for pair in pairs.tolist() if self._more_plays else ():
            changes = sorted(self._more_plays.pop(pair, Counter()).items())
            edges = np.array([bucket for bucket, _ in changes], np.int64)
            plays = np.cumsum([change for _, change in changes], dtype=np.int64)
            movie = int(tables.pairs.rows["movie"][pair])
            lists.count_plays(tables, movie, edges[:-1], edges[1:], -plays[:-1])

    def retention(self, movie: int, buckets: int) -> tuple[Int64s, Int64s]:
        """Viewers and plays of each of so many buckets, up to the last one that has a viewer."""
        rows = self.buckets.find(movie << 32 | np.arange(buckets))
        known = rows != NONE
        levels = []
        for column in ("viewers", "plays"):
            level = np.zeros(buckets, np.int64)
            level[known] = self.buckets[column][rows[known]]
            levels.append(level)
        viewers, plays = levels
        width = int(np.flatnonzero(viewers)[-1]) + 1 if viewers.any() else 0
        return viewers[:width], plays[:width]

    # Snapshots

    def to_arrow(
        self, firsts: Int64s, pair_rows: Int64s, movie_codes: Int64s
    ) -> dict[str, pa.Table]:
        """`firsts` begin the lists of the pairs of the snapshot.

        `pair_rows` and `movie_codes` map rows and codes to those in the snapshot, or NONE.
        """
        pair, rows = lists.lists_of(self.closed.rows, firsts)
        more = [
            (int(pair_rows[pair]), bucket, change)
            for pair, changes in self._more_plays.items()
            for bucket, change in changes.items()
        ]
        counted = (self.buckets["viewers"] != 0) | (self.buckets["plays"] != 0)
        retention = self.buckets.to_arrow(("movie", "bucket", "viewers", "plays"), counted)
        return {
            "runs": pa.table(
                {
                    "pair": pair,
                    "start": self.closed.rows["start"][rows],
                    "end": self.closed.rows["end"][rows],
                }
            ),
            "more_plays": pa.table(
                {
                    name: np.array([row[index] for row in more], np.int64)
                    for index, name in enumerate(("pair", "bucket", "change"))
                }
            ),
            "retention": retention.set_column(
                0, "movie", pa.array(movie_codes[retention["movie"].to_numpy()], pa.int32())
            ),
        }

    def load_arrow(self, tables: dict[str, pa.Table], pairs: Pairs) -> None:
        """`pairs` get the beginnings of their lists."""
        stored = tables["runs"]
        self.closed.load_arrow(stored.drop_columns("pair"))
        owners = pairs.more_of(stored["pair"].to_numpy())
        lists.link(self.closed.rows, len(self.closed), owners, pairs.more["runs"])
        lists.rank_runs(self.closed.rows, pairs.more["runs"].astype(np.int64))
        more = tables["more_plays"].to_pydict()
        for pair, bucket, change in zip(*more.values(), strict=True):
            self._more_plays[pair][bucket] = change
        self.buckets.load_arrow(tables["retention"])
        keys = self.buckets["movie"].astype(np.int64) << 32 | self.buckets["bucket"]
        self.buckets.index_all(keys)
