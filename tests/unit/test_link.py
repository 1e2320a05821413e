"""The way to a shard, found through Ray."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from aggregator import wire
from aggregator.description import Description
from aggregator.link import ShardLink
from aggregator.wire import Connection


def test_a_connection_alone_is_not_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two sockets one may be out of reach, as when descriptors run out; each try took one."""
    made: list[Connection] = []
    real = wire.connect

    async def connect(path: str) -> Connection:
        made.append(await real(path))
        return made[-1]

    async def describe() -> bytes:
        return msgspec.msgpack.encode(
            Description(0, "here", 1, str(tmp_path / "absent.sock"), str(queries), "", None)
        )

    queries = tmp_path / "queries.sock"
    monkeypatch.setattr(wire, "connect", connect)

    async def run() -> None:
        server = await wire.serve(queries, lambda _, respond: respond(b""))
        shard = ShardLink(0, SimpleNamespace(describe=SimpleNamespace(remote=describe)), "here", 1)
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await shard._connect()
        assert len(made) == 3
        assert all(each.transport and each.transport.is_closing() for each in made)
        await asyncio.sleep(0.05)  # its ends of the connections close
        server.close()

    asyncio.run(run())
