"""The retention of movies: by bucket, how many pairs have been there, and how often.

Open runs count, too, so that asking is a lookup: each time a run gets longer, the
buckets that it comes to are counted.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.memory import grown
from aggregator.table import IndexedTable
from kernels.rows import BUCKET, BUCKET_MS, NONE, PAGE, PAGE_BUCKETS

Int64s = NDArray[np.int64]


def pages_each(max_gap_ms: int) -> int:
    """How many pages an event may come to, as a run gets longer by the gap at most."""
    return max_gap_ms // (PAGE_BUCKETS * BUCKET_MS) + 2


class Retention:
    """Buckets, in pages of those that follow each other in a movie: most of them are watched."""

    def __init__(self) -> None:
        self.pages = IndexedTable(PAGE)
        self.buckets = np.zeros(0, BUCKET)

    def reserve(self, pages: int) -> None:
        """Makes room for so many more."""
        self.pages.reserve(pages)
        self.buckets = grown(self.buckets, (len(self.pages) + pages) * PAGE_BUCKETS)

    def of(self, movie: int, buckets: int) -> tuple[Int64s, Int64s]:
        """Viewers and plays of each of so many buckets, up to the last one that has a viewer."""
        numbers = np.arange(-(-buckets // PAGE_BUCKETS))
        pages = self.pages.find(movie << 32 | numbers)
        known = pages != NONE
        levels = np.zeros((len(pages), PAGE_BUCKETS), BUCKET)
        levels[known] = self._in_pages()[pages[known]]
        viewers, plays = (levels[name].astype(np.int64).ravel() for name in ("viewers", "plays"))
        width = int(np.flatnonzero(viewers)[-1]) + 1 if viewers.any() else 0
        return viewers[:width], plays[:width]

    def played(self) -> dict[str, NDArray[np.int32]]:
        """Columns movie, bucket, viewers and plays, a row a bucket where anything was played."""
        paged = self._in_pages()
        pages, places = np.nonzero((paged["viewers"] != 0) | (paged["plays"] != 0))
        counted = paged[pages, places]
        firsts = self.pages["number"][pages] * np.int32(PAGE_BUCKETS)
        return {
            "movie": self.pages["movie"][pages],
            "bucket": firsts + places.astype(np.int32),
            "viewers": counted["viewers"],
            "plays": counted["plays"],
        }

    # Snapshots

    def to_arrow(self, movie_codes: Int64s) -> pa.Table:
        """What was played; `movie_codes` maps codes to those there."""
        played = self.played()
        movies = movie_codes[played["movie"]].astype(np.int32)
        return pa.table(played | {"movie": movies})

    def load_arrow(self, stored: pa.Table) -> None:
        """Fills an empty retention with what `to_arrow` gave."""
        movies = stored["movie"].to_numpy().astype(np.int64)
        buckets = stored["bucket"].to_numpy()
        keys, pages = np.unique(movies << 32 | buckets // PAGE_BUCKETS, return_inverse=True)
        self.reserve(len(keys))
        self.pages.add(len(keys), movie=keys >> 32, number=keys & 0xFFFFFFFF)
        self.pages.index_all(keys)
        paged, places = self._in_pages(), buckets % PAGE_BUCKETS
        for name in ("viewers", "plays"):
            paged[name][pages, places] = stored[name].to_numpy()

    def _in_pages(self) -> NDArray[np.void]:
        """The buckets, a row of them a page."""
        return self.buckets[: len(self.pages) * PAGE_BUCKETS].reshape(-1, PAGE_BUCKETS)
