"""When a shard's next checkpoint is due: by how much log there is, and by the clock.

A checkpoint takes processor time from what comes meanwhile, and falls behind where much
does. So while much comes it waits for less, as databases put off what need not be now,
until a start would take too long.
"""

import time
from collections.abc import Callable

#: After a checkpoint that failed, before the next is tried.
RETRY_S = 30.0
#: Only large batches are more log a second; on a busy machine checkpoints fall behind them.
BUSY_BYTES_PER_S = 16 << 20
#: Whether more comes is looked at so often.
LOOK_EVERY_S = 1.0
#: So many times as much log as is enough does not wait.
TIMES_ENOUGH_MAX = 4


class Schedule:
    """Is told what was logged and how each checkpoint went; makes none itself."""

    def __init__(
        self,
        *,
        log_bytes_min: int,
        interval_s: float,
        erase_delay_s: float,
        log_bytes: int,
        snapshot_bytes: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """There is so much log after a snapshot of such a size; the intervals begin now.

        So much log as that snapshot has, or `log_bytes_min` if that is more, is enough,
        unless much more comes at the moment.
        """
        self._log_bytes_min = log_bytes_min
        self._interval_s, self._erase_delay_s = interval_s, erase_delay_s
        self._log_bytes, self._snapshot_bytes = log_bytes, snapshot_bytes
        self._clock_s = clock_s
        self._ended_s = self._looked_s = clock_s()
        self._bytes_since_look = 0
        self._is_busy = False
        self._retry_at_s: float | None = None
        self._is_under_way = False

    def due_in_s(self, *, has_more: bool, has_erases: bool) -> float | None:
        """0 when one is due, None when none will be before something changes.

        `has_more` than the last one: records. Erases wait for one to be made final.
        """
        if self._is_under_way:
            return None
        if self._retry_at_s is not None:
            return max(self._retry_at_s - self._clock_s(), 0)
        self._look()
        enough = max(self._log_bytes_min, self._snapshot_bytes)
        waits = []
        if self._log_bytes >= enough:
            if not self._is_busy or self._log_bytes >= TIMES_ENOUGH_MAX * enough:
                return 0
            waits.append(self._looked_s + LOOK_EVERY_S)
        if has_more:
            waits.append(self._ended_s + self._interval_s)
        if has_erases:
            waits.append(self._ended_s + self._erase_delay_s)
        return max(min(waits) - self._clock_s(), 0) if waits else None

    def logged(self, more_bytes: int) -> None:
        self._log_bytes += more_bytes
        self._bytes_since_look += more_bytes

    def _look(self) -> None:
        """Whether much has come since the last look."""
        since_s = self._clock_s() - self._looked_s
        if since_s >= LOOK_EVERY_S:
            self._is_busy = self._bytes_since_look > BUSY_BYTES_PER_S * since_s
            self._looked_s, self._bytes_since_look = self._clock_s(), 0

    def begin(self) -> None:
        """One of all that was logged: what is logged from now on is for the next."""
        self._log_bytes, self._is_under_way = 0, True

    def end(self, snapshot_bytes: int) -> None:
        self._snapshot_bytes, self._ended_s = snapshot_bytes, self._clock_s()
        self._retry_at_s, self._is_under_way = None, False

    def postpone(self) -> None:
        """One failed, or could not begin."""
        self._retry_at_s, self._is_under_way = self._clock_s() + RETRY_S, False
