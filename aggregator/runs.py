"""Closed runs, merged where they became many."""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.pairs import Pairs
from aggregator.table import Table
from kernels import lists, merging
from kernels.rows import RUN
from kernels.tables import Tables

Int64s = NDArray[np.int64]


class Runs:
    """The closed runs of pairs, by lists in the rows of pairs."""

    def __init__(self, tables: Callable[[], Tables]) -> None:
        """`tables` gives those of the state that this is a part of."""
        self._tables = tables
        self.closed = Table(RUN)
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

    # Snapshots

    def to_arrow(self, firsts: Int64s, pair_rows: Int64s) -> dict[str, pa.Table]:
        """`firsts` begin the lists of the pairs of the snapshot.

        `pair_rows` maps rows to those in the snapshot, or NONE.
        """
        pair, rows = lists.lists_of(self.closed.rows, firsts)
        more = [
            (int(pair_rows[pair]), bucket, change)
            for pair, changes in self._more_plays.items()
            for bucket, change in changes.items()
        ]
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
