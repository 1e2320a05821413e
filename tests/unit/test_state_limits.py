"""What clients may send without a shard writing where it may not, or taking for ever."""

import asyncio
import gc
import os
import subprocess
import sys
import tracemalloc
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from aggregator import collector, erasure, warm_up
from aggregator.event import Event, Part, to_batch
from aggregator.intmap import IntMap
from aggregator.recent import RecentHashes
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.shard import Shard
from aggregator.state import State
from aggregator.tables import tables_of
from api import warm_up as api_warm_up
from kernels import lists
from kernels.rows import HOUR_MS
from kernels.watching import MERGED_FROM
from persistence.batch import Batch
from persistence.strings import Strings
from tests.comparison import facts_of_reference, facts_of_state
from tests.shards import NOW_MS, Clock, crash, send, settings_of, state_of


@pytest.mark.parametrize("far_s", [300, 3_000, 100_000])
def test_erasing_merged_runs_with_a_gap_adds_no_buckets(far_s: int) -> None:
    """The buckets in the gap, where nobody was, were added without room for them."""
    state = State(Rules())
    starts = [n % 2 * far_s for n in range(MERGED_FROM + 6)]
    events = [Event("u", "m", float(at)) for start in starts for at in (start, start + 5)]
    state.apply(to_batch([Part(events)]), NOW_MS)
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    for each in (state, loaded):
        before = len(each.retention.pages)
        assert erasure.erase(each, "u", None)
        assert len(each.retention.pages) == before <= 2
        assert facts_of_state(each) == {}


def test_tables_have_nothing_of_what_nobody_watched() -> None:
    """Each bucket before the last was made, 62 MB for a movie that was sought to its far end."""
    state = State(Rules())
    movies = [f"m{number}" for number in range(10)]
    events = [Event("u", movie, at) for movie in movies for at in (9_999_980.0, 9_999_985.0)]
    state.apply(to_batch([Part(events)]), NOW_MS)
    tracemalloc.start()
    try:
        found = tables_of(state)["retention"].sort_by("slug").to_pydict()
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert found == {
        "slug": movies,
        "bucket": [999_998] * 10,
        "viewers": [1] * 10,
        "plays": [1] * 10,
    }


def test_a_half_of_recent_ids_begins_with_the_first_id() -> None:
    """It began with the first event of a joined batch, so a replay forgot otherwise."""
    live, joined = RecentHashes(), RecentHashes()
    hashes = np.array([0, 7], np.int64)
    times = np.array([1_000, 2_000], np.int64)
    live.mark(None, hashes[1:], np.zeros(1, np.int64), times[1:])
    joined.mark(None, hashes, np.array([0, 1]), times)
    assert live.young_since_ms == joined.young_since_ms == 2_000


def test_where_keys_stand_in_a_map_cannot_be_foreseen() -> None:
    keys = np.arange(200, dtype=np.int64)
    orders = []
    for _ in range(2):
        table = IntMap()
        table.insert(keys, keys, 0)
        orders.append(table.slots["row"].tolist())
        assert table.keys().tolist() == keys.tolist()
    assert orders[0] != orders[1]


def test_many_sessions_of_one_user_and_movie() -> None:
    """Where each of them has been is looked up, not looked for in all the others."""
    state, reference = State(Rules()), Reference()
    for start in (0, 30, 10, 500, 470, 45):
        events = [
            Event("u", "m", float(start + at), f"{start}-{number}")
            for at in (0, 8, 25)
            for number in range(40)
        ]
        state.apply(to_batch([Part(events)]), NOW_MS)
        for event in events:
            at_ms = round(event.at * 1000)
            reference.apply(event.user, event.slug, at_ms, NOW_MS, event.session or "")
        assert facts_of_state(state) == facts_of_reference(reference)
    assert state.pairs["has_visits"].tolist() == [True]


def test_many_runs_of_one_user_and_movie() -> None:
    """Those of a request are not all looked through for each event that comes after them."""
    state, reference = State(Rules()), Reference()
    events = [Event("u", "m", 100.0 * run + at) for run in range(600) for at in (0, 1)]
    with patch.object(State, "_count_some", autospec=True, side_effect=State._count_some) as count:
        state.apply(to_batch([Part(events)]), NOW_MS)
    assert count.call_count > 1
    assert state.pairs["has_visits"].tolist() == [True]
    for event in events:
        reference.apply("u", "m", round(event.at * 1000), NOW_MS)
    assert facts_of_state(state) == facts_of_reference(reference)
    loaded = State(Rules())
    loaded.load_arrow(state.to_arrow(), state.extra())
    assert loaded.pairs["has_visits"].tolist() == [True]
    pages = lists.visited_pages(state.tables, np.arange(1))
    assert len(loaded.visits.pages) == len(state.visits.pages) == pages


def test_an_erase_of_many_runs_gives_its_memory_back() -> None:
    """A kernel that counts no references to arrays must not make any."""
    events = [Event("u", "m", 100.0 * run + at) for run in range(40) for at in (0, 1)]
    runtime: Any = import_module("numba.core.runtime")
    gc.collect()  # what other tests have left does not count
    runtime._nrt_python.memsys_enable_stats()
    with collector.paused():
        before = runtime.rtsys.get_allocation_stats()
        state = State(Rules())
        state.apply(to_batch([Part(events)]), NOW_MS)
        assert state.pairs["has_visits"].tolist() == [True]
        assert erasure.erase(state, "u", None)
        after = runtime.rtsys.get_allocation_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free > 0


def test_all_runs_that_an_event_has_looked_at_count() -> None:
    """Not those of its last bucket alone, of which one found early makes up for many others."""
    state = State(Rules())

    def apply(*events: tuple[str | None, float]) -> None:
        state.apply(to_batch([Part([Event("u", "m", at, name) for name, at in events])]), NOW_MS)

    apply((None, 20.0), (None, 25.0))
    apply(*((f"before {number}", 0.0) for number in range(280)))
    apply(("covers", 20.0), ("covers", 25.0))
    apply(*((f"after {number}", 0.0) for number in range(20)), (None, 1000.0))
    assert state.pairs["has_visits"].tolist() == [False]
    with patch.object(State, "_count_some", autospec=True, side_effect=State._count_some) as count:
        apply(("before 0", 29.0), ("before 1", 29.0))
    assert count.call_count == 2
    assert state.pairs["has_visits"].tolist() == [True]


def test_pairs_that_have_been_nowhere_are_loaded_with_many_sessions() -> None:
    """No room was made for where they come to, as there were no visits yet."""
    users = [f"u{number}" for number in range(2_000)]
    state, loaded = State(Rules()), State(Rules())
    for session in range(17):
        begun = [Event(user, "m", 0.0, str(session)) for user in users]
        state.apply(to_batch([Part(begun)]), NOW_MS)
    loaded.load_arrow(state.to_arrow(), state.extra())
    for each in (state, loaded):
        each.apply(to_batch([Part([Event(user, "m", 5.0, "0") for user in users])]), NOW_MS)
    assert facts_of_state(loaded) == facts_of_state(state)
    assert len(loaded.visits.pages) == len(users)


def test_sessions_hours_apart_take_no_more_memory_with_each_event() -> None:
    state = State(Rules())
    for number in range(200):
        event = Event("u", "m", float(number), f"{number % 2}", ts=NOW_MS - number % 2 * HOUR_MS)
        state.apply(to_batch([Part([event])]), NOW_MS)
    assert len(lists.hours_of(state.tables, np.array([0]))[0]) == 2


def test_a_frame_with_many_empty_sessions_is_counted() -> None:
    """No client of ours encodes one; what reads it must not trust that."""
    code = np.arange(100, dtype=np.int32)
    zeros = np.zeros_like(code)
    sessions = Strings.of([""] * 100)
    batch = Batch(
        Strings.of(["u"]), Strings.of(["m"]), sessions, zeros, zeros, code, code.astype(np.int64)
    )
    state = State(Rules())
    state.apply(Batch.decode(batch.encode()), NOW_MS)
    assert state.events == 100
    assert len(state.streams) == 0


def _kernels(module: ModuleType) -> dict[str, int]:
    """How many signatures each kernel of a module has been compiled for."""
    return {
        f"{module.__name__}.{name}": len(value.signatures)
        for name, value in vars(module).items()
        if isinstance(value, CPUDispatcher)
        and value.py_func.__module__ == module.__name__
        and value.targetoptions.get("nogil")
    }


def signatures() -> dict[str, int]:
    modules = [module for name, module in sys.modules.items() if name.startswith("kernels.")]
    return {name: count for module in modules for name, count in _kernels(module).items()}


def test_a_warm_up_leaves_nothing_to_be_compiled_for_a_request() -> None:
    warm_up.warm_up()
    api_warm_up.warm_up()
    assert len(signatures()) > 30
    assert [name for name, count in signatures().items() if not count] == []


def test_a_warm_up_leaves_nothing_to_be_compiled_for_a_recovery(tmp_path: Path) -> None:
    warm_up.warm_up()

    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        for sequence in range(1, 4):
            await send(shard, sequence, [Event("u", "m", 1.0), Event("v", "m", 2.0, "tv", "id")])
        crash(shard)
        before = signatures()
        shard = Shard(settings, Clock())
        assert state_of(shard).events == 4
        assert signatures() == before
        await shard.close()

    asyncio.run(run())


def test_without_a_folder_that_can_be_written_kernels_still_compile() -> None:
    code = (
        "from aggregator.intmap import IntMap; import numpy; print(IntMap().find(numpy.arange(2)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"NUMBA_CACHE_DIR": "/dev/null"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[-1 -1]\n", done.stderr
