"""Where the shards of a running server listen: in a folder of its own, its owner's alone."""

import asyncio
import os
import tempfile
from pathlib import Path

from aggregator import wire
from aggregator.messages import (
    Refused,
    Tabled,
    TablesRequest,
    decode_reply,
    encode_tables_request,
)

#: How long a shard may take to say all that it has in memory, also while it is busy.
TABLES_TIMEOUT_S = 120.0


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
    return folder / f"shard-{shard:04}.sock"


def ask_for_tables(namespace: str, shard: int, data: Path) -> Tabled | Refused | None:
    """What the shard that keeps its data in the folder `data` has in memory.

    `Refused` when no shard says so, and one says why not; None when none runs here.
    """
    request = encode_tables_request(TablesRequest(str(data.resolve())))
    refused = None
    for folder in folders(namespace):
        reply = asyncio.run(_ask(socket_path(folder, shard), request))
        if isinstance(reply, Tabled):
            return reply
        refused = refused or reply
    return refused


async def _ask(socket: Path, request: bytes) -> Tabled | Refused | None:
    try:
        async with asyncio.timeout(TABLES_TIMEOUT_S):
            connection = await wire.connect(str(socket))
            try:
                reply = decode_reply(await connection.call(request))
            finally:
                connection.close()
    except TimeoutError:
        return Refused(f"no answer within {TABLES_TIMEOUT_S:g} s")
    except OSError:  # no server, or it has just ended
        return None
    if isinstance(reply, Tabled | Refused):
        return reply
    return Refused(f"an unexpected {type(reply).__name__}")


def _is_own(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.getuid()
    except FileNotFoundError:  # its server has just ended
        return False
