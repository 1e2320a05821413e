"""Hashes: of bytes as XXH64 makes them, and of 64 bits.

XXH64 is by Yann Collet (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md); the
library `xxhash` gives the same outside of kernels.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper

Bytes = NDArray[np.uint8]

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_64 = np.uint64(64)


@helper
def mix(key: np.int64) -> np.uint64:
    """Spreads a key over all 64 bits, one to one.

    The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014).
    """
    z = np.uint64(key) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@helper
def hash_bytes(data: Bytes, start: np.int64, end: np.int64, seed: np.uint64) -> np.uint64:
    """XXH64 of data[start:end]."""
    at = start
    if end - start >= 32:
        a = seed + _PRIME_1 + _PRIME_2
        b = seed + _PRIME_2
        c = seed
        d = seed - _PRIME_1
        while at + 32 <= end:
            a = _round(a, _word(data, at, 8))
            b = _round(b, _word(data, at + 8, 8))
            c = _round(c, _word(data, at + 16, 8))
            d = _round(d, _word(data, at + 24, 8))
            at += 32
        h = _left(a, 1) + _left(b, 7) + _left(c, 12) + _left(d, 18)
        for lane in (a, b, c, d):
            h = (h ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4
    else:
        h = seed + _PRIME_5
    h += np.uint64(end - start)
    while at + 8 <= end:
        h = _left(h ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _PRIME_1 + _PRIME_4
        at += 8
    if at + 4 <= end:
        h = _left(h ^ (_word(data, at, 4) * _PRIME_1), 23) * _PRIME_2 + _PRIME_3
        at += 4
    while at < end:
        h = _left(h ^ (np.uint64(data[at]) * _PRIME_5), 11) * _PRIME_1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _PRIME_2
    h = (h ^ (h >> np.uint64(29))) * _PRIME_3
    return h ^ (h >> np.uint64(32))


@helper
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _left(lane + word * _PRIME_2, 31) * _PRIME_1


@helper
def _left(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> (_64 - np.uint64(bits)))


@helper
def _word(data: Bytes, at: np.int64, size: int) -> np.uint64:
    """`size` bytes, little-endian; the compiler makes one load of them."""
    word = np.uint64(0)
    start = np.uint64(at)  # a signed index might be from the end, and is no single load then
    for i in range(size):
        word |= np.uint64(data[start + np.uint64(i)]) << np.uint64(8 * i)
    return word
