"""Everything compiled, or found compiled, before the first event waits for it."""

import numpy as np

from aggregator import erasure
from aggregator.answers import progress_of
from aggregator.rules import Rules
from aggregator.state import State
from persistence.batch import Batch
from persistence.strings import Strings

_NOW_MS = 1_000_000_000_000


def warm_up() -> None:
    """Runs each kernel of a state once, on a state that is thrown away."""
    state = State(Rules())
    state.apply(_batch(), _NOW_MS)
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    row = loaded.pair_row("u", "m")
    assert row is not None
    progress_of(loaded, row)
    loaded.watching_now(_NOW_MS)
    loaded.add_pair("u", "n")
    for user in ("u", "v"):
        erasure.erase(loaded, user, None)


def _batch() -> Batch:
    """Two users, a session and runs of both, durations, times and ids."""
    number = np.arange(12, dtype=np.int64)
    odd = (number % 2).astype(np.int32)
    return Batch(
        users=Strings.of(["u", "v"]),
        slugs=Strings.of(["m"]),
        sessions=Strings.of(["", "s"]),
        user=odd,
        slug=np.zeros_like(odd),
        session=odd,
        at_ms=number % 4 * 100_000 + number * 1_000,
        ts_ms=np.full(12, _NOW_MS) - 12 + number,
        duration_ms=np.full(12, 1_000_000),
        id_hash=number + 1,
    )
