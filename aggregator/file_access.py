"""Who may change a shard's files, other than the newest segment of its log, and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class FileAccess:
    """One at a time reads or changes them. Readers outside can have changes wait for a while."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._is_free = asyncio.Event()
        self._is_free.set()
        self._holders: dict[int, asyncio.TimerHandle] = {}

    def reading(self) -> AbstractAsyncContextManager[None]:
        return self._lock

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Waits until no one holds the files."""
        while True:
            await self._is_free.wait()
            async with self._lock:
                if self._is_free.is_set():
                    yield
                    return

    async def hold(self, holder: int, seconds: float) -> bool:
        """After a change under way, no other begins before `release` or so many seconds.

        Returns whether a hold of the same holder had lasted until now.
        """
        async with self._lock:
            has_lasted = holder in self._holders
            self.release(holder)
            self._is_free.clear()
            loop = asyncio.get_running_loop()
            self._holders[holder] = loop.call_later(seconds, self.release, holder)
            return has_lasted

    def release(self, holder: int) -> None:
        """Ends the hold of one, if there is any."""
        timer = self._holders.pop(holder, None)
        if timer is not None:
            timer.cancel()
        if not self._holders:
            self._is_free.set()

    def release_all(self) -> None:
        for holder in list(self._holders):
            self.release(holder)
