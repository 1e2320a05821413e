"""Who watches now: counts by movie that follow what happens, so that asking takes no search."""

import numpy as np
from numpy.typing import NDArray

from aggregator.memory import grown
from aggregator.rules import WATCHING_NOW_MS
from kernels import live
from kernels.compiler import frozen
from kernels.live import Counted
from kernels.tables import Tables

Int64s = NDArray[np.int64]


class Audience:
    """Streams whose last event is at most a minute old, by movie.

    Asking looks at what was marked since someone asked before, and at each 64 rows once
    their oldest event that counts is too old: some 10 ns for each event, however many
    watch; besides at two numbers for each 64 rows.
    """

    def __init__(self) -> None:
        self.pairs, self.streams = _none(), _none()
        self._by_movie = np.zeros(0, np.int64)
        #: All streams with an event at this time or after it are counted, or marked.
        self._since_t = 0

    def reserve(self, pairs: int, streams: int) -> None:
        """Makes room for the marks of so many rows."""
        self.pairs = _with_room(self.pairs, pairs)
        self.streams = _with_room(self.streams, streams)

    def begin(self, tables: Tables, now_ms: int) -> None:
        """Marks all who watched then; nobody may have asked of an earlier time."""
        self._since_t = max(now_ms - WATCHING_NOW_MS, 0)
        live.mark_all(tables, self._since_t)

    def by_movie(self, tables: Tables, now_ms: int, movies: int) -> Int64s:
        """How many streams, of each of so many movies; to be read before the next call."""
        since_t = max(now_ms - WATCHING_NOW_MS, 0)
        if since_t < self._since_t:  # the clock stepped back after someone had asked
            live.mark_all(tables, since_t)
        self._since_t = since_t
        self._by_movie = grown(self._by_movie, movies)
        live.count(tables, self.pairs, self.streams, since_t, self._by_movie)
        return frozen(self._by_movie[:movies])


def _none() -> Counted:
    return Counted(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _with_room(known: Counted, rows: int) -> Counted:
    words = (rows >> 6) + 1
    return Counted(*(grown(column, words) for column in known))
