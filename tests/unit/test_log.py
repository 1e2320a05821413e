"""The log: what is appended comes back, whatever happened to the file since, or is refused."""

import errno
import os
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from persistence import log
from persistence.epoch import Epoch
from persistence.errors import (
    DamagedError,
    FencedError,
    NewerFormatError,
    NotWritableError,
    SyncFailedError,
)
from persistence.log import Log
from persistence.records import COMMANDS, EVENTS, Record

SEGMENT_HEADER = 32
RECORD_HEADER = 64
OWNER = "an id/1/0"


def replay(folder: Path, owner: str, after: int, repair: bool = True) -> Iterator[Record]:
    return chain.from_iterable(log.replay(folder, owner, after, repair))


def open_log(folder: Path, next_sequence: int = 1, segment_bytes: int = 1 << 20) -> Log:
    folder.mkdir(parents=True, exist_ok=True)
    return Log(folder / "log", OWNER, Epoch(folder), next_sequence, segment_bytes)


def record(sequence: int, payload: bytes | None = None) -> Record:
    return Record(sequence, 1_000 + sequence, 7, sequence, payload or b"payload %d" % sequence)


def written(folder: Path, records: int = 3) -> Path:
    """A log of one segment, closed as by a crash; returns the segment."""
    opened = open_log(folder)
    for sequence in range(1, records + 1):
        opened.append([record(sequence)])
    opened.close()
    (segment,) = log.segments(folder / "log")
    return segment


def sequences(folder: Path, after: int = 0) -> list[int]:
    return [record.sequence for record in replay(folder / "log", OWNER, after)]


def record_ends(segment: Path) -> list[int]:
    ends, offset = [], SEGMENT_HEADER
    for found in replay(segment.parent, OWNER, 0):
        offset += RECORD_HEADER + len(found.payload)
        ends.append(offset)
    return ends


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    opened = open_log(tmp_path)
    opened.append([record(1), record(2, b"")])
    opened.append([Record(3, 5_000, 2**63, 2**40, b"\0" * 100)])
    found = list(replay(tmp_path / "log", OWNER, 0))
    assert [(r.sequence, r.received_ms, bytes(r.payload)) for r in found] == [
        (1, 1_001, b"payload 1"),
        (2, 1_002, b"payload 2"),
        (3, 5_000, b"\0" * 100),
    ]
    assert (found[2].producer, found[2].producer_sequence) == (2**63, 2**40)
    assert {r.epoch for r in found} == {1}


def test_segments_roll_over_and_replay_skips_those_in_a_snapshot(tmp_path: Path) -> None:
    opened = open_log(tmp_path, segment_bytes=300)
    for sequence in range(1, 21):
        opened.append([record(sequence)])
    paths = log.segments(tmp_path / "log")
    assert len(paths) > 3
    assert sequences(tmp_path) == list(range(1, 21))
    assert sequences(tmp_path, after=13) == list(range(14, 21))
    paths[0].write_bytes(b"in a snapshot, so never read again")
    assert sequences(tmp_path, after=13) == list(range(14, 21))


def test_records_are_cut_in_parts_where_segments_end(tmp_path: Path) -> None:
    opened = open_log(tmp_path, segment_bytes=300)
    for sequence in range(1, 21):
        opened.append([record(sequence)])
    folder = tmp_path / "log"
    begins = [int(path.stem) for path in log.segments(folder)]
    segment_bytes = max(log.sizes(folder))
    each = [*zip(begins, [*(begin - 1 for begin in begins[1:]), 20], strict=True)]
    assert log.parts(folder, 1, 20, segment_bytes) == each
    assert log.parts(folder, 1, 20, 1) == each
    assert log.parts(folder, 1, 20, 20 * segment_bytes) == [(1, 20)]
    two = log.parts(folder, 1, 20, 2 * segment_bytes)
    assert two[0] == (1, begins[2] - 1)
    assert two[1][0] == begins[2]
    middle = begins[1] + 1
    assert log.parts(folder, middle, begins[3], 1) == [
        (middle, begins[2] - 1),
        (begins[2], begins[3] - 1),
        (begins[3], begins[3]),
    ]


def test_a_tail_cut_at_any_byte_is_set_aside(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, (*_, before_last, end) = segment.read_bytes(), record_ends(segment)
    for cut in range(before_last, end):
        segment.write_bytes(whole[:cut])
        assert sequences(tmp_path) == [1, 2]
        assert segment.read_bytes() == whole[:before_last]
        aside = log.broken_tails(tmp_path / "log")
        assert [path.read_bytes() for path in aside] == [whole[before_last:cut]] * (
            cut > before_last
        )
        for path in aside:
            path.unlink()


def test_recovering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    segment = written(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-3])
    assert sequences(tmp_path) == [1, 2]
    repaired = segment.read_bytes()
    assert sequences(tmp_path) == [1, 2]
    assert segment.read_bytes() == repaired


def test_a_segment_cut_while_it_was_created_goes(tmp_path: Path) -> None:
    segment = written(tmp_path)
    for size in range(SEGMENT_HEADER):
        cut = segment.with_name(f"{4:020}.log")
        cut.write_bytes(segment.read_bytes()[:size])
        assert sequences(tmp_path) == [1, 2, 3]
        assert not cut.exists()


def test_a_tail_of_zeros_is_a_clean_end(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole = segment.read_bytes()
    segment.write_bytes(whole + bytes(4096))
    assert sequences(tmp_path) == [1, 2, 3]
    assert segment.read_bytes() == whole
    assert log.broken_tails(tmp_path / "log") == []


def test_a_flipped_bit_in_the_middle_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, (first_end, *_) = segment.read_bytes(), record_ends(segment)
    for offset in range(first_end):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            segment.write_bytes(damaged)
            with pytest.raises((DamagedError, NewerFormatError)) as refusal:
                sequences(tmp_path)
            assert str(segment) in str(refusal.value)
            assert segment.read_bytes() == damaged


def test_a_flipped_bit_in_the_last_record_is_damage_if_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    segment = written(tmp_path)
    whole, (*_, start, end) = segment.read_bytes(), record_ends(segment)
    for offset in range(start, end):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        segment.write_bytes(damaged)
        with pytest.raises(DamagedError, match="fails its checksum"):
            sequences(tmp_path)
        assert segment.read_bytes() == damaged
    segment.with_name(log.SYNCED).unlink()  # as if it was not
    assert sequences(tmp_path) == [1, 2]
    assert segment.read_bytes() == whole[:start]


def test_a_log_that_ends_before_what_was_acknowledged_is_refused(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, (_, before_last, end) = segment.read_bytes(), record_ends(segment)
    for cut in range(before_last):
        segment.write_bytes(whole[:cut])
        with pytest.raises(DamagedError, match=r"acknowledged|cut short") as refusal:
            sequences(tmp_path)
        assert str(segment) in str(refusal.value)
        assert segment.read_bytes() == whole[:cut]
    segment.unlink()
    with pytest.raises(DamagedError, match="records 1 to 3 were acknowledged"):
        sequences(tmp_path)
    segment.write_bytes(whole[: end - 1])
    assert sequences(tmp_path) == [1, 2]


def test_a_segment_of_one_acknowledged_record_is_not_taken_for_one_being_created(
    tmp_path: Path,
) -> None:
    segment = written(tmp_path, records=1)
    whole = segment.read_bytes()
    for size in range(SEGMENT_HEADER):
        segment.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match="cut short") as refusal:
            sequences(tmp_path)
        assert str(segment) in str(refusal.value)
        assert segment.read_bytes() == whole[:size]


def test_a_segment_that_ends_too_early_is_named_and_not_the_one_after(tmp_path: Path) -> None:
    """As an older version of it does, whose records are whole."""
    opened = open_log(tmp_path, segment_bytes=200)
    for sequence in range(1, 9):
        opened.append([record(sequence)])
    first, second, *_ = log.segments(tmp_path / "log")
    end = SEGMENT_HEADER + RECORD_HEADER + len(b"payload 1")
    first.write_bytes(first.read_bytes()[:end])
    with pytest.raises(DamagedError, match=f"2 on are missing, and {second}") as refusal:
        sequences(tmp_path)
    assert (refusal.value.path, refusal.value.offset) == (first, end)


def test_bytes_after_the_last_record_are_found(tmp_path: Path) -> None:
    assert log.unfinished(tmp_path / "log") is None
    segment = written(tmp_path)
    whole, (*_, before_last, end) = segment.read_bytes(), record_ends(segment)
    assert log.unfinished(tmp_path / "log") is None
    for content, place in ((whole + b"\0", end), (whole[:-1], before_last), (whole[:9], 32)):
        segment.write_bytes(content)
        assert log.unfinished(tmp_path / "log") == (segment, place)


def test_what_is_not_known_to_be_acknowledged_may_be_cut(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole = segment.read_bytes()
    synced = segment.with_name(log.SYNCED)
    for content in (b"", bytes(12), None):
        synced.unlink() if content is None else synced.write_bytes(content)
        segment.write_bytes(whole[: SEGMENT_HEADER + 1])
        assert sequences(tmp_path) == []


def test_a_start_that_goes_on_without_the_last_record_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The note stayed ahead, and a segment that was cut while it was created was refused."""
    segment = written(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-1])
    assert sequences(tmp_path) == [1, 2]
    open_log(tmp_path, next_sequence=3).close()
    assert log.synced(tmp_path / "log") == 2
    caplog.clear()
    segment.with_name(f"{3:020}.log").write_bytes(b"PHLOG")
    assert sequences(tmp_path) == [1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_is_not_known_to_be_synced_is_written_anew(tmp_path: Path) -> None:
    segment = written(tmp_path)
    content, file = segment.read_bytes(), segment.stat().st_ino
    open_log(tmp_path, next_sequence=4).close()
    assert segment.stat().st_ino == file  # it is known
    segment.with_name(log.SYNCED).unlink()
    segment.with_name(f"{segment.name}.tmp").write_bytes(b"cut short")
    open_log(tmp_path, next_sequence=4).close()
    assert segment.stat().st_ino != file
    assert segment.read_bytes() == content
    assert log.synced(tmp_path / "log") == 3
    assert list(segment.parent.glob("*.tmp")) == []


def test_a_full_disk_keeps_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = written(tmp_path)
    segment.with_name(log.SYNCED).unlink()
    content = segment.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        open_log(tmp_path, next_sequence=4)
    monkeypatch.undo()
    assert {path.suffix for path in segment.parent.iterdir()} <= {".log", ""}
    assert segment.read_bytes() == content


def test_a_damaged_note_of_what_was_acknowledged_is_refused(tmp_path: Path) -> None:
    synced = written(tmp_path).with_name(log.SYNCED)
    whole = synced.read_bytes()
    for content in [whole[:5], *(whole[:at] + b"!" + whole[at + 1 :] for at in range(len(whole)))]:
        synced.write_bytes(content)
        with pytest.raises(DamagedError, match="SYNCED is damaged"):
            sequences(tmp_path)


def test_the_log_of_another_is_refused(tmp_path: Path) -> None:
    segment = written(tmp_path)
    with pytest.raises(DamagedError, match="not its own") as refusal:
        list(replay(tmp_path / "log", "another/1/0", 0))
    assert str(segment) in str(refusal.value)


def test_a_huge_length_is_not_believed(tmp_path: Path) -> None:
    segment = written(tmp_path, records=1)
    whole = segment.read_bytes()
    huge = bytearray(whole)
    huge[SEGMENT_HEADER + 12 : SEGMENT_HEADER + 16] = (2**32 - 1).to_bytes(4, "little")
    checked = bytes(huge[SEGMENT_HEADER + 8 : SEGMENT_HEADER + RECORD_HEADER])
    huge[SEGMENT_HEADER + 4 : SEGMENT_HEADER + 8] = zlib.crc32(checked).to_bytes(4, "little")
    segment.write_bytes(huge)
    assert sequences(tmp_path) == []


def test_damage_before_the_last_segment_is_never_a_tail(tmp_path: Path) -> None:
    opened = open_log(tmp_path, segment_bytes=200)
    for sequence in range(1, 9):
        opened.append([record(sequence)])
    first, *_, last = log.segments(tmp_path / "log")
    whole = first.read_bytes()
    for size in range(len(whole)):
        first.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"\.log"):
            sequences(tmp_path)
    first.write_bytes(whole)
    last.rename(last.with_name(f"{999:020}.log"))
    with pytest.raises(DamagedError):
        sequences(tmp_path)


def test_missing_segments_are_noticed(tmp_path: Path) -> None:
    opened = open_log(tmp_path, segment_bytes=200)
    for sequence in range(1, 9):
        opened.append([record(sequence)])
    first, second, *_ = log.segments(tmp_path / "log")
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(DamagedError, match="missing"):
        sequences(tmp_path)
    second.write_bytes(content)
    first.unlink()
    with pytest.raises(DamagedError, match="missing"):
        sequences(tmp_path)


def test_a_log_behind_its_snapshot_is_refused(tmp_path: Path) -> None:
    segment = written(tmp_path)
    with pytest.raises(DamagedError, match="4 to 5 are missing"):
        sequences(tmp_path, after=5)
    segment.unlink()
    with pytest.raises(DamagedError):
        sequences(tmp_path, after=3)


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    segment = written(tmp_path)
    content = bytearray(segment.read_bytes())
    content[6] = log.FORMAT + 1
    segment.write_bytes(content)
    with pytest.raises(NewerFormatError, match="the version that wrote it"):
        sequences(tmp_path)


def test_an_older_incarnation_is_fenced(tmp_path: Path) -> None:
    old = open_log(tmp_path)
    old.append([record(1)])
    new = open_log(tmp_path, next_sequence=2)
    with pytest.raises(FencedError):
        old.append([record(2)])
    new.append([record(2)])
    assert [r.epoch for r in replay(tmp_path / "log", OWNER, 0)] == [1, 2]


def test_after_a_rotation_the_next_record_starts_a_segment(tmp_path: Path) -> None:
    opened = open_log(tmp_path)
    opened.rotate()  # there is nothing to close
    assert [path.stem for path in log.segments(tmp_path / "log")] == [f"{1:020}"]
    opened.append([record(1), record(2)])
    opened.rotate()
    opened.rotate()
    assert [int(path.stem) for path in log.segments(tmp_path / "log")] == [1, 3]
    assert sequences(tmp_path) == [1, 2]
    opened.append([record(3)])
    assert [int(path.stem) for path in log.segments(tmp_path / "log")] == [1, 3]
    assert sequences(tmp_path) == [1, 2, 3]
    opened.close()
    again = open_log(tmp_path, next_sequence=4)
    again.append([record(4)])
    assert sequences(tmp_path, after=2) == [3, 4]
    assert sum(log.sizes(tmp_path / "log")) == sum(
        path.stat().st_size for path in log.segments(tmp_path / "log")
    )


def test_a_rotation_that_fails_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_log(tmp_path)
    opened.append([record(1)])

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(NotWritableError, match="free some"):
            opened.rotate()
    assert [int(path.stem) for path in log.segments(tmp_path / "log")] == [1]
    opened.append([record(2)])
    assert sequences(tmp_path) == [1, 2]
    opened.rotate()
    opened.append([record(3)])
    assert [int(path.stem) for path in log.segments(tmp_path / "log")] == [1, 3]


def test_what_comes_before_a_record_is_dropped(tmp_path: Path) -> None:
    opened = open_log(tmp_path)
    for sequence in range(1, 10):
        opened.append([record(sequence)])
        if sequence % 3 == 0:
            opened.rotate()  # segments from 1, 4, 7 and 10 on
    for before, firsts in ((1, [1, 4, 7, 10]), (3, [1, 4, 7, 10]), (4, [4, 7, 10]), (9, [7, 10])):
        log.drop_before(tmp_path / "log", before)
        assert [int(path.stem) for path in log.segments(tmp_path / "log")] == firsts
    assert sequences(tmp_path, after=6) == [7, 8, 9]
    with pytest.raises(DamagedError, match="before sequence 7 are missing"):
        sequences(tmp_path, after=5)
    log.drop_before(tmp_path / "log", 1_000)
    assert [int(path.stem) for path in log.segments(tmp_path / "log")] == [10]  # never the newest
    opened.append([record(10)])
    assert sequences(tmp_path, after=9) == [10]
    log.drop_before(tmp_path / "absent", 5)


def test_segments_are_dropped_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a crash in between leaves no gap."""
    opened = open_log(tmp_path, segment_bytes=50)
    for sequence in range(1, 6):
        opened.append([record(sequence)])
    gone: list[int] = []
    real = Path.unlink

    def unlink(path: Path) -> None:
        if len(gone) == 2:
            raise OSError(errno.EIO, "Input/output error")
        gone.append(int(path.stem))
        real(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(OSError, match="Input/output"):
        log.drop_before(tmp_path / "log", 5)
    assert gone == [1, 2]
    assert sequences(tmp_path, after=3) == [4, 5]


def test_a_segment_dropped_meanwhile_has_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics failed while a checkpoint dropped segments."""
    segment = written(tmp_path)
    found = [segment.with_name("gone.log"), segment]
    monkeypatch.setattr(log, "segments", lambda _: found)
    assert log.sizes(tmp_path / "log") == [segment.stat().st_size]


def test_tails_set_aside_are_dropped_when_told(tmp_path: Path) -> None:
    segment = written(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-1])
    assert sequences(tmp_path) == [1, 2]
    assert len(log.broken_tails(tmp_path / "log")) == 1
    log.drop_broken_tails(tmp_path / "log", up_to=0)
    assert len(log.broken_tails(tmp_path / "log")) == 1, "it is of what came later"
    log.drop_broken_tails(tmp_path / "log", up_to=1)
    assert log.broken_tails(tmp_path / "log") == []
    assert sequences(tmp_path) == [1, 2]


def test_a_reader_beside_the_writer_repairs_nothing(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, (*_, before_last, end) = segment.read_bytes(), record_ends(segment)
    for cut in range(before_last, end):
        segment.write_bytes(whole[:cut])
        found = [r.sequence for r in replay(tmp_path / "log", OWNER, 0, repair=False)]
        assert found == [1, 2]
        assert segment.read_bytes() == whole[:cut]
    segment.write_bytes(whole + bytes(100))
    assert len(list(replay(tmp_path / "log", OWNER, 0, repair=False))) == 3
    created = segment.with_name(f"{4:020}.log")
    for size in range(SEGMENT_HEADER):
        segment.write_bytes(whole)
        created.write_bytes(segment.read_bytes()[:size])
        assert len(list(replay(tmp_path / "log", OWNER, 0, repair=False))) == 3
        assert created.stat().st_size == size
    assert not log.broken_tails(tmp_path / "log")


def test_a_reader_beside_the_writer_refuses_damage(tmp_path: Path) -> None:
    segment = written(tmp_path)
    damaged = bytearray(segment.read_bytes())
    damaged[SEGMENT_HEADER + 20] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(DamagedError, match="checksum"):
        list(replay(tmp_path / "log", OWNER, 0, repair=False))
    assert segment.read_bytes() == damaged


def test_records_keep_their_kind(tmp_path: Path) -> None:
    opened = open_log(tmp_path)
    kinds = [EVENTS, COMMANDS, COMMANDS, EVENTS, 7]
    opened.append([Record(n, 0, 1, n, b"x", kind) for n, kind in enumerate(kinds, 1)])
    assert [found.kind for found in replay(tmp_path / "log", OWNER, 0)] == kinds


def test_a_failed_write_leaves_nothing_behind_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_log(tmp_path)
    opened.append([record(1)])
    real_write = os.write

    def write_half_then_fail(descriptor: int, data: bytes | memoryview) -> int:
        real_write(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half_then_fail)
        with pytest.raises(NotWritableError, match="free some"):
            opened.append([record(2)])
    assert sequences(tmp_path) == [1]
    opened.append([record(2)])
    assert sequences(tmp_path) == [1, 2]


def test_room_is_tried_for_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_log(tmp_path)
    before = sorted((tmp_path / "log").iterdir())
    assert opened.has_room()

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert not opened.has_room()
    assert sorted((tmp_path / "log").iterdir()) == before


def test_a_failed_fsync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_log(tmp_path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(SyncFailedError):
        opened.append([record(1)])


def test_a_damaged_epoch_is_refused(tmp_path: Path) -> None:
    assert Epoch(tmp_path).number == 1
    assert Epoch(tmp_path).number == 2
    path = tmp_path / "EPOCH"
    whole = path.read_bytes()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="EPOCH"):
            Epoch(tmp_path)
    path.write_bytes(bytes(len(whole)))
    assert Epoch(tmp_path).number == 1
