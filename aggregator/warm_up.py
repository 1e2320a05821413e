"""Everything compiled, or found compiled, before the first event waits for it."""

import numpy as np

from aggregator import erasure
from aggregator.answers import history, progress_of, retention
from aggregator.rules import Rules
from aggregator.state import State
from kernels import compiler
from kernels.watching import MERGED_FROM
from persistence.batch import Batch, Encoded, EncodedBatches
from persistence.records import Record, Run
from persistence.strings import Strings

_NOW_MS = 1_000_000_000_000


def warm_up() -> None:
    """Has each kernel of a state work once, on a state that is thrown away."""
    state = State(Rules())
    batch = _batch()
    state.apply(batch, _NOW_MS)
    frame = Encoded.of(batch.encode())
    frame.check()
    Encoded.join([frame, frame])
    run = Run.at(Record(1, _NOW_MS, 1, 1, frame.encoded).encode(1), 0, 1)
    assert run is not None
    EncodedBatches.of(run.content, run.rows["start"], run.rows["size"])
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    row = loaded.pair_row("u", "m")
    assert row is not None
    progress_of(loaded, row)
    history(loaded, "u", 1, None)
    retention(loaded, "m")
    loaded.watching_now(_NOW_MS)
    loaded.movie_names.code("m")
    loaded.movie_names.hashes()
    loaded.add_pair("u", "n")
    loaded.apply(batch, np.full(len(batch), _NOW_MS))
    loaded.user_names.intern(Strings.of(["w"] * 1_000), np.ones(1_000, np.bool_))
    loaded.pairs.reserve(10_000)
    for user in ("u", "v"):
        erasure.erase(loaded, user, None)
    compiler.let_go()


def _batch() -> Batch:
    """Two users, of whom one has a session, with so many short runs that these are merged."""
    events = 8 * MERGED_FROM
    number = np.arange(events, dtype=np.int64)
    odd = (number % 2).astype(np.int32)
    return Batch(
        users=Strings.of(["u", "v"]),
        slugs=Strings.of(["m"]),
        sessions=Strings.of(["", "s"]),
        user=odd,
        slug=np.zeros_like(odd),
        session=odd,
        at_ms=number // 2 % 2 * 5_000 + number // 4 % 3 * 1_000_000,
        ts_ms=_NOW_MS - events + number,
        duration_ms=np.full(events, 5_000_000),
        id_hash=number + 1,
    )


if __name__ == "__main__":
    warm_up()
