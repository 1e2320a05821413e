"""Many small requests, one exchange under way."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aggregator.errors import NoAnswerError, OverloadedError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gatherer(Generic[Item, Answer]):
    """Exchanges what has gathered while the exchange before it was under way.

    Use from one event loop; `close` ends its task.
    """

    def __init__(
        self,
        exchange: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        together_max: int,
        waiting_max: int,
    ) -> None:
        """`exchange` gives an answer an item, in order, or raises `NoAnswerError`."""
        self._exchange = exchange
        self._together_max = together_max
        self._waiting_max = waiting_max
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def ask(self, item: Item) -> asyncio.Future[Answer]:
        """Gets the answer to `item`, or `NoAnswerError`."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if len(self._waiting) >= self._waiting_max:
            answer.set_exception(OverloadedError(f"{len(self._waiting)} requests wait for a shard"))
            return answer
        self._waiting.append((item, answer))
        self._came.set()
        return answer

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            count = min(len(self._waiting), self._together_max)
            taken = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting:
                self._came.clear()
            try:
                answers = await self._exchange([item for item, _ in taken])
            except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
                if isinstance(error, NoAnswerError):
                    # What waits for a shard that is away has waited enough.
                    taken += self._waiting
                    self._waiting.clear()
                    self._came.clear()
                for _, waiting in taken:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (_, waiting), answer in zip(taken, answers, strict=True):
                    if not waiting.done():
                        waiting.set_result(answer)
