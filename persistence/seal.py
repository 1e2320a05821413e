"""Checksums for all of a Parquet file, where other readers pass over them (little-endian):

    row groups                        as ever
    CRC-32 of each row group u32      the first one from the start of the file on
    CRC-32 of the footer u32
    footer | its bytes u32 | "PAR1"   as ever

Parquet's own are for the content of pages alone. A flipped bit elsewhere can hide
rows, change them, or abort the process that reads them. So no byte is parsed
before it was checked.
"""

import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from persistence.errors import DamagedError

_MAGIC = b"PAR1"
_TAIL = struct.Struct("<I4s")  # the footer's bytes, magic
_CHECKSUM = struct.Struct("<I")


def sealed(content: pa.Buffer) -> pa.Buffer:
    """A Parquet file with its checksums. Offsets in it count from the start, and stay right."""
    footer_bytes, _ = _TAIL.unpack(content[-_TAIL.size :])
    end = content.size - _TAIL.size - footer_bytes
    bounds = [*_starts(pq.read_metadata(pa.BufferReader(content))), end]
    parts = [content.slice(start, after - start) for start, after in pairwise(bounds)]
    parts.append(content.slice(end, footer_bytes))
    checksums = [_CHECKSUM.pack(zlib.crc32(part)) for part in parts]
    return pa.py_buffer(b"".join((content.slice(0, end), *checksums, content.slice(end))))


class Seal:
    """The checksums of an open file."""

    def __init__(self, path: Path, source: pa.NativeFile) -> None:
        """Raises `DamagedError` if the footer is not what was written."""
        self._path = path
        self._source = source
        footer = self._checked_footer()
        #: What the footer says.
        self.metadata: pq.FileMetaData = pq.read_metadata(source)
        starts = _starts(self.metadata)
        self._checksums = footer - (len(starts) + 1) * _CHECKSUM.size
        self._bounds = [*starts, self._checksums]
        self._whole = set[int]()

    def check(self, group: int) -> None:
        """Raises `DamagedError` if a row group is not what was written."""
        if group in self._whole:
            return
        start, end = self._bounds[group : group + 2]
        checksum = self._checksum(self._checksums + group * _CHECKSUM.size)
        if zlib.crc32(self._read(start, end)) != checksum:
            raise DamagedError(self._path, start, "the checksum of a row group does not match")
        self._whole.add(group)

    def _checked_footer(self) -> int:
        """Where the footer begins."""
        size = self._source.size()
        end = size - _TAIL.size
        footer_bytes, magic = _TAIL.unpack(self._read(end, size))
        if magic != _MAGIC:
            raise DamagedError(self._path, end, "it does not end as a Parquet file does")
        start = int(end - footer_bytes)
        checksum = self._checksum(start - _CHECKSUM.size)
        if zlib.crc32(self._read(start, end)) != checksum:
            raise DamagedError(self._path, start, "the checksum of its footer does not match")
        return start

    def _checksum(self, offset: int) -> int:
        (checksum,) = _CHECKSUM.unpack(self._read(offset, offset + _CHECKSUM.size))
        return int(checksum)

    def _read(self, start: int, end: int) -> bytes:
        if start < 0:
            raise DamagedError(self._path, 0, "it is too short for what its end says")
        self._source.seek(start)
        content: bytes = self._source.read(end - start)
        return content


def _starts(metadata: pq.FileMetaData) -> list[int]:
    """Where the row groups begin; what is before the first one counts as part of it."""
    firsts = [metadata.row_group(group).column(0) for group in range(1, metadata.num_row_groups)]
    return [
        0,
        *(
            chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            for chunk in firsts
        ),
    ]
