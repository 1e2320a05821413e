"""The records of a log, found by columns: those that a plain reader finds, and no others."""

import struct
import zlib
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import records as kernels
from persistence import records
from persistence.records import HEADER_BYTES, Record, Run, holds_record, record_at

EPOCH = 3
U63 = st.integers(0, 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)


@st.composite
def some_records(draw: st.DrawFn) -> list[Record]:
    """In a row, of a few kinds, as `Log` would append them."""
    first = draw(st.integers(1, 2**40))
    return [
        Record(
            sequence,
            draw(U63),
            draw(U64),
            draw(U64),
            draw(payloads),
            draw(st.integers(1, 2)),
            EPOCH,
        )
        for sequence in range(first, first + draw(st.integers(0, 6)))
    ]


#: Of all lengths that a checksum takes in another way, with what may be taken for a record.
payloads = st.binary(max_size=200) | st.just(kernels.MAGIC.to_bytes(4, "little") * 30)


def laid_out(found: Sequence[Record], before: bytes = b"") -> bytes:
    return before + b"".join(record.encode(EPOCH) for record in found)


def read_plainly(content: bytes, offset: int, sequence: int) -> list[Record]:
    """From the text in `persistence.records`, one after the other."""
    found = []
    while offset + HEADER_BYTES <= len(content):
        header = content[offset : offset + HEADER_BYTES]
        magic, crc, payload_crc, size, kind, _, epoch, *numbers = struct.unpack("<6I5Q", header)
        number, received_ms, producer, producer_sequence = numbers
        payload = content[offset + HEADER_BYTES : offset + HEADER_BYTES + size]
        if magic != kernels.MAGIC or len(payload) < size or crc != zlib.crc32(header[8:]):
            break
        if payload_crc != zlib.crc32(payload) or number != sequence:
            break
        found.append(Record(number, received_ms, producer, producer_sequence, payload, kind, epoch))
        offset, sequence = offset + HEADER_BYTES + size, sequence + 1
    return found


def read_in_runs(content: bytes, offset: int, sequence: int) -> list[Record]:
    found: list[Record] = []
    while (run := Run.at(content, offset, sequence)) is not None:
        assert len({record.kind for record in run}) == 1
        assert run.last == sequence + len(run) - 1
        found += run
        offset, sequence = run.end, run.last + 1
    return found


@given(some_records(), st.binary(max_size=9))
def test_runs_have_all_records_as_they_were(appended: list[Record], before: bytes) -> None:
    content = laid_out(appended, before)
    sequence = appended[0].sequence if appended else 1
    assert read_in_runs(content, len(before), sequence) == appended
    assert read_plainly(content, len(before), sequence) == appended


@given(some_records().filter(bool), st.data())
def test_a_record_that_was_changed_or_cut_ends_them(
    appended: list[Record], data: st.DataObject
) -> None:
    content = bytearray(laid_out(appended))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    for changed in (bytes(content), cut):
        found = read_in_runs(changed, 0, appended[0].sequence)
        assert found == read_plainly(changed, 0, appended[0].sequence)
        assert found == appended[: len(found)]
    assert len(read_in_runs(bytes(content), 0, appended[0].sequence)) < len(appended)


@given(some_records().filter(bool), st.integers(-2, 2).filter(bool))
def test_records_with_other_numbers_are_not_those_looked_for(
    appended: list[Record], off: int
) -> None:
    content = laid_out(appended)
    assert Run.at(content, 0, max(appended[0].sequence + off, 0)) is None
    assert record_at(content, 0) == appended[0]
    assert holds_record(content, 0)
    assert holds_record(content, 1) == (len(appended) > 1)


def test_a_run_ends_when_it_is_long_enough() -> None:
    appended = [Record(1 + n, n, 1, n, bytes(20), epoch=EPOCH) for n in range(10)]
    content = laid_out(appended)
    with patch.object(records, "RUN_BYTES_MAX", 3 * (HEADER_BYTES + 20)):
        runs = [Run.at(content, n * (HEADER_BYTES + 20), 1 + n) for n in (0, 3, 9)]
    assert [list(run or ()) for run in runs] == [appended[:3], appended[3:6], appended[9:]]
    first = Run.at(content, 0, 1, records_max=4)
    assert first is not None
    assert list(first) == appended[:4]


@pytest.mark.parametrize("sequence", [0, 2**63, 2**64 - 1])
def test_garbage_that_says_any_number_is_no_record(sequence: int) -> None:
    header = struct.pack("<6I5Q", kernels.MAGIC, 0, 0, 0, 1, 0, EPOCH, sequence, 0, 0, 0)
    assert record_at(header, 0) is None
    assert not holds_record(header * 3, 0)


@given(some_records().filter(bool), st.data())
def test_those_that_hold_a_text_are_among_those_taken(
    appended: list[Record], data: st.DataObject
) -> None:
    same = [Record(r.sequence, 0, 1, 1, r.payload, epoch=EPOCH) for r in appended]
    whole = data.draw(st.sampled_from(same)).payload
    start = data.draw(st.integers(0, len(whole)))
    text = bytes(whole[start : start + data.draw(st.integers(1, 4))])
    run = Run.at(laid_out(same, b"x"), 1, same[0].sequence)
    assert run is not None
    taken = list(run.holding(text))
    assert [r for r in taken if text in bytes(r.payload)] == [
        r for r in same if text in bytes(r.payload)
    ]
    assert list(run.take(np.array([], np.intp))) == []


def test_one_that_holds_a_text_is_found_alone() -> None:
    names = [b"anna", b"bert", b"annabert", b"carl", b"bert"]
    same = [Record(1 + n, 0, 1, 1, name, epoch=EPOCH) for n, name in enumerate(names)]
    run = Run.at(laid_out(same), 0, 1)
    assert run is not None
    assert [bytes(r.payload) for r in run.holding(b"anna")] == [b"anna", b"annabert"]
    assert [r.sequence for r in run.holding(b"bert")] == [2, 3, 5]
    assert len(run.holding(b"dora")) == 0
