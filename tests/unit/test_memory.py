"""Arrays that get longer keep what they hold, with or without room reserved."""

import mmap

import numpy as np
import pytest

from aggregator import memory
from aggregator.memory import grown

ROWS = np.dtype([("number", np.int64), ("other", np.int32)], align=True)
MANY = 1 << 17


def filled(rows: int) -> np.ndarray:
    column = grown(np.empty(0, ROWS), rows)
    column["number"][:rows] = np.arange(rows)
    return column


def test_what_has_room_stays_as_it_is() -> None:
    column = filled(10)

    assert grown(column, len(column)) is column


@pytest.mark.parametrize("rows", [10, 1_000, MANY])
def test_what_gets_longer_keeps_what_it_holds(rows: int) -> None:
    longer = grown(filled(rows), 10 * rows)

    assert len(longer) >= 10 * rows
    assert longer["number"][:rows].tolist() == list(range(rows))


def test_many_rows_grow_without_a_copy() -> None:
    column = filled(MANY)

    assert grown(column, 100 * MANY) is column


def test_few_rows_get_little_room() -> None:
    assert len(filled(100)) <= 200


@pytest.mark.parametrize("refused", ["limited", "none left"])
def test_without_addresses_rows_are_copied(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> mmap.mmap:
        raise OSError("no addresses")

    if refused == "limited":
        monkeypatch.setattr(memory, "_are_addresses_free", lambda: False)
    else:
        monkeypatch.setattr(mmap, "mmap", refuse)

    longer = grown(filled(MANY), 2 * MANY)

    assert 2 * MANY <= len(longer) < 100 * MANY
    assert longer["number"][:MANY].tolist() == list(range(MANY))
