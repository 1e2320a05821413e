"""A loop that lingers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aggregator.linger import Linger

LINGER_S = 0.3


def waits_of(act: Callable[[], Coroutine[Any, Any, None]]) -> list[float | None]:
    """How long the loop was ready to wait each time that it went round."""
    waits_s: list[float | None] = []

    async def noting() -> None:
        loop: Any = asyncio.get_running_loop()
        select = loop._selector.select

        def noting_select(timeout: float | None) -> Any:
            waits_s.append(timeout)
            return select(timeout)

        loop._selector.select = noting_select
        await act()

    asyncio.run(noting())
    return waits_s


def test_the_loop_sleeps_again_once_it_has_lingered() -> None:
    async def linger() -> None:
        lingering = Linger(LINGER_S)
        lingering.begin()
        await asyncio.sleep(LINGER_S / 2)
        lingering.begin()
        await asyncio.sleep(4 * LINGER_S)

    waits_s = waits_of(linger)
    first_sleep = next(index for index, wait_s in enumerate(waits_s) if wait_s != 0)
    assert first_sleep > 10
    # It lingered once more from the second time on, which leaves 3 of 4: not for the two together.
    assert 2.6 * LINGER_S < (waits_s[first_sleep] or 0) < 3.3 * LINGER_S


def test_the_loop_sleeps_at_once_when_there_is_nothing_to_linger_for() -> None:
    async def linger() -> None:
        lingering = Linger(LINGER_S)
        lingering.begin()
        lingering.end()
        await asyncio.sleep(4 * LINGER_S)

    assert (max(waits_of(linger)[:3], key=lambda wait_s: wait_s or 0) or 0) > 3 * LINGER_S
