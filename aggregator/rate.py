"""How many a second, lately."""

import time
from collections import deque
from collections.abc import Callable

#: Long enough to be steady, short enough to be now.
WINDOW_S = 10


class Rate:
    """Counts over the last `WINDOW_S` whole seconds, in one slot a second."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        #: Of all seconds since the start.
        self.total = 0
        self._slots: deque[tuple[int, int]] = deque(maxlen=WINDOW_S + 1)

    def count(self, more: int) -> None:
        self.total += more
        second = int(self._clock_s())
        if self._slots and self._slots[-1][0] == second:
            self._slots[-1] = (second, self._slots[-1][1] + more)
        else:
            self._slots.append((second, more))

    def per_second(self) -> float:
        """May be asked in another thread than the one that counts."""
        now, slots = int(self._clock_s()), self._slots.copy()
        return sum(n for second, n in slots if now - WINDOW_S <= second < now) / WINDOW_S
