"""The movies there are to watch: a few that everyone knows, and a long tail."""

import string
from dataclasses import dataclass
from itertools import accumulate
from random import Random

_BASE_36 = string.digits + string.ascii_lowercase
_NAME_LENGTHS = (12, 13)

#: The n-th movie is chosen n ** -ZIPF times as often as the first.
ZIPF = 0.9
#: From an episode to an epic.
LENGTH_MIN_S, LENGTH_TYPICAL_S, LENGTH_MAX_S = 1_200, 5_400, 10_800
#: Players of the others never say how long the movie is, as with live streams.
SHARE_OF_KNOWN_LENGTH = 0.9


@dataclass(frozen=True, slots=True)
class Movie:
    """A movie, and whether its players know how long it is."""

    slug: str
    length_s: float
    is_length_known: bool


class Catalogue:
    """Movies, the most popular first; the same for the same state of `rng`."""

    def __init__(self, rng: Random, movies: int) -> None:
        self.movies = [_movie(rng) for _ in range(movies)]
        self._weights = list(accumulate(rank**-ZIPF for rank in range(1, movies + 1)))

    def choose(self, rng: Random) -> Movie:
        """One that someone feels like watching."""
        return rng.choices(self.movies, cum_weights=self._weights)[0]


def new_name(rng: Random) -> str:
    """12 to 13 characters of base 36: two runs do not meet."""
    return "".join(rng.choices(_BASE_36, k=rng.choice(_NAME_LENGTHS)))


def _movie(rng: Random) -> Movie:
    length_s = rng.triangular(LENGTH_MIN_S, LENGTH_MAX_S, LENGTH_TYPICAL_S)
    return Movie(new_name(rng), round(length_s, 3), rng.random() < SHARE_OF_KNOWN_LENGTH)
