"""A state, and what was answered and is not counted in it yet.

A reply says which events are duplicates, and that alone is found out before it. The
rest of the work waits until there is more of it, or some time has passed, or someone asks.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from aggregator.state import State
from persistence.batch import Encoded

#: Few events take nearly as long to count as so many.
COUNTED_TOGETHER_MIN = 256
#: So many events take longer to count than it takes to have another thread do it.
COUNTED_BESIDE_MIN = 1_000
#: What is not counted has grown to so many: it is counted before more is answered, as whoever
#: asks waits for it.
COUNTED_BESIDE_MAX = 40_000
#: Counted in a turn, and the rest of the last batch of them; then whoever waits has one.
COUNTED_AT_ONCE = 10_000


class Tally:
    """Behind one lock, which is held while batches are counted, and by whoever looks at the state.

    `add`, `count_soon` and `close` are for one thread, the shard's; `current` is for any.
    `add` takes no lock, as all that it changes are hashes that only it looks up: so events
    are answered whatever the others do.
    """

    def __init__(self, state: State, give_up: Callable[[Exception], NoReturn]) -> None:
        """`give_up` ends the process: what was answered cannot be counted."""
        self._state = state
        self._give_up = give_up
        self._guard = threading.Lock()
        #: Held by whoever comes next.
        self._gate = threading.Lock()
        #: When each was received, and its duplicates.
        self._uncounted: deque[tuple[Encoded, int, NDArray[np.bool_]]] = deque()
        #: How many events were ever added, by the shard's thread, and counted, behind the lock.
        self._added = self._counted = 0
        self._counter = ThreadPoolExecutor(1, "counter")

    def add(self, batch: Encoded, received_ms: int) -> list[int]:
        """Has a batch that is durable counted later; returns which of its events are duplicates."""
        duplicate = np.zeros(len(batch), np.bool_)
        duplicates: list[int] = []
        if batch.has_hashes:
            duplicate = self._state.find_duplicates(batch.decode(), received_ms)
            duplicates = duplicate.nonzero()[0].tolist()
        self._uncounted.append((batch, received_ms, duplicate))
        self._added += len(batch)  # only now, as others count up to here
        return duplicates

    @property
    def is_worth_counting(self) -> bool:
        return self._uncounted_events() >= COUNTED_TOGETHER_MIN

    def count_soon(self) -> None:
        """Here if it is little, else beside what comes next, which is to be made durable."""
        events = self._uncounted_events()
        if COUNTED_BESIDE_MIN <= events <= COUNTED_BESIDE_MAX:
            self._counter.submit(self._count_all)
        elif events:
            self._count_all()

    @contextmanager
    def current(self) -> Iterator[State]:
        """The state with all counted that has been added.

        Nothing else changes it meanwhile, but for the hashes of `add`, in `recent`: what these
        are only the shard's thread may read.
        """
        added = self._added
        with self._turn():
            while self._counted < added:
                self._count_some()
            yield self._state

    def close(self) -> None:
        """Waits for the thread that counts."""
        self._counter.shutdown()

    def _uncounted_events(self) -> int:
        return self._added - self._counted

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The lock. Without the gate, whoever counts would take it again before a waiter wakes."""
        with self._gate:
            self._guard.acquire()
        try:
            yield
        finally:
            self._guard.release()

    def _count_all(self) -> None:
        """What has been added and is not counted."""
        added = self._added
        while self._counted < added:
            with self._turn():
                if self._counted < added:  # still
                    self._count_some()

    def _count_some(self) -> None:
        """The oldest batches that are not counted, of which there are some. Have the lock."""
        taken: list[tuple[Encoded, int, NDArray[np.bool_]]] = []
        events = 0
        while self._uncounted and events < COUNTED_AT_ONCE:
            taken.append(self._uncounted.popleft())
            events += len(taken[-1][0])
        try:
            batches, received_ms, duplicate = zip(*taken, strict=True)
            batch = Encoded.join(batches)
            received = np.repeat(received_ms, list(map(len, batches)))
            self._state.count(batch, received, np.concatenate(duplicate))
            self._counted += events
        except Exception as error:  # noqa: BLE001 - what was acknowledged must be counted
            self._give_up(error)
