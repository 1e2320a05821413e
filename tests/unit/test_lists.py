"""Lists in shared columns equal a dictionary of lists, and blocks that are free are used again."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.lists import Lists

OWNERS = 9


def new() -> Lists:
    return Lists({"number": np.int64, "small": np.int32})


def append(lists: Lists, rows: list[tuple[int, int]]) -> None:
    """Adds (owner, number) pairs; equal owners are neighbours."""
    owners, numbers = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    lists.append(owners, number=numbers, small=numbers % 7)


def contents(lists: Lists, owners: list[int]) -> dict[int, list[int]]:
    """What each owner has, by every way to ask."""
    asked = np.array(owners, np.int64)
    which, at = lists.positions(asked)
    found = {owner: lists["number"][at[which == n]].tolist() for n, owner in enumerate(owners)}
    assert which.tolist() == sorted(which.tolist())
    assert lists.counts(asked).tolist() == [len(found[owner]) for owner in owners]
    for owner, last in zip(owners, lists.last(asked).tolist(), strict=True):
        assert found[owner][-1:] == ([] if last < 0 else [lists["number"][last]])
        assert lists.of(owner)["number"].tolist() == found[owner]
        assert lists.of(owner)["small"].tolist() == [number % 7 for number in found[owner]]
    return found


ROWS = st.dictionaries(st.integers(0, OWNERS - 1), st.integers(1, 20), max_size=5)
STEPS = st.lists(
    st.one_of(ROWS, st.sets(st.integers(0, OWNERS + 2), min_size=1, max_size=4)), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_equals_a_dictionary_of_lists(steps: list[Any]) -> None:
    lists, model = new(), dict[int, list[int]]()
    number = 0
    for step in steps:
        if isinstance(step, set):
            lists.clear(np.array(sorted(step), np.int64))
            for owner in step:
                model.pop(owner, None)
            continue
        rows = []
        for owner, count in step.items():
            rows += [(owner, number + n) for n in range(count)]
            number += count
            model.setdefault(owner, []).extend(range(number - count, number))
        append(lists, rows)
    owners = [7, *range(OWNERS + 3, -1, -1)]  # in any order, also twice, also unknown
    assert contents(lists, owners) == {owner: model.get(owner, []) for owner in owners}


def test_nothing_is_there_at_first() -> None:
    lists = new()
    assert contents(lists, [0, 5]) == {0: [], 5: []}
    append(lists, [])
    lists.clear(np.array([0, 5]))
    assert contents(lists, [0, 5]) == {0: [], 5: []}


def test_free_blocks_are_used_again() -> None:
    lists = new()
    append(lists, [(owner, owner) for owner in range(8) for _ in range(5)])  # blocks of 8
    used = lists._used
    assert used == 8 * 8
    for generation in range(20):
        lists.clear(np.array([1, 3, 5, 7]))
        append(lists, [(owner, generation) for owner in (7, 1, 3, 5) for _ in range(7)])
        assert lists._used == used
    found = contents(lists, [*range(8)])
    assert found == {owner: [19] * 7 if owner % 2 else [owner] * 5 for owner in range(8)}


def test_a_list_that_grows_leaves_its_block_to_others() -> None:
    lists = new()
    for number in range(100):
        append(lists, [(0, number)])
    assert lists._used == sum(1 << bits for bits in range(8))  # 1, 2, 4 … 128
    for owner, count in enumerate([1, 2, 4, 8, 16, 32, 64], start=1):
        append(lists, [(owner, owner)] * count)
    assert lists._used == sum(1 << bits for bits in range(8))
    found = contents(lists, [*range(8)])
    assert found[0] == [*range(100)]
    assert [found[owner] for owner in range(1, 8)] == [[n] * (1 << (n - 1)) for n in range(1, 8)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 64, 65, 1023, 1024, 1025])
def test_a_block_holds_the_next_power_of_two(count: int) -> None:
    lists = new()
    append(lists, [(0, n) for n in range(count)])
    assert lists._used == 1 << (count - 1).bit_length()
    assert contents(lists, [0])[0] == [*range(count)]


def test_blocks_are_cleared_once() -> None:
    """What was given free twice would have two owners."""
    lists = new()
    append(lists, [(0, 1), (1, 2)])
    lists.clear(np.array([0]))
    lists.clear(np.array([0]))
    append(lists, [(2, 3)])
    append(lists, [(3, 4)])
    assert contents(lists, [0, 1, 2, 3]) == {0: [], 1: [2], 2: [3], 3: [4]}
