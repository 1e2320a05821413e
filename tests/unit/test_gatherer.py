"""Many small requests, one exchange under way: each caller gets its own answer, or why not."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from aggregator.errors import NoAnswerError, OverloadedError, ShardsUnavailableError
from aggregator.gatherer import Gatherer


class Exchange:
    """Answers each number with its square, when told to."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.asked.append(items)
        await self.gate.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return [item * item for item in items]


def gatherer_test(
    test: Callable[[Gatherer[int, int], Exchange], Coroutine[Any, Any, None]],
    together_max: int = 100,
    waiting_max: int = 100,
) -> None:
    async def run() -> None:
        exchange = Exchange()
        gatherer = Gatherer[int, int](exchange, together_max, waiting_max)
        try:
            await test(gatherer, exchange)
        finally:
            await gatherer.close()

    asyncio.run(run())


async def ask_all(gatherer: Gatherer[int, int], *items: int) -> list[asyncio.Future[int]]:
    asked = [gatherer.ask(item) for item in items]
    for _ in range(10):
        await asyncio.sleep(0)
    return asked


def test_what_comes_meanwhile_goes_together_next() -> None:
    async def test(gatherer: Gatherer[int, int], exchange: Exchange) -> None:
        first = await ask_all(gatherer, 1)
        others = await ask_all(gatherer, 2, 3, 4)
        assert exchange.asked == [[1]]
        exchange.gate.set()
        assert await asyncio.gather(*first, *others) == [1, 4, 9, 16]
        assert exchange.asked == [[1], [2, 3, 4]]
        assert await gatherer.ask(5) == 25

    gatherer_test(test)


def test_no_more_than_so_many_go_together() -> None:
    async def test(gatherer: Gatherer[int, int], exchange: Exchange) -> None:
        exchange.gate.set()
        tasks = await ask_all(gatherer, *range(7))
        assert await asyncio.gather(*tasks) == [n * n for n in range(7)]
        assert exchange.asked == [[0, 1, 2], [3, 4, 5], [6]]

    gatherer_test(test, together_max=3)


def test_no_more_than_so_many_wait() -> None:
    async def test(gatherer: Gatherer[int, int], exchange: Exchange) -> None:
        tasks = await ask_all(gatherer, 0)
        tasks += await ask_all(gatherer, 1, 2)
        with pytest.raises(OverloadedError, match="2 requests wait"):
            await gatherer.ask(3)
        exchange.gate.set()
        assert await asyncio.gather(*tasks) == [0, 1, 4]
        assert await gatherer.ask(3) == 9

    gatherer_test(test, waiting_max=2)


def test_who_goes_away_takes_nothing_from_the_others() -> None:
    async def test(gatherer: Gatherer[int, int], exchange: Exchange) -> None:
        under_way = await ask_all(gatherer, 1, 2)
        waiting = await ask_all(gatherer, 3, 4)
        for gone in (under_way[0], waiting[0]):
            gone.cancel()
        exchange.gate.set()
        assert await under_way[1] == 4
        assert await waiting[1] == 16
        assert await gatherer.ask(5) == 25

    gatherer_test(test)


@pytest.mark.parametrize(
    ("error", "reaches_waiting"),
    [
        (ShardsUnavailableError({0: "away"}), True),
        (NoAnswerError("no"), True),
        (ValueError(), False),
    ],
)
def test_an_error_reaches_its_callers(error: Exception, reaches_waiting: bool) -> None:
    """And those that wait, if the shard is away: they have waited enough."""

    async def test(gatherer: Gatherer[int, int], exchange: Exchange) -> None:
        under_way = await ask_all(gatherer, 1, 2)
        waiting = await ask_all(gatherer, 3)
        exchange.error = error
        exchange.gate.set()
        results = await asyncio.gather(*under_way, *waiting, return_exceptions=True)
        assert results[:2] == [error, error]
        assert results[2] == (error if reaches_waiting else 9)
        assert await gatherer.ask(4) == 16
        assert exchange.asked == ([[1, 2], [4]] if reaches_waiting else [[1, 2], [3], [4]])

    gatherer_test(test)
