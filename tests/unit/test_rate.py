"""How many a second: of the last whole seconds, in whichever thread one asks."""

import sys
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from aggregator.rate import WINDOW_S, Rate


def test_it_is_that_of_the_last_whole_seconds() -> None:
    now_s = [100.0]
    rate = Rate(lambda: now_s[0])
    rate.count(30)
    rate.count(20)
    assert rate.per_second() == 0  # the second is not over
    now_s[0] += 1.0
    rate.count(7)
    assert rate.per_second() == 50 / WINDOW_S
    now_s[0] += WINDOW_S
    assert rate.per_second() == 7 / WINDOW_S
    now_s[0] += 1.0
    assert rate.per_second() == 0
    assert rate.total == 57


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """They take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_threads")
def test_it_may_be_asked_while_another_thread_counts() -> None:
    """A second that began in between made the question fail."""
    seconds, ended = count(), threading.Event()
    rate = Rate(lambda: float(next(seconds)))

    def count_on() -> None:
        while not ended.is_set():
            rate.count(1)

    thread = threading.Thread(target=count_on)
    thread.start()
    try:
        for _ in range(20_000):
            rate.per_second()
    finally:
        ended.set()
        thread.join()
