"""An event loop that stays awake for a moment, as more is likely to come at once."""

import asyncio
import time


class Linger:
    """Has the loop look for what comes, again and again, instead of waiting to be woken.

    To be woken takes a processor that had nothing to do 30 to 100 us, in a virtual machine.
    Who sends one event at a time has the next one ready soon after the answer.
    """

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._until_s = 0.0
        self._is_lingering = False

    def begin(self) -> None:
        """For `linger_s` from now. Call this in the loop."""
        self._until_s = time.monotonic() + self._linger_s
        if not self._is_lingering:
            self._is_lingering = True
            self._go_round()

    def end(self) -> None:
        self._until_s = 0.0

    def _go_round(self) -> None:
        self._is_lingering = time.monotonic() < self._until_s
        if self._is_lingering:
            asyncio.get_running_loop().call_soon(self._go_round)
