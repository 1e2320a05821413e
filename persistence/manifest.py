"""Manifests: what describes a folder, as JSON that people can read, with a checksum.

The checksum is over what the JSON says, so another layout of it is no damage.
"""

import zlib
from pathlib import Path
from typing import TypeVar

import msgspec

from persistence.errors import DamagedError, NewerFormatError
from persistence.files import replace_file

NAME = "MANIFEST.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What all manifests have."""

    format: int
    #: Of the file; 0 in memory.
    crc32: int = 0


M = TypeVar("M", bound=Manifest)


def write(folder: Path, manifest: Manifest) -> None:
    """Replaces the folder's manifest, durably."""
    checked = msgspec.structs.replace(manifest, crc32=_checksum(manifest))
    replace_file(folder / NAME, msgspec.json.format(msgspec.json.encode(checked)))


def read(folder: Path, expected: type[M], known: int) -> M:
    """The folder's manifest; `known` is the format that this version writes.

    Raises `DamagedError`, which names the file, or `NewerFormatError`.
    """
    path = folder / NAME
    try:
        content = path.read_bytes()
        version = msgspec.json.decode(content).get("format")
        if isinstance(version, int) and version > known:
            raise NewerFormatError(path, version, known)
        if isinstance(version, int) and version < known:
            raise DamagedError(path, 0, f"format {version} is not read any more")
        manifest = msgspec.json.decode(content, type=expected)
    except (OSError, ValueError, RecursionError, AttributeError, msgspec.DecodeError) as error:
        raise DamagedError(path, 0, f"the manifest cannot be read ({error})") from error
    if manifest.crc32 != _checksum(manifest):
        raise DamagedError(path, 0, "the manifest's checksum does not match")
    return msgspec.structs.replace(manifest, crc32=0)


def _checksum(manifest: Manifest) -> int:
    return zlib.crc32(msgspec.json.encode(msgspec.structs.replace(manifest, crc32=0)))
