"""Shards in this process: the real thing without Ray, for tests of what surrounds them."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aggregator.event import Event
from aggregator.lane import Lane, QueueLimits
from aggregator.router import Router
from aggregator.rules import Rules
from aggregator.shard import Shard, ShardSettings

NOW_MS = 1_700_000_000_000


class Clock:
    """A shard's clock, moved by the test."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def settings_of(folder: Path, number: int = 0, **changes: Any) -> ShardSettings:
    defaults: dict[str, Any] = {
        "rules": Rules(),
        "hours_kept_days": 35,
        "snapshot_events": 1_000_000,
        "snapshot_interval_s": 3600.0,
        "erase_delay_s": 3600.0,
        "segment_bytes": 1 << 20,
    }
    return ShardSettings(number, folder / f"shard-{number:04}", **(defaults | changes))


def crash(shard: Shard) -> None:
    """Lets go of the folder as a killed process does: nothing is flushed or written."""
    shard._lock.release()


@asynccontextmanager
async def router_of(shards: Iterable[Shard]) -> AsyncIterator[Router]:
    router = Router([Lane(n, shard.handle, QueueLimits()) for n, shard in enumerate(shards)])
    try:
        yield router
    finally:
        await router.close()


def watch(user: str, slug: str, start: int, stop: int, step: int = 10) -> list[Event]:
    """Someone plays a movie from second `start` to `stop`."""
    return [Event(user, slug, float(at)) for at in range(start, stop + 1, step)]
