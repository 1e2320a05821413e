"""Whose facts are to go: users and pairs that were erased, and up to which record."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from persistence.facts import codes_of, names_of


class Erasure:
    """Erased users and (user, slug) pairs, each with the sequence of its erase."""

    #: The columns that `hits` looks at.
    COLUMNS = ("sequence", "user", "slug")

    def __init__(self, users: Mapping[str, int], pairs: Mapping[tuple[str, str], int]) -> None:
        self.users = users
        self.pairs = pairs
        #: In the order of str, as statistics are.
        self.names = sorted({*users, *(user for user, _ in pairs)})
        #: No later record is concerned.
        self.newest = max([0, *users.values(), *pairs.values()])

    def hits(self, facts: pa.Table) -> NDArray[np.bool_]:
        """Which rows are to go; each column of `facts` is one chunk."""
        if not self.names:
            return np.zeros(len(facts), np.bool_)
        users, slugs = codes_of(facts, "user"), codes_of(facts, "slug")
        names = names_of(facts, "user")
        # Code -1 is no user, and finds the 0 at the end.
        limits = np.array([*(self.users.get(name, 0) for name in names), 0], np.int64)[users]
        keys, ends = self._pair_limits(names, names_of(facts, "slug"))
        if len(keys):
            wanted = users.astype(np.int64) << 32 | slugs
            found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            np.maximum(limits, ends[found], out=limits, where=keys[found] == wanted)
        hits: NDArray[np.bool_] = facts["sequence"].to_numpy() <= limits
        return hits

    def _pair_limits(
        self, users: list[str], slugs: list[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User code << 32 | slug code of the pairs that may occur, rising, and their sequences."""
        user_codes = {name: code for code, name in enumerate(users)}
        slug_codes = {name: code for code, name in enumerate(slugs)}
        found = sorted(
            (user_codes[user] << 32 | slug_codes[slug], sequence)
            for (user, slug), sequence in self.pairs.items()
            if user in user_codes and slug in slug_codes
        )
        table = np.array(found, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]
