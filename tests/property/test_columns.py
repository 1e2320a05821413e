"""The structures under the state, against Python's own."""

import mmap

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator import names
from aggregator.intmap import IntMap
from aggregator.names import RETIRED, Names
from aggregator.recent import RecentHashes
from kernels.batches import hash_names
from kernels.compiler import kernel
from kernels.merging import union
from persistence.strings import Strings

INT64 = st.integers(-(2**63), 2**63 - 1)
INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda p: (p[0], p[0] + p[1])), min_size=1
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.lists(INT64, unique=True, max_size=50)), st.lists(INT64))
def test_intmap_is_a_dict(groups: list[list[int]], strangers: list[int]) -> None:
    table = IntMap()
    model: dict[int, int] = {}
    for group in groups:
        fresh = [key for key in group if key not in model]
        rows = np.arange(len(model), len(model) + len(fresh))
        table.insert(np.array(fresh, np.int64), rows, len(model))
        model.update(zip(fresh, rows.tolist(), strict=True))
    asked = [*model, *strangers]
    assert table.find(np.array(asked, np.int64)).tolist() == [model.get(k, -1) for k in asked]
    assert sorted(table.keys().tolist()) == sorted(model)


def test_intmap_grows_and_keeps_everything() -> None:
    table = IntMap()
    keys = np.random.default_rng(1).permutation(200_000) << 32
    for start in range(0, len(keys), 7_777):
        part = keys[start : start + 7_777]
        table.insert(part, np.arange(start, start + len(part)), start)
    assert (table.find(keys) == np.arange(len(keys))).all()
    assert (table.find(keys + 1) == -1).all()


@given(st.lists(st.binary(max_size=100)))
def test_hashes_are_those_of_xxhash(texts: list[bytes]) -> None:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    strings = Strings(offsets, np.frombuffer(b"".join(texts), np.uint8))
    expected = list(map(xxhash.xxh64_intdigest, texts))
    assert hash_names(strings.offsets, strings.data, np.uint64(0)).tolist() == expected


@given(st.lists(st.lists(NAMES, max_size=20), max_size=10), st.lists(NAMES), st.sets(NAMES))
def test_names_are_a_dict(groups: list[list[str]], strangers: list[str], gone: set[str]) -> None:
    table, model = Names(), dict[str, int]()
    for group in groups:
        chosen = np.arange(len(group)) % 3 > 0
        codes = table.intern(Strings.of(group), chosen)
        for name, is_chosen in zip(group, chosen.tolist(), strict=True):
            if is_chosen:
                model.setdefault(name, len(model))
        expected = [model[n] if c else -1 for n, c in zip(group, chosen.tolist(), strict=True)]
        assert codes.tolist() == expected
    assert len(table) == len(model)
    assert [table.code(name) for name in [*model, *strangers]] == [
        model.get(name) for name in [*model, *strangers]
    ]
    asked = Strings.of([*strangers, *model])
    assert table.codes(asked).tolist() == [model.get(name, -1) for name in asked]
    for name in gone & set(model):
        table.retire(model[name])
        assert table.code(name) is None
    expected_names = [RETIRED if name in gone else name for name in model]
    assert table.to_list() == expected_names == [table[code] for code in range(len(table))]


def test_many_names_are_found_and_those_forgotten_come_back_as_others() -> None:
    table = Names()
    wanted = [f"user-{number}" for number in range(20_000)]
    table.intern(Strings.of(wanted[:5_000]), np.ones(5_000, np.bool_))
    table.retire(7)
    assert table.intern(Strings.of(wanted), np.ones(20_000, np.bool_))[7] == 5_000
    assert table.codes(Strings.of(wanted[:9])).tolist() == [0, 1, 2, 3, 4, 5, 6, 5_000, 8]
    assert (np.sort(table.codes(Strings.of(wanted))) == np.delete(np.arange(20_001), 7)).all()
    loaded = Names()
    keep = np.arange(len(table)) != 7
    loaded.load_arrow(pa.chunked_array([table.to_arrow().filter(keep)]))
    assert loaded.to_list() == [name for name in table.to_list() if name != RETIRED]


@kernel
def union_of(start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    return union(start, end)


@given(INTERVALS)
def test_a_union_is_a_set_of_integers(intervals: list[tuple[int, int]]) -> None:
    start, end = union_of(*map(np.ascontiguousarray, np.array(intervals, np.int64).T))
    covered = {number for first, stop in intervals for number in range(first, stop)}
    numbers = [n for s, e in zip(start, end, strict=True) for n in range(s, e)]
    assert numbers == sorted(covered)
    assert (start[1:] > end[:-1]).all()


def mark(recent: RecentHashes, ids: list[int], received_ms: int) -> list[bool]:
    hashes, received = np.array(ids, np.int64), np.full(len(ids), received_ms)
    marked: list[bool] = recent.mark(None, hashes, np.zeros(len(ids), np.int64), received).tolist()
    return marked


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), max_size=30))
def test_recent_hashes_remember_at_least_a_half(groups: list[list[int]]) -> None:
    half_max = 10
    recent, order = RecentHashes(half_max=half_max), list[int]()
    for received_ms, group in enumerate(groups):
        fresh = []
        for hashed, came_before in zip(group, mark(recent, group, received_ms), strict=True):
            if not came_before:
                assert hashed not in fresh
                fresh.append(hashed)
        assert not set(fresh) & set(order[-half_max:])
        order += fresh
        assert len(recent) <= 2 * (half_max + 8)


def test_recent_hashes_forget_after_two_windows() -> None:
    recent = RecentHashes(window_ms=100)
    assert mark(recent, [1], 1_000) == [False]
    assert mark(recent, [2], 1_101) == [False]
    assert mark(recent, [1, 2], 1_102) == [True, True]
    assert mark(recent, [3], 1_202) == [False]
    assert mark(recent, [2, 3, 1], 1_203) == [True, True, False]


def keyed(recent: RecentHashes, keys: list[int], record: list[int]) -> NDArray[np.bool_]:
    return recent.mark(np.array(keys), None, np.array(record), np.full(len(keys), 1_000))


@pytest.mark.parametrize("reload", [False, True])
def test_a_record_holds_a_request_once(reload: bool) -> None:
    recent = RecentHashes()
    assert keyed(recent, [5, 5, 0, 5], [0, 0, 0, 1]).tolist() == [False, False, False, True]
    if reload:
        loaded = RecentHashes()
        loaded.load_arrow(recent.to_arrow(), recent.young_since_ms)
        recent = loaded
    assert keyed(recent, [5, 6, 6], [0, 0, 0]).tolist() == [True, False, False]


def test_more_names_than_are_handled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 GiB of names, a snapshot could be written and not read."""
    wanted = [f"user-{number}" for number in range(1_000)]
    few = Names()
    few.intern(Strings.of(wanted), np.ones(1_000, np.bool_))
    hashes, stored = few.hashes(), pa.chunked_array([few.to_arrow()])
    monkeypatch.setattr(names, "TOGETHER_MAX", 64)
    assert (few.hashes() == hashes).all()
    assert (few.hashes(990) == hashes[990:]).all()
    assert len(few.hashes(1_000)) == 0
    loaded = Names()
    loaded.load_arrow(stored)
    assert loaded.to_list() == few.to_list() == wanted


def test_strings_beyond_2_gib_are_taken_in_parts() -> None:
    far = (1 << 31) + 5
    data = mmap.mmap(-1, far + 4)  # takes no memory where nothing is written
    data[far:] = b"anna"
    ends = np.array([0, far, far + 1, far + 4])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    strings = pa.Array.from_buffers(pa.large_string(), 3, buffers)
    assert Strings.of_arrow(strings.slice(1)).to_list() == ["a", "nna"]
