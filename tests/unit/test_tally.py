"""Who asks waits for what was added before, and for no more than that."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import pytest

from aggregator import tally
from aggregator.event import Event, Part, to_batch
from aggregator.state import State
from aggregator.tally import Tally
from persistence.batch import Batch, Encoded

TIMEOUT_S = 30.0


class Counted:
    """In place of a state: which thread counted how many events, when it was let."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.let = threading.Semaphore(0)
        self.error: Exception | None = None

    def count(self, batch: Batch, received_ms: Any, duplicate: Any) -> None:
        assert len(batch) == len(received_ms) == len(duplicate)
        self.calls.append((threading.current_thread().name, len(batch)))
        if self.error is not None:
            raise self.error
        assert self.let.acquire(timeout=TIMEOUT_S)


def give_up(error: Exception) -> NoReturn:
    raise error


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(tally, "COUNTED_BESIDE_MIN", 1)
    monkeypatch.setattr(tally, "COUNTED_AT_ONCE", 2)
    return Counted()


@pytest.fixture
def tallied(counted: Counted) -> Iterator[Tally]:
    tallied = Tally(cast(State, counted), give_up)
    yield tallied
    counted.let.release(100)
    tallied.close()


def batch(events: int) -> Encoded:
    part = Part([Event("u", "m", float(at)) for at in range(events)])
    return Encoded.of(to_batch([part]).encode())


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def ask(tallied: Tally) -> threading.Thread:
    """Asks in a thread of its own, and returns when that waits, or has an answer."""

    def look() -> None:
        with tallied.current():
            pass

    asker = threading.Thread(target=look, name="asker")
    asker.start()
    until(lambda: tallied._gate.locked() or not asker.is_alive())
    return asker


def test_who_asks_has_a_turn_before_more_is_counted(counted: Counted, tallied: Tally) -> None:
    for _ in range(4):
        tallied.add(batch(2), 0)
    tallied.count_soon()
    until(lambda: len(counted.calls) == 1)
    asker = ask(tallied)
    counted.let.release(4)
    asker.join(TIMEOUT_S)
    names, sizes = zip(*counted.calls, strict=True)
    assert [name.split("_")[0] for name in names] == ["counter", "asker", "asker", "asker"]
    assert sizes == (2, 2, 2, 2)


def test_who_asks_does_not_wait_for_what_is_added_meanwhile(
    counted: Counted, tallied: Tally
) -> None:
    for _ in range(2):
        tallied.add(batch(2), 0)
    tallied.count_soon()
    until(lambda: len(counted.calls) == 1)
    asker = ask(tallied)
    for _ in range(2):
        tallied.add(batch(2), 0)
    counted.let.release(2)
    asker.join(TIMEOUT_S)
    assert not asker.is_alive()
    assert [size for _, size in counted.calls] == [2, 2]


def test_small_batches_are_counted_together(counted: Counted, tallied: Tally) -> None:
    for size in (1, 1, 1, 5, 1):
        tallied.add(batch(size), 0)
    counted.let.release(3)
    with tallied.current():
        assert [size for _, size in counted.calls] == [2, 6, 1]


def test_a_batch_that_cannot_be_counted_ends_all(counted: Counted, tallied: Tally) -> None:
    counted.error = ArithmeticError()
    tallied.add(batch(1), 0)
    with pytest.raises(ArithmeticError), tallied.current():
        pass
