"""The records of a log, which lie back to back (little-endian):

    header     magic u32 | header CRC-32 u32 | payload CRC-32 u32 | payload bytes u32
               kind u32 | 0 u32 | epoch u64 | sequence u64 | received_ms u64
               producer u64 | producer's sequence u64
    payload    an encoded batch (kind EVENTS), or commands (kind COMMANDS)

The header's CRC covers the rest of the header, so with the payload's CRC in it,
all of the record.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels import records as kernels

#: A record of one encoded batch of events.
EVENTS = 1
#: A record of encoded commands.
COMMANDS = 2
#: Far above any batch that the limits admit; a longer record is not ours.
PAYLOAD_BYTES_MAX = 1 << 30
#: Records are read together up to here: enough for vectors, little to hold.
RUN_RECORDS_MAX = 1 << 14
RUN_BYTES_MAX = 8 << 20

_HEADER = struct.Struct("<IIIIIIQQQQQ")
_MAGIC_BYTES = kernels.MAGIC.to_bytes(4, "little")

HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Record:
    """One appended payload. `received_ms` is Unix time by the shard's clock."""

    sequence: int
    received_ms: int
    producer: int
    producer_sequence: int
    payload: bytes | memoryview
    kind: int = EVENTS
    epoch: int = 0

    def encode(self, epoch: int) -> bytes:
        checked = _HEADER.pack(
            kernels.MAGIC,
            0,
            zlib.crc32(self.payload),
            len(self.payload),
            self.kind,
            0,
            epoch,
            self.sequence,
            self.received_ms,
            self.producer,
            self.producer_sequence,
        )[kernels.CHECKED_FROM :]
        start = struct.pack("<II", kernels.MAGIC, zlib.crc32(checked))
        return b"".join((start, checked, self.payload))


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one kind in the order of a segment."""

    #: The whole segment.
    content: bytes
    kind: int
    #: Of each what `kernels.records.RECORD` has.
    rows: NDArray[np.void]

    @classmethod
    def at(
        cls, content: bytes, offset: int, sequence: int, records_max: int = RUN_RECORDS_MAX
    ) -> "Run | None":
        """What passes its checks from `offset` on, where the record `sequence` should be.

        None if that one does not, or is another.
        """
        room = min(records_max, (len(content) - offset) // HEADER_BYTES)
        rows = np.empty(room, kernels.RECORD)
        count, kind = kernels.scan(
            np.frombuffer(content, np.uint8),
            offset,
            np.uint64(sequence),
            PAYLOAD_BYTES_MAX,
            RUN_BYTES_MAX,
            rows,
        )
        return cls(content, kind, rows[:count].copy()) if count else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        payloads = memoryview(self.content)
        for start, size, epoch, sequence, received_ms, producer, numbered in self.rows.tolist():
            payload = payloads[start : start + size]
            yield Record(sequence, received_ms, producer, numbered, payload, self.kind, epoch)

    def take(self, which: slice | NDArray[np.intp]) -> "Run":
        """Those of these indexes."""
        return Run(self.content, self.kind, self.rows[which])

    @property
    def last(self) -> int:
        """The sequence of the last one."""
        return int(self.rows["sequence"][-1])

    @property
    def end(self) -> int:
        """Where the last one ends."""
        return int(self.rows["start"][-1] + self.rows["size"][-1])

    def holding(self, text: bytes) -> "Run":
        """Those whose payloads have this text, and maybe some others."""
        starts, ends = self.rows["start"], (self.rows["start"] + self.rows["size"]).tolist()
        found, at = [], int(starts[0])
        while (at := self.content.find(text, at, ends[-1])) >= 0:
            index = int(starts.searchsorted(at, "right")) - 1
            found.append(index)
            at = max(at + 1, ends[index])
        return self.take(np.unique(np.array(found, np.intp)))


def record_at(content: bytes, offset: int) -> Record | None:
    """The record at `offset`, or None if what is there fails a check."""
    if offset + HEADER_BYTES > len(content):
        return None
    sequence = _HEADER.unpack_from(content, offset)[7]
    run = Run.at(content, offset, sequence, records_max=1)
    return None if run is None else next(iter(run))


def holds_record(content: bytes, start: int) -> bool:
    """Whether a whole record begins anywhere from `start` on."""
    offset = content.find(_MAGIC_BYTES, start)
    while offset >= 0:
        if record_at(content, offset) is not None:
            return True
        offset = content.find(_MAGIC_BYTES, offset + 1)
    return False


def is_cut(content: bytes, offset: int) -> bool:
    """Whether the record at `offset` goes on where the file ends."""
    if len(content) - offset < HEADER_BYTES:
        return True
    header = content[offset : offset + HEADER_BYTES]
    magic, crc, _, size, *_ = _HEADER.unpack(header)
    is_header = magic == kernels.MAGIC and zlib.crc32(header[kernels.CHECKED_FROM :]) == crc
    return bool(is_header and size > len(content) - offset - HEADER_BYTES)
