"""The log of a shard: what was accepted, in order, before it was acknowledged.

A segment is a file named by its first sequence number. It starts with a header
and holds records back to back, as `persistence.records` says:

    magic "PHLOG\\0" | format u16 | CRC-32 of what follows u32 | 0 u32
    first sequence u64 | hash of the log's owner (BLAKE2b) u64

Sequences count up by one, without gaps, over all segments.

What a reader makes of a record that fails its checks, after etcd's WAL and
Redis' AOF: at the very end of the last segment it is an append that a crash cut
short, and goes; anywhere else it is damage, and the shard refuses to start.

SYNCED, beside the segments, has the last sequence that was durable. It is written
soon after an fdatasync and never synced itself, so it may be behind, and is not ahead. A
log that ends before it has lost what was acknowledged, and is refused too. Only of
the very last record a cut is accepted, as it is what a disk that lied about its
fdatasync leaves.
"""

import contextlib
import errno
import hashlib
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
from persistence.number_file import NumberFile, read_number
from persistence.records import HEADER_BYTES, Record, Run, holds_record, is_cut, record_at

FORMAT = 2
#: What must fit for a log that could not be written to be tried again.
TRIAL_BYTES = 64 << 10

#: In the folder of the log: the last sequence that was durable.
SYNCED = "SYNCED"

_SEGMENT = struct.Struct("<6sHIIQ8s")
_SEGMENT_CHECKED = struct.Struct("<IQ8s")  # what the header's CRC covers
_SEGMENT_MAGIC = b"PHLOG\0"

_logger = logging.getLogger(__name__)


class Log:
    """Appends to the newest segment; one writer an epoch.

    `append` is safe to call from a thread, one call at a time.
    """

    def __init__(
        self, folder: Path, owner: str, epoch: Epoch, next_sequence: int, segment_bytes: int
    ) -> None:
        """`next_sequence` is what `replay` found; a fresh segment starts there if none is open."""
        self._folder = folder
        self._owner = owner
        self._epoch = epoch
        self._segment_bytes = segment_bytes
        self.next_sequence = next_sequence
        make_folder(folder)
        self._synced = NumberFile(folder / SYNCED)
        self._noted = next_sequence - 1
        try:
            self._descriptor, self._size = self._open_newest()
        except BaseException:
            self._synced.close()
            raise

    def append(self, records: Sequence[Record]) -> None:
        """Makes `records` durable, all or none of them.

        1. See that no later incarnation has taken over (else `FencedError`).
        2. Start a new segment if this one is full.
        3. Write. If that fails, cut back to where it began: `NotWritableError`.
        4. fdatasync. If that fails, nothing is known any more: `SyncFailedError`.

        Call `note_synced` when there is time.
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

    def note_synced(self) -> None:
        """Notes in SYNCED how far the log is durable, if that is new."""
        last = self.next_sequence - 1
        if last != self._noted:
            self._noted = last
            with contextlib.suppress(OSError):  # a note that is behind does no harm
                self._synced.write(last)

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
        self.note_synced()
        os.close(self._descriptor)
        self._synced.close()

    def _open_newest(self) -> tuple[int, int]:
        for draft in self._folder.glob("*.tmp"):
            draft.unlink()
        newest = max(segments(self._folder), default=None)
        noted, durable = self._synced.read(), self.next_sequence - 1
        if newest is not None and noted < durable:
            # What a process before this one did not sync may be in memory alone, and no
            # fsync tells: after one that failed, the next says that all is well.
            replace_file(newest, newest.read_bytes())
        if noted != durable:  # it is ahead where a start went on without a last record
            self._synced.write(durable)
        if newest is None:
            return self._create_segment()
        sync_folder(self._folder)  # for a process that ended before it did
        descriptor = os.open(newest, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        return descriptor, os.fstat(descriptor).st_size

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
            _write(descriptor, _segment_header(self.next_sequence, self._owner))
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


def bytes_after(folder: Path, sequence: int) -> int:
    """Those of the segments whose records all come after `sequence`."""
    return sum(path.stat().st_size for path in segments(folder) if int(path.stem) > sequence)


def parts(folder: Path, first: int, last: int, bytes_max: int) -> list[tuple[int, int]]:
    """The records `first` to `last`, cut where segments end: the first and last of each part.

    The segments of a part have at most so many bytes, unless it is one segment.
    """
    paths, begins, size = segments(folder), [first], 0
    ends = [*(int(path.stem) for path in paths[1:]), last + 1]
    for path, end in zip(paths, ends, strict=False):
        begin = max(int(path.stem), first)
        if begin < min(end, last + 1):
            more_bytes = path.stat().st_size
            if size and size + more_bytes > bytes_max:
                begins.append(begin)
                size = 0
            size += more_bytes
    return [(begin, end - 1) for begin, end in pairwise([*begins, last + 1])]


def drop_before(folder: Path, sequence: int) -> None:
    """Removes the segments whose records all come before `sequence`, oldest first."""
    paths = segments(folder)
    gone = [p for p, after in pairwise(paths) if int(after.stem) <= sequence]
    for path in gone:
        path.unlink()
        sync_folder(folder)


def drop_broken_tails(folder: Path, up_to: int) -> None:
    """Removes what `replay` set aside of segments that begin with the record `up_to`, or before."""
    for path in broken_tails(folder):
        if path.name.partition(".")[0] <= f"{up_to:020}":
            path.unlink()
    sync_folder(folder)


def replay(folder: Path, owner: str, after_sequence: int, repair: bool = True) -> Iterator[Run]:
    """Yields the records after `after_sequence`, in order and in runs; repairs a torn tail.

    `after_sequence` is what a snapshot holds, 0 without one. Raises
    `DamagedError` where a record is missing or fails its checks, except at the
    end of the last segment: that tail is set aside in a `.broken` file beside
    the segment, and cut. Without `repair` nothing is changed, for a reader beside
    the writer: the end is where the writer has come to.
    """
    reader = _Reader(owner, synced(folder), repair)
    paths = segments(folder)
    firsts = [int(path.stem) for path in paths]
    expected, before = None, folder
    for path, first, following in zip(paths, firsts, [*firsts, None][1:], strict=True):
        if following is not None and following <= after_sequence + 1:
            continue  # all of it is in the snapshot
        if expected is None and first > after_sequence + 1:
            raise DamagedError(path, 0, f"the records before sequence {first} are missing")
        if expected is not None and first != expected:
            what = f"records from {expected} on are missing, and {path} begins with {first}"
            raise DamagedError(before, before.stat().st_size, what)
        expected, before = first, path
        for run in reader.read(path, first, is_last=following is None):
            known = max(after_sequence + 1 - expected, 0)
            expected = run.last + 1
            if known < len(run):
                yield run.take(slice(known, None)) if known else run
    last = paths[-1] if paths else folder
    if (expected or 1) <= after_sequence:
        raise DamagedError(last, 0, f"sequences {expected or 1} to {after_sequence} are missing")
    reader.check_end(last, expected or 1)


def read_segment(path: Path) -> Iterator[Record]:
    """The records of one segment, as long as they pass their checks; nothing is changed.

    Raises `DamagedError` where one does not and others follow.
    """
    if not path.stem.isdigit():
        raise DamagedError(path, 0, "a segment is named by the number of its first record")
    reader = _Reader(owner=None, synced=0, repair=False)
    for run in reader.read(path, int(path.stem), is_last=True):
        yield from run


def synced(folder: Path) -> int:
    """The last sequence of which it is known that it was durable; 0 if that is not known."""
    return read_number(folder / SYNCED)


def unfinished(folder: Path) -> tuple[Path, int] | None:
    """The newest segment and the offset after its last whole record, if more bytes follow."""
    newest = max(segments(folder), default=None)
    if newest is None:
        return None
    end = _SEGMENT.size + sum(HEADER_BYTES + len(r.payload) for r in read_segment(newest))
    return (newest, end) if newest.stat().st_size != end else None


def broken_tails(folder: Path) -> list[Path]:
    """The tails that crashes cut short and `replay` set aside."""
    return sorted(folder.glob("*.broken")) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class _Reader:
    """Of segments of the log of `owner` (None: of any), which was durable up to `synced`."""

    owner: str | None
    synced: int
    repair: bool

    def read(self, path: Path, first: int, is_last: bool) -> Iterator[Run]:
        content = path.read_bytes()
        if is_last and len(content) < _SEGMENT.size and first > self.synced:
            if self.repair:
                _cut_tail(path, content, 0)  # a crash while the segment was created
                path.unlink()
                sync_folder(path.parent)
            return
        self._check_header(path, content, first)
        offset, sequence = _SEGMENT.size, first
        while offset < len(content):
            run = Run.at(content, offset, sequence)
            if run is None:
                self._see_to_end(path, content, offset, sequence, is_last)
                return
            yield run
            offset, sequence = run.end, run.last + 1

    def _see_to_end(
        self, path: Path, content: bytes, offset: int, sequence: int, is_last: bool
    ) -> None:
        """Cuts, leaves or refuses what is where the record `sequence` should be."""
        record = record_at(content, offset)
        if record is not None:
            what = f"sequence {record.sequence} instead of {sequence}"
            raise DamagedError(path, offset, what)
        is_tail = is_last and not holds_record(content, offset + 1)
        if not is_tail or (sequence <= self.synced and not is_cut(content, offset)):
            raise DamagedError(path, offset, "a log record fails its checksum")
        self.check_end(path, sequence, offset)
        if self.repair:
            _cut_tail(path, content, offset)

    def check_end(self, path: Path, following: int, offset: int = 0) -> None:
        """Refuses a log that ends before the record `following`, if more than it is missing."""
        if following < self.synced:
            raise DamagedError(
                path,
                offset,
                f"records {following} to {self.synced} were acknowledged and are not there "
                f"(without {path.with_name(SYNCED)}, playhead goes on without them)",
            )
        if following == self.synced and self.repair:
            _logger.error("%s: the last record, %d, was acknowledged and is cut", path, following)

    def _check_header(self, path: Path, content: bytes, first: int) -> None:
        if len(content) < _SEGMENT.size:
            raise DamagedError(path, len(content), "the segment is cut short")
        magic, version, crc, *_, owner_hash = _SEGMENT.unpack_from(content)
        if magic != _SEGMENT_MAGIC:
            raise DamagedError(path, 0, "this is not a log segment")
        if version > FORMAT:
            raise NewerFormatError(path, version, FORMAT)
        own_hash = owner_hash if self.owner is None else _hash_of(self.owner)
        checked = _SEGMENT_CHECKED.pack(0, first, own_hash)
        if version < FORMAT or content[_SEGMENT.size - len(checked) : _SEGMENT.size] != checked:
            raise DamagedError(path, len(_SEGMENT_MAGIC), "the segment's header is not its own")
        if crc != zlib.crc32(checked):
            raise DamagedError(path, 0, "the segment's header fails its checksum")


def _segment_header(first: int, owner: str) -> bytes:
    checked = _SEGMENT_CHECKED.pack(0, first, _hash_of(owner))
    return struct.pack("<6sHI", _SEGMENT_MAGIC, FORMAT, zlib.crc32(checked)) + checked


def _hash_of(owner: str) -> bytes:
    return hashlib.blake2b(owner.encode(), digest_size=8).digest()


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
