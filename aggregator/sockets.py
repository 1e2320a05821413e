"""Where the shards of a running server listen: in a folder of its own, its owner's alone."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggregator import wire
from aggregator.messages import (
    Held,
    HoldRequest,
    Refused,
    Reply,
    Tabled,
    TablesRequest,
    decode_reply,
    encode_hold,
    encode_tables_request,
)

#: How long a shard may take to say all that it has in memory, or to end a checkpoint before.
ANSWER_TIMEOUT_S = 120.0


def namespace_of(data_id: str) -> str:
    """What a server of this data calls itself in Ray."""
    return f"playhead-{data_id}"


def folder_prefix(namespace: str) -> str:
    """Short, as a socket's path may have 107 bytes; so not all of the data's id is in it."""
    return f"{namespace[:14]}-"


def folders(namespace: str) -> list[Path]:
    """Those of this user, of servers that run and of some that were killed."""
    found = Path(tempfile.gettempdir()).glob(f"{folder_prefix(namespace)}*")
    return [folder for folder in found if _is_own(folder)]


def socket_path(folder: Path, shard: int) -> Path:
    """Where a shard takes all frames but queries."""
    return folder / f"shard-{shard:04}.sock"


def queries_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:04}-queries.sock"


class RunningShard:
    """A shard of a running server, asked over its socket, a connection a question."""

    def __init__(self, socket: Path, data: Path) -> None:
        """`data` is the folder of the shard's data."""
        self._socket = socket
        self._data = str(data.resolve())
        self._holder = secrets.randbits(63)

    def tables(self) -> Tabled | Refused:
        """What it has in memory; raises `OSError` if it is not there any more."""
        reply = self._ask(encode_tables_request(TablesRequest(self._data)))
        assert isinstance(reply, Tabled | Refused)
        return reply

    @contextmanager
    def holding(self, seconds: float) -> Iterator[None]:
        """It changes no file meanwhile but the newest segment of its log, for so long at most."""
        self.hold(seconds)
        try:
            yield
        finally:
            self.hold(0)

    def hold(self, seconds: float) -> Held | None:
        """Begins or renews that, or ends it with 0; None when the shard is not there."""
        request = HoldRequest(self._data, self._holder, seconds)
        try:
            reply = self._ask(encode_hold(request))
        except OSError:
            return None
        return reply if isinstance(reply, Held) else None

    def _ask(self, frame: bytes) -> Reply:
        return decode_reply(asyncio.run(_call(self._socket, frame)))


async def _call(socket: Path, frame: bytes) -> bytes:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        connection = await wire.connect(str(socket))
        try:
            return await connection.call(frame)
        finally:
            connection.close()


def find(namespace: str, shard: int, data: Path) -> RunningShard | None:
    """The shard, if it runs here, that keeps its data in the folder `data`."""
    found = (RunningShard(socket_path(folder, shard), data) for folder in folders(namespace))
    return next((running for running in found if running.hold(0) is not None), None)


def _is_own(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.getuid()
    except FileNotFoundError:  # its server has just ended
        return False
