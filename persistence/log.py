"""The log of a shard: what was accepted, in order, before it was acknowledged.

A segment is a file named by its first sequence number. It starts with a header
(16 bytes) and holds records back to back:

    segment header   magic "PHLOG\\0" | format u16 | first sequence u64
    record header    magic u32 | header CRC-32 u32 | payload CRC-32 u32 | payload bytes u32
                     kind u32 | 0 u32 | epoch u64 | sequence u64 | received_ms u64
                     producer u64 | producer's sequence u64
    payload          an encoded batch (kind EVENTS), or commands (kind COMMANDS)

The header's CRC covers the rest of the header, so with the payload's CRC in it,
all of the record. Sequences count up by one, without gaps, over all segments.

What a reader makes of a record that fails its checks, after etcd's WAL and
Redis' AOF: at the very end of the last segment it is an append that a crash cut
short, and goes; anywhere else it is damage, and the shard refuses to start.
"""

import contextlib
import errno
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from persistence.epoch import Epoch
from persistence.errors import (
    DamagedError,
    NewerFormatError,
    NotWritableError,
    SyncFailedError,
)
from persistence.files import make_folder, replace_file, sync_folder

FORMAT = 1
#: A record of one encoded batch of events.
EVENTS = 1
#: A record of encoded commands.
COMMANDS = 2
#: What must fit for a log that could not be written to be tried again.
TRIAL_BYTES = 64 << 10
#: Far above any batch that the limits admit; a longer record is not ours.
PAYLOAD_BYTES_MAX = 1 << 30

_SEGMENT = struct.Struct("<6sHQ")
_SEGMENT_MAGIC = b"PHLOG\0"
_RECORD = struct.Struct("<IIIIIIQQQQQ")
_RECORD_MAGIC = 0x44414850  # "PHAD"
_RECORD_MAGIC_BYTES = _RECORD_MAGIC.to_bytes(4, "little")
_CHECKED_FROM = 8  # the header's CRC covers what follows it

_logger = logging.getLogger(__name__)


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
        checked = _RECORD.pack(
            _RECORD_MAGIC,
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
        )[_CHECKED_FROM:]
        start = struct.pack("<II", _RECORD_MAGIC, zlib.crc32(checked))
        return b"".join((start, checked, self.payload))


class Log:
    """Appends to the newest segment; one writer an epoch.

    `append` is safe to call from a thread, one call at a time.
    """

    def __init__(self, folder: Path, epoch: Epoch, next_sequence: int, segment_bytes: int) -> None:
        """`next_sequence` is what `replay` found; a fresh segment starts there if none is open."""
        self._folder = folder
        self._epoch = epoch
        self._segment_bytes = segment_bytes
        self.next_sequence = next_sequence
        make_folder(folder)
        newest = max(segments(folder), default=None)
        if newest is None:
            self._descriptor, self._size = self._create_segment()
        else:
            self._descriptor = os.open(newest, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size

    def append(self, records: Sequence[Record]) -> None:
        """Makes `records` durable, all or none of them.

        1. See that no later incarnation has taken over (else `FencedError`).
        2. Start a new segment if this one is full.
        3. Write. If that fails, cut back to where it began: `NotWritableError`.
        4. fdatasync. If that fails, nothing is known any more: `SyncFailedError`.
        """
        self._epoch.check()
        encoded = b"".join(record.encode(self._epoch.number) for record in records)
        try:
            if self._size >= self._segment_bytes:
                self._start_segment()
            _write(self._descriptor, encoded)
        except OSError as error:
            self._cut_back()
            raise NotWritableError(_explain(error, self._folder)) from error
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise SyncFailedError(f"fdatasync of {self._folder} failed: {error}") from error
        self._size += len(encoded)
        self.next_sequence += len(records)

    def rotate(self) -> None:
        """Has the next record start a segment; raises `NotWritableError`."""
        if self._size > _SEGMENT.size:
            try:
                self._start_segment()
            except OSError as error:
                raise NotWritableError(_explain(error, self._folder)) from error

    def has_room(self) -> bool:
        """Whether a write of a page's size would succeed now."""
        trial = self._folder / "trial.tmp"
        try:
            replace_file(trial, bytes(TRIAL_BYTES))
        except OSError:
            return False
        finally:
            for path in (trial, trial.with_name(f"{trial.name}.tmp")):
                path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            raise SyncFailedError(f"cannot cut back {self._folder}: {error}") from error

    def _start_segment(self) -> None:
        full = self._descriptor
        self._descriptor, self._size = self._create_segment()
        os.close(full)

    def _create_segment(self) -> tuple[int, int]:
        path = self._folder / f"{self.next_sequence:020}.log"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _write(descriptor, _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT, self.next_sequence))
            os.fsync(descriptor)
            sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        return descriptor, _SEGMENT.size


def segments(folder: Path) -> list[Path]:
    """The segments in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob("*.log") if path.stem.isdigit())


def sizes(folder: Path) -> list[int]:
    """The bytes of each segment in `folder`, except those that are dropped meanwhile."""
    found = []
    for path in segments(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return found


def drop_before(folder: Path, sequence: int) -> None:
    """Removes the segments whose records all come before `sequence`, oldest first."""
    paths = segments(folder)
    gone = [p for p, after in pairwise(paths) if int(after.stem) <= sequence]
    for path in gone:
        path.unlink()
        sync_folder(folder)


def drop_broken_tails(folder: Path) -> None:
    """Removes what `replay` set aside."""
    for path in broken_tails(folder):
        path.unlink()
    sync_folder(folder)


def replay(folder: Path, after_sequence: int, repair: bool = True) -> Iterator[Record]:
    """Yields the records after `after_sequence`, in order, and repairs a torn tail.

    `after_sequence` is what a snapshot holds, 0 without one. Raises
    `DamagedError` where a record is missing or fails its checks, except at the
    end of the last segment: that tail is set aside in a `.broken` file beside
    the segment, and cut. Without `repair` nothing is changed, for a reader beside
    the writer: the end is where the writer has come to.
    """
    paths = segments(folder)
    if not paths and after_sequence:
        raise DamagedError(folder, 0, "there is a snapshot, and no log segment beside it")
    firsts = [int(path.stem) for path in paths]
    expected = None
    for path, first, following in zip(paths, firsts, [*firsts, None][1:], strict=True):
        if following is not None and following <= after_sequence + 1:
            continue  # all of it is in the snapshot
        if first != (min(first, after_sequence + 1) if expected is None else expected):
            raise DamagedError(path, 0, f"the records before sequence {first} are missing")
        expected = first
        for record in _read_segment(path, first, following is None, repair):
            expected = record.sequence + 1
            if record.sequence > after_sequence:
                yield record
    if expected is not None and expected <= after_sequence:
        raise DamagedError(paths[-1], 0, f"sequences {expected} to {after_sequence} are missing")


def read_segment(path: Path) -> Iterator[Record]:
    """The records of one segment, as long as they pass their checks; nothing is changed.

    Raises `DamagedError` where one does not and others follow.
    """
    if not path.stem.isdigit():
        raise DamagedError(path, 0, "a segment is named by the number of its first record")
    yield from _read_segment(path, int(path.stem), is_last=True, repair=False)


def broken_tails(folder: Path) -> list[Path]:
    """The tails that crashes cut short and `replay` set aside."""
    return sorted(folder.glob("*.broken")) if folder.is_dir() else []


def _read_segment(path: Path, first: int, is_last: bool, repair: bool) -> Iterator[Record]:
    content = path.read_bytes()
    if is_last and len(content) < _SEGMENT.size:
        if repair:
            _cut_tail(path, content, 0)  # a crash while the segment was created
            path.unlink()
            sync_folder(path.parent)
        return
    _check_segment_header(path, content, first)
    offset, sequence = _SEGMENT.size, first
    while offset < len(content):
        record = _record_at(content, offset)
        if record is None:
            if not is_last or _holds_record(content, offset + 1):
                raise DamagedError(path, offset, "a log record fails its checksum")
            if repair:
                _cut_tail(path, content, offset)
            return
        if record.sequence != sequence:
            raise DamagedError(path, offset, f"sequence {record.sequence} instead of {sequence}")
        yield record
        offset += _RECORD.size + len(record.payload)
        sequence += 1


def _check_segment_header(path: Path, content: bytes, first: int) -> None:
    if len(content) < _SEGMENT.size:
        raise DamagedError(path, len(content), "the segment is cut short")
    magic, version, named = _SEGMENT.unpack_from(content)
    if magic != _SEGMENT_MAGIC:
        raise DamagedError(path, 0, "this is not a log segment")
    if version > FORMAT:
        raise NewerFormatError(path, version, FORMAT)
    if version < 1 or named != first:
        raise DamagedError(path, len(_SEGMENT_MAGIC), "the segment's header is not its own")


def _record_at(content: bytes, offset: int) -> Record | None:
    """The record at `offset`, or None if what is there fails a check."""
    payload_start = offset + _RECORD.size
    if payload_start > len(content):
        return None
    magic, header_crc, payload_crc, size, kind, _, epoch, *numbers = _RECORD.unpack_from(
        content, offset
    )
    if magic != _RECORD_MAGIC or size > min(PAYLOAD_BYTES_MAX, len(content) - payload_start):
        return None
    if zlib.crc32(memoryview(content)[offset + _CHECKED_FROM : payload_start]) != header_crc:
        return None
    payload = memoryview(content)[payload_start : payload_start + size]
    if zlib.crc32(payload) != payload_crc:
        return None
    sequence, received_ms, producer, producer_sequence = numbers
    return Record(sequence, received_ms, producer, producer_sequence, payload, kind, epoch)


def _holds_record(content: bytes, start: int) -> bool:
    """Whether a whole record begins anywhere from `start` on."""
    offset = content.find(_RECORD_MAGIC_BYTES, start)
    while offset >= 0:
        if _record_at(content, offset) is not None:
            return True
        offset = content.find(_RECORD_MAGIC_BYTES, offset + 1)
    return False


def _cut_tail(path: Path, content: bytes, offset: int) -> None:
    tail = content[offset:]
    if tail.strip(b"\0"):  # zeros are space that was reserved and never written
        aside = path.with_name(f"{path.name}.{offset}.broken")
        replace_file(aside, tail)
        _logger.warning(
            "%s: cut %d bytes at %d that a crash left unfinished, kept in %s",
            path, len(tail), offset, aside.name,
        )  # fmt: skip
    with path.open("r+b") as file:
        file.truncate(offset)
        os.fsync(file.fileno())


def _write(descriptor: int, encoded: bytes) -> None:
    remaining = memoryview(encoded)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def _explain(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {folder}: free some, then playhead goes on by itself"
    return f"cannot write to {folder}: {error.strerror or error}"
