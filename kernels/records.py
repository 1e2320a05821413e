"""The records of a log found and checked; `persistence/records.py` describes their format."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper, kernel
from kernels.hashing import Bytes
from kernels.words import Place, word_at

#: The bytes of a record's header, and what it begins with ("PHAD").
HEADER_BYTES = 64
MAGIC = 0x44414850
#: What its checksum covers begins here.
CHECKED_FROM = 8

#: What is known of a record: where its payload begins, how many bytes that has, and the numbers
#: of its header in their order.
RECORD = np.dtype(
    [
        ("start", np.int64),
        ("size", np.int64),
        ("epoch", np.uint64),
        ("sequence", np.int64),
        ("received_ms", np.int64),
        ("producer", np.uint64),
        ("producer_sequence", np.uint64),
    ]
)

#: Words that are looked at beside each other, as each step waits for the one before.
_BRAIDS = 4


def _crc_tables() -> NDArray[np.uint32]:
    """Of so many bytes that come after one, and of each byte, what it does to a CRC-32."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0xEDB88320), table >> 1)
    tables = [table]
    for _ in range(8 * _BRAIDS - 1):
        tables.append(table[tables[-1] & 0xFF] ^ tables[-1] >> 8)
    return np.array(tables, np.uint32)


_CRC = _crc_tables()
_32 = np.uint64(32)
_BYTE = np.uint64(0xFF)
_ONES = np.uint32(0xFFFFFFFF)


@helper
def _crc_of_word(word: np.uint64, words: int) -> np.uint32:
    """What a word does, which is the first of so many."""
    crc = np.uint32(0)
    for i in range(8):
        crc ^= _CRC[8 * words - 1 - i, word >> np.uint64(8 * i) & _BYTE]
    return crc


@helper
def _crc32(data: Bytes, start: Place, end: Place) -> np.uint32:
    """As zlib's, of data[start:end], by words and in braids.

    Kounavis and Berry, "A systematic approach to building high performance
    software-based CRC generators", 2005; Kadatch and Jenkins, "Everything we know
    about CRC but afraid to forget", 2010.
    """
    crc, at = np.uint64(_ONES), start
    if at + 16 * _BRAIDS <= end:
        a, b, c, d = crc, np.uint64(0), np.uint64(0), np.uint64(0)
        while at + 16 * _BRAIDS <= end:
            a = np.uint64(_crc_of_word(word_at(data, at) ^ a, _BRAIDS))
            b = np.uint64(_crc_of_word(word_at(data, at + 8) ^ b, _BRAIDS))
            c = np.uint64(_crc_of_word(word_at(data, at + 16) ^ c, _BRAIDS))
            d = np.uint64(_crc_of_word(word_at(data, at + 24) ^ d, _BRAIDS))
            at += 8 * _BRAIDS
        crc = np.uint64(0)
        for braid in (a, b, c, d):
            crc = np.uint64(_crc_of_word(word_at(data, at) ^ braid ^ crc, 1))
            at += 8
    while at + 8 <= end:
        crc = np.uint64(_crc_of_word(word_at(data, at) ^ crc, 1))
        at += 8
    while at < end:
        crc = np.uint64(_CRC[0, (crc ^ np.uint64(data[at])) & _BYTE]) ^ crc >> np.uint64(8)
        at += 1
    return np.uint32(crc) ^ _ONES


@helper
def _low(word: np.uint64) -> np.uint32:
    return np.uint32(word & np.uint64(0xFFFFFFFF))


@helper
def _high(word: np.uint64) -> np.uint32:
    return np.uint32(word >> _32)


@kernel
def scan(
    data: Bytes,
    start: int,
    sequence: np.uint64,
    payload_bytes_max: int,
    run_bytes: int,
    found: NDArray[np.void],
) -> tuple[int, int]:
    """The records of one kind in a row from `start` on: how many, and their kind.

    `found` has a row for each, of `RECORD`. They end where one is of another kind, fails
    its checks, has more than `payload_bytes_max`, or has not the number that is due, of
    which the first is `sequence`; where there are no more rows; and with `run_bytes`.
    """
    at, count, kind = start, 0, np.uint32(0)
    while count < len(found) and at - start < run_bytes and at + HEADER_BYTES <= len(data):
        begin, sizes, kinds = word_at(data, at), word_at(data, at + 8), word_at(data, at + 16)
        size, payload = np.int64(_high(sizes)), at + HEADER_BYTES
        if (
            _low(begin) != np.uint32(MAGIC)
            or size > min(payload_bytes_max, len(data) - payload)
            or word_at(data, at + 32) != sequence + np.uint64(count)
            or _crc32(data, at + CHECKED_FROM, payload) != _high(begin)
            or (count > 0 and _low(kinds) != kind)
            or _crc32(data, payload, payload + size) != _low(sizes)
        ):
            break
        kind, record = _low(kinds), found[count]
        record.start, record.size = payload, size
        record.epoch = word_at(data, at + 24)
        record.sequence = np.int64(word_at(data, at + 32))
        record.received_ms = np.int64(word_at(data, at + 40))
        record.producer = word_at(data, at + 48)
        record.producer_sequence = word_at(data, at + 56)
        count += 1
        at = payload + size
    return count, np.int64(kind)
