"""Frames over the Unix socket."""

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from aggregator import wire
from aggregator.wire import ConnectionLostError
from tests.shards import in_tasks


async def shout(body: bytes) -> bytes:
    await asyncio.sleep(0.001 * (len(body) % 3))
    return body.upper()


def test_calls_overlap_and_each_gets_its_reply(tmp_path: Path) -> None:
    async def run() -> None:
        server = await wire.serve(tmp_path / "s.sock", in_tasks(shout))
        connection = await wire.connect(str(tmp_path / "s.sock"))
        bodies = [b"a" * size for size in (0, 1, 2, 70_000, 3, 3_000_000, 5)]
        replies = await asyncio.gather(*map(connection.call, bodies))
        assert replies == [body.upper() for body in bodies]
        connection.close()
        server.close()

    asyncio.run(run())


def test_a_lost_connection_fails_every_call_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        stuck = asyncio.Event()

        async def never(_: bytes) -> bytes:
            await stuck.wait()
            return b""

        server = await wire.serve(tmp_path / "s.sock", in_tasks(never))
        connection = await wire.connect(str(tmp_path / "s.sock"))
        calls = [asyncio.create_task(connection.call(b"x")) for _ in range(3)]
        await asyncio.sleep(0.01)
        connection.close()
        for call in calls:
            with pytest.raises(ConnectionLostError):
                await call
        with pytest.raises(ConnectionLostError):
            await connection.call(b"x")
        stuck.set()
        server.close()

    asyncio.run(run())


def test_what_waits_for_a_shard_that_does_not_read_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders give frames up and send others while the disk stalls."""
    monkeypatch.setattr(wire, "UNREAD_BYTES_MAX", 1 << 20)
    frame = bytes(1 << 18)

    async def run() -> None:
        path = str(tmp_path / "s.sock")
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(path)
            deaf.listen()
            connection = await wire.connect(path)
            calls = [asyncio.create_task(connection.call(frame)) for _ in range(30)]
            done, _ = await asyncio.wait(calls, timeout=20)
            assert done == set(calls)
            for call in calls:
                with pytest.raises(ConnectionLostError):
                    await call

    asyncio.run(run())


def test_an_impossible_length_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        server = await wire.serve(tmp_path / "s.sock", in_tasks(shout))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s.sock"))
        writer.write(b"\xff" * 8)
        assert await reader.read() == b""
        writer.close()
        server.close()

    asyncio.run(run())


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "folder" / "s.sock"
        server = await wire.serve(path, in_tasks(shout))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        server.close()

    asyncio.run(run())
