"""Names to codes: a table of the bytes of all names, and a hash map into it.

A slot holds the upper half of a name's hash and one more than its code; 0 is an empty
slot. So names are compared only when half of their hashes are equal.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.ahead import fetch
from kernels.compiler import helper, kernel
from kernels.hashing import Bytes, hash_bytes
from kernels.rows import NONE
from kernels.words import word_at

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Bools = NDArray[np.bool_]

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
#: So many names are looked for at a time, so that they come from memory together.
_TOGETHER = 32


@helper
def _first_slot(slots: UInt64s, hashed: np.uint64) -> np.int64:
    """By the half that a slot keeps: the slots are in its order, and longer ones too."""
    return np.int64(((hashed >> _32) * np.uint64(len(slots))) >> _32)


@helper
def _is_equal(data: Bytes, start: int, length: int, other: Bytes, at: int) -> bool:
    while length >= 8:
        if word_at(data, start) != word_at(other, at):
            return False
        start += 8
        at += 8
        length -= 8
    for i in range(length):
        if data[start + i] != other[at + i]:
            return False
    return True


@helper
def _place(
    slots: UInt64s,
    starts: Int64s,
    arena: Bytes,
    hashed: np.uint64,
    data: Bytes,
    start: int,
    length: int,
) -> int:
    """The slot of a name, or the empty one where it would be."""
    at = _first_slot(slots, hashed)
    while slots[at] != np.uint64(0):
        if (slots[at] >> _32) == (hashed >> _32):
            code = np.int64(slots[at] & _LOW) - 1
            if starts[code + 1] - starts[code] == length and _is_equal(
                data, start, length, arena, starts[code]
            ):
                return at
        at += 1
        if at == len(slots):
            at = 0
    return at


@kernel
def find(slots: UInt64s, starts: Int64s, arena: Bytes, seed: np.uint64, name: Bytes) -> int:
    """The code of a name, or NONE."""
    hashed = hash_bytes(name, 0, len(name), seed)
    at = _place(slots, starts, arena, hashed, name, 0, len(name))
    return np.int64(slots[at] & _LOW) - 1


@kernel
def find_all(
    slots: UInt64s, starts: Int64s, arena: Bytes, seed: np.uint64, offsets: Int32s, data: Bytes
) -> Int64s:
    """The code of each name, NONE for those that are not known."""
    codes = np.empty(len(offsets) - 1, np.int64)
    for i in range(len(codes)):
        start, length = np.int64(offsets[i]), np.int64(offsets[i + 1] - offsets[i])
        hashed = hash_bytes(data, start, start + length, seed)
        at = _place(slots, starts, arena, hashed, data, start, length)
        codes[i] = np.int64(slots[at] & _LOW) - 1
    return codes


@kernel
def intern(
    slots: UInt64s,
    starts: Int64s,
    arena: Bytes,
    seed: np.uint64,
    count: int,
    offsets: Int32s,
    data: Bytes,
    wanted: Bools,
) -> tuple[Int32s, int]:
    """The code of each name that is wanted, new ones added; and how many names there are then."""
    codes = np.full(len(offsets) - 1, NONE, np.int32)
    hashes = np.empty(_TOGETHER, np.uint64)
    for block in range(0, len(codes), _TOGETHER):
        end = min(block + _TOGETHER, len(codes))
        _fetch_names(slots, starts, arena, seed, offsets, data, block, end, hashes)
        for i in range(block, end):
            if not wanted[i]:
                continue
            start, length = np.int64(offsets[i]), np.int64(offsets[i + 1] - offsets[i])
            hashed = hashes[i - block]
            at = _place(slots, starts, arena, hashed, data, start, length)
            if slots[at] == np.uint64(0):
                begin = starts[count]
                for j in range(length):
                    arena[begin + j] = data[start + j]
                count += 1
                starts[count] = begin + length
                slots[at] = (hashed >> _32 << _32) | np.uint64(count)
            codes[i] = np.int64(slots[at] & _LOW) - 1
    return codes, count


@helper
def _fetch_names(
    slots: UInt64s,
    starts: Int64s,
    arena: Bytes,
    seed: np.uint64,
    offsets: Int32s,
    data: Bytes,
    first: np.int64,
    end: np.int64,
    hashes: UInt64s,
) -> None:
    """Hashes names, and has what is known of them on its way to the cache."""
    for i in range(first, end):
        hashed = hash_bytes(data, np.int64(offsets[i]), np.int64(offsets[i + 1]), seed)
        hashes[i - first] = hashed
        fetch(slots, _first_slot(slots, hashed))
    for i in range(end - first):
        fetch(starts, _first_code(slots, hashes[i]))
    for i in range(end - first):
        fetch(arena, starts[_first_code(slots, hashes[i])])


@helper
def _first_code(slots: UInt64s, hashed: np.uint64) -> np.int64:
    """What a name's first slot says, 0 if it is empty."""
    return max(np.int64(slots[_first_slot(slots, hashed)] & _LOW) - 1, np.int64(0))


@kernel
def move_all(old: UInt64s, new: UInt64s) -> None:
    """Enters what is in slots into more of them, which are empty."""
    for slot in old:
        if slot != np.uint64(0):
            at = _first_slot(new, slot)
            while new[at] != np.uint64(0):
                at += 1
                if at == len(new):
                    at = 0
            new[at] = slot


@kernel
def wanted_of(codes: Int32s, excluded: Bools, names: int) -> Bools:
    """Which of so many names events that are not `excluded` have."""
    wanted = np.zeros(names, np.bool_)
    for i in range(len(codes)):
        if not excluded[i]:
            wanted[codes[i]] = True
    return wanted


@kernel
def hash_sessions(offsets: Int32s, data: Bytes) -> Int64s:
    """XXH64 of each name, odd; 0 for the empty one."""
    hashes = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(hashes)):
        start, end = np.int64(offsets[i]), np.int64(offsets[i + 1])
        if end > start:
            hashes[i] = np.int64(hash_bytes(data, start, end, np.uint64(0)) | np.uint64(1))
    return hashes
