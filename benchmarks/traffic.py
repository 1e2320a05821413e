"""What is sent to the subjects: players that report where they are, as bodies of requests.

Everything is made of numbers from one seed, so that each run sends the same.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.catalogue import ZIPF

#: Who watch now, each one movie of these, a few far more often than the others.
PLAYERS, MOVIES = 100_000, 500
#: Each player reports so often; then the traffic begins anew.
REPORTS = 10
#: Between two reports on average, and by how much less or more; the longest movie.
STEP_MS, JITTER_MS, LENGTH_MS = 8_000, 1_000, 7_200_000
#: Users who have watched before, each so many movies; numbered from here on.
LIBRARY_PAIRS_OF_A_USER = 10
LIBRARY_FIRST_USER = 1_000_000
LIBRARY_BLOCK = 100_000
#: In the traffic of a library.
LIBRARY_EVENTS = 1_000_000

Numbers = NDArray[np.int64]

FORMATS = {
    "JSON": "application/json",
    "NDJSON": "application/x-ndjson",
    "Arrow": "application/vnd.apache.arrow.stream",
}


@dataclass(frozen=True, slots=True)
class Events:
    """In the order in which they are sent; users and movies are numbers, positions ms."""

    user: Numbers
    movie: Numbers
    at_ms: Numbers

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: slice) -> "Events":
        return Events(self.user[rows], self.movie[rows], self.at_ms[rows])

    def chunks(self, size: int) -> Iterator["Events"]:
        return (self[start : start + size] for start in range(0, len(self), size))


def players(reports: int = REPORTS) -> Events:
    """Round after round, everybody once in each, with positions that go on."""
    random = np.random.default_rng(1)
    weights = np.arange(1, MOVIES + 1) ** -ZIPF
    user = random.permutation(PLAYERS)
    movie = random.choice(MOVIES, PLAYERS, p=weights / weights.sum())
    return _reports(user, movie, random.integers(0, LENGTH_MS // 2, PLAYERS), reports)


def library(pairs: int) -> Iterator[Events]:
    """All pairs of a library, many at a time: where they began, then where they went on."""
    for first in range(0, pairs, LIBRARY_BLOCK):
        pair = np.arange(first, min(first + LIBRARY_BLOCK, pairs))
        yield _reports(*_library_pairs(pair), _begin_ms(pair), 2)


def library_traffic(pairs: int) -> Events:
    """Events of pairs anywhere in a library that go on where `library` ended."""
    random = np.random.default_rng(2)
    reporting = min(pairs, LIBRARY_EVENTS)
    pair = random.choice(pairs, reporting, replace=False)
    begin_ms = _begin_ms(pair) + 2 * STEP_MS
    return _reports(*_library_pairs(pair), begin_ms, LIBRARY_EVENTS // reporting)


def _library_pairs(pair: Numbers) -> tuple[Numbers, Numbers]:
    """Their users and movies; no two pairs are the same."""
    user, of_user = np.divmod(pair, LIBRARY_PAIRS_OF_A_USER)
    # One movie of each tenth of them.
    tenth = MOVIES // LIBRARY_PAIRS_OF_A_USER
    return LIBRARY_FIRST_USER + user, of_user * tenth + (user * 7 + of_user * 3) % tenth


def _begin_ms(pair: Numbers) -> Numbers:
    return pair * 7919 % (LENGTH_MS // 2)


def _reports(user: Numbers, movie: Numbers, begin_ms: Numbers, reports: int) -> Events:
    jitter_ms = np.random.default_rng(3).integers(0, JITTER_MS, (reports, len(user)))
    at_ms = begin_ms + STEP_MS * np.arange(reports)[:, None] + jitter_ms
    return Events(np.tile(user, reports), np.tile(movie, reports), at_ms.ravel())


# As bodies


def user_name(number: int) -> str:
    return f"user-{number:07}"


def movie_name(number: int) -> str:
    return f"movie-{number:07}"


def library_user_name(number: int) -> str:
    return user_name(LIBRARY_FIRST_USER + number)


def bodies(events: Events, format: str, size: int) -> Iterator[bytes]:
    """Requests of `size` events each, in one of the `FORMATS`."""
    encode = _ENCODERS[format]
    return (encode(chunk) for chunk in events.chunks(size))


def singles(events: Events) -> Iterator[bytes]:
    """One event a request, as the known event source sends it."""
    for user, movie, at_ms in zip(
        events.user.tolist(), events.movie.tolist(), events.at_ms.tolist(), strict=True
    ):
        yield b'{"user": "user-%07d", "slug": "movie-%07d", "at": %.3f}' % (
            user,
            movie,
            at_ms / 1000,
        )


def _to_json(events: Events) -> bytes:
    return b"[%b]" % b", ".join(singles(events))


def _to_ndjson(events: Events) -> bytes:
    return b"\n".join(singles(events))


def _to_arrow(events: Events) -> bytes:
    """Plain columns, as a table from anywhere has them."""
    table = pa.table(
        {
            "user": [user_name(number) for number in events.user.tolist()],
            "slug": [movie_name(number) for number in events.movie.tolist()],
            "at": events.at_ms / 1000,
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


_ENCODERS: dict[str, Callable[[Events], bytes]] = {
    "JSON": _to_json,
    "NDJSON": _to_ndjson,
    "Arrow": _to_arrow,
}
