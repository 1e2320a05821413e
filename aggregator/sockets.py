"""Where the shards of a running server listen: in a folder of its own, its owner's alone."""

import os
import tempfile
from pathlib import Path


def namespace_of(data_id: str) -> str:
    """What a server of this data calls itself in Ray."""
    return f"playhead-{data_id}"


def folder_prefix(namespace: str) -> str:
    """Short, as a socket's path may have 107 bytes; so not all of the data's id is in it."""
    return f"{namespace[:14]}-"


def folders(namespace: str) -> list[Path]:
    """Those of this user, of servers that run and of some that were killed."""
    found = Path(tempfile.gettempdir()).glob(f"{folder_prefix(namespace)}*")
    return [folder for folder in found if folder.stat().st_uid == os.getuid()]


def socket_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:04}.sock"
