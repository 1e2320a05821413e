"""Who may change a shard's files, other than the newest segment of its log, and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class FileAccess:
    """One at a time reads or changes them. A reader outside can have changes wait for a while."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._is_free = asyncio.Event()
        self._is_free.set()
        self._timer: asyncio.TimerHandle | None = None

    def reading(self) -> AbstractAsyncContextManager[None]:
        return self._lock

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Waits until nothing is held."""
        while True:
            await self._is_free.wait()
            async with self._lock:
                if self._is_free.is_set():
                    yield
                    return

    async def hold(self, seconds: float) -> None:
        """After a change under way, no other begins before `release` or so many seconds."""
        async with self._lock:
            self.release()
            self._is_free.clear()
            self._timer = asyncio.get_running_loop().call_later(seconds, self.release)

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_free.set()
