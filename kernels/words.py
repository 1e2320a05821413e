"""Bytes by eights: words, and what can be told of all bytes of one at once.

A word is 8 bytes, little-endian. Flags are words that have the high bit of some of their
bytes set; the lowest of those is always right, and those above it need not be.
"""

import numpy as np

from kernels.compiler import helper
from kernels.hashing import Bytes

#: A place or a number of bytes.
Place = np.int64 | int

#: A byte of 1, and one of 0x80, at each place of a word.
ONES = np.uint64(0x0101010101010101)
HIGHS = np.uint64(0x8080808080808080)

_7, _32, _56, _64 = np.uint64(7), np.uint64(32), np.uint64(56), np.uint64(64)
_BYTE = np.uint64(0xFF)
#: 2^64 divided by the golden ratio (Knuth, 1973).
_ODD = np.uint64(0x9E3779B97F4A7C15)
#: 2^64 divided by the square root of 2.
_OTHER_ODD = np.uint64(0xB504F333F9DE6485)


def word_of(text: bytes) -> np.uint64:
    """At most 8 bytes as a word; those that it has not are 0."""
    return np.uint64(int.from_bytes(text, "little"))


def each(byte: str) -> np.uint64:
    """The word that is 8 times the same byte."""
    return word_of(byte.encode() * 8)


@helper
def byte_at(data: Bytes, at: Place) -> np.uint8:
    # An index that cannot be negative is not looked at for being so.
    return np.uint8(data[np.uint64(at)])


@helper
def word_at(data: Bytes, at: Place) -> np.uint64:
    """The compiler makes one load of it."""
    first, word = np.uint64(at), np.uint64(0)
    for i in range(8):
        word |= np.uint64(data[first + np.uint64(i)]) << np.uint64(8 * i)
    return word


@helper
def set_word(data: Bytes, at: Place, word: np.uint64) -> None:
    """The compiler makes one store of it."""
    first = np.uint64(at)
    for i in range(8):
        data[first + np.uint64(i)] = np.uint8(word >> np.uint64(8 * i) & _BYTE)


@helper
def zeros(word: np.uint64) -> np.uint64:
    """Flags the bytes that are 0 (Mycroft, 1987)."""
    return (word - ONES) & ~word & HIGHS


@helper
def lowest(flags: np.uint64) -> np.int64:
    """Which byte is the lowest flagged; `flags` has one."""
    alone = (flags & (~flags + np.uint64(1))) >> _7
    return np.int64((alone * np.uint64(0x0001020304050607)) >> _56)


@helper
def are_equal(data: Bytes, one: Place, other: Place, size: Place) -> bool:
    """Whether so many bytes are; 7 bytes after them can be read."""
    while size > 8:
        if word_at(data, one) != word_at(data, other):
            return False
        one += 8
        other += 8
        size -= 8
    if size == 0:
        return True
    differing = word_at(data, one) ^ word_at(data, other)
    return bool(differing << (_64 - np.uint64(8 * size)) == np.uint64(0))


@helper
def quick_hash(data: Bytes, at: Place, size: Place) -> np.uint64:
    """Of so many bytes, in its upper half; 7 bytes after them can be read.

    Whoever tries makes many collide.
    """
    hashed = np.uint64(size)
    while size > 8:
        hashed = (hashed ^ word_at(data, at)) * _ODD
        hashed ^= hashed >> _32
        at += 8
        size -= 8
    if size:
        hashed ^= word_at(data, at) << (_64 - np.uint64(8 * size))
    hashed *= _ODD
    return (hashed ^ (hashed >> _32)) * _OTHER_ODD
