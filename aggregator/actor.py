"""The Ray actor around a shard. Ray places it, restarts it and finds it by name."""

from aggregator import collector
from aggregator.shard_settings import ShardSettings


class ShardActor:
    """A `ShardHost`, which is loaded where Ray places it.

    The server hands this class to Ray, and does without all that a shard is made of.
    """

    def __init__(self, settings: ShardSettings, socket_folder: str, log_level: str) -> None:
        """As `ShardHost`."""
        with collector.paused():
            from aggregator.host import ShardHost  # noqa: PLC0415 - see above

            self._host = ShardHost(settings, socket_folder, log_level)

    async def handle(self, frame: bytes) -> bytes:
        """As `ShardHost.handle`."""
        return await self._host.handle(frame)

    async def describe(self) -> bytes:
        """As `ShardHost.describe`."""
        return await self._host.describe()

    async def close(self) -> None:
        """As `ShardHost.close`."""
        await self._host.close()
