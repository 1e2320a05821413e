"""Batches: hashes of their names; encoded ones checked and joined.

The encoding is described in `persistence/batch.py`. It is read as words of 4 bytes and
as words of 8, so it begins where both do, and so does each of several in a row. Other
kernels index by what is in a batch without looking, so it is checked here first.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import allocating_helper, helper, kernel
from kernels.hashing import Bytes, hash_bytes

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

#: The header in words of 4 bytes: how many, and where counts are, three of them for tables.
HEADER_WORDS = 8
_EVENTS, _NAMES, _SIZES = 1, 2, 5
#: The bits of the header's first word for the optional int64 columns, then one for sessions.
_FIRST_OPTIONAL, _OPTIONAL = 8, 4
_SESSIONS = _FIRST_OPTIONAL + _OPTIONAL

#: What is wrong with a batch: nothing, or one of these plus the number of the table.
FINE, BAD_CODE, BAD_OFFSETS = 0, 1, 4

#: For each table where its codes, its offsets and its bytes begin: the last in bytes, the
#: others in words, 0 for what is not there.
_Places = tuple[np.int64, np.int64, np.int64]


@helper
def _has(words: Int32s, start: np.int64, bit: int) -> bool:
    return (words[start] >> bit) & 1 != 0


@helper
def _count(words: Int32s, start: np.int64, place: int) -> np.int64:
    return np.int64(words[start + place])


@helper
def _places(words: Int32s, start: np.int64) -> tuple[_Places, _Places, _Places]:
    events = _count(words, start, _EVENTS)
    user = start + HEADER_WORDS + 2 * events
    for column in range(_OPTIONAL):
        if _has(words, start, _FIRST_OPTIONAL + column):
            user += 2 * events
    slug = user + events
    session, users = np.int64(0), slug + events
    if _has(words, start, _SESSIONS):
        session, users = users, users + events
    slugs = users + _count(words, start, _NAMES) + 1
    sessions, end = np.int64(0), slugs + _count(words, start, _NAMES + 1) + 1
    if session:
        sessions, end = end, end + _count(words, start, _NAMES + 2) + 1
    byte = 4 * end
    after_users = byte + _count(words, start, _SIZES)
    after_slugs = after_users + _count(words, start, _SIZES + 1)
    return (user, slug, session), (users, slugs, sessions), (byte, after_users, after_slugs)


@helper
def _are_codes(codes: Int32s, names: np.int64) -> bool:
    are = True
    for code in codes:
        are &= np.uint32(code) < np.uint32(names)
    return are


@helper
def _are_offsets(offsets: Int32s, size: np.int64) -> bool:
    are = offsets[0] == 0 and offsets[len(offsets) - 1] == size
    for i in range(len(offsets) - 1):
        are &= offsets[i] <= offsets[i + 1]
    return are


@helper
def _flaw_of(words: Int32s, start: np.int64) -> int:
    codes, offsets, _ = _places(words, start)
    events = _count(words, start, _EVENTS)
    for table in range(3):
        if codes[table]:
            names = _count(words, start, _NAMES + table)
            if not _are_codes(words[codes[table] : codes[table] + events], names):
                return BAD_CODE + table
            size = _count(words, start, _SIZES + table)
            if not _are_offsets(words[offsets[table] : offsets[table] + names + 1], size):
                return BAD_OFFSETS + table
    return FINE


@kernel
def flaw_of(words: Int32s) -> int:
    """What is wrong with the codes and offsets of a batch that has the length it says."""
    return _flaw_of(words, np.int64(0))


@helper
def _unsigned(words: Int32s, place: np.int64) -> np.int64:
    return np.int64(np.uint32(words[place]))


@helper
def _size_of(words: Int32s, start: np.int64) -> np.int64:
    """The bytes of a batch by its header, whatever that says."""
    events, tables = _unsigned(words, start + _EVENTS), 2
    size = 4 * HEADER_WORDS + 8 * events
    for column in range(_OPTIONAL):
        if _has(words, start, _FIRST_OPTIONAL + column):
            size += 8 * events
    if _has(words, start, _SESSIONS):
        tables = 3
    for table in range(tables):
        size += 4 * events + 4 * (_unsigned(words, start + _NAMES + table) + 1)
        size += _unsigned(words, start + _SIZES + table)
    return (size + 7) // 8 * 8


@kernel
def heads(
    words: Int32s, starts: Int64s, sizes: Int64s, version: int, events: Int64s
) -> tuple[int, int]:
    """Which columns any batch has, and the first batch of another version or size; -1 for none.

    `starts` are the batches' first words, `sizes` their bytes. How many events each has
    is written to `events`.
    """
    present = np.int64(0)
    for i in range(len(starts)):
        start, size = starts[i], sizes[i]
        if size < 4 * HEADER_WORDS or words[start] & 0xFF != version:
            return present, i
        if _size_of(words, start) != size:
            return present, i
        present |= (np.int64(words[start]) >> _FIRST_OPTIONAL) & 0xFF
        events[i] = _count(words, start, _EVENTS)
    return present, -1


@allocating_helper
def _totals(words: Int32s, starts: Int64s) -> tuple[np.int64, Int64s, Int64s]:
    """Events, and for each table names and bytes; a name without bytes stands for no session."""
    events, names, sizes = np.int64(0), np.array([0, 0, 1]), np.zeros(3, np.int64)
    for start in starts:
        events += _count(words, start, _EVENTS)
        for table in range(3 if _has(words, start, _SESSIONS) else 2):
            names[table] += _count(words, start, _NAMES + table)
            sizes[table] += _count(words, start, _SIZES + table)
    return events, names, sizes


@allocating_helper
def _join_numbers(
    words: Int32s, longs: Int64s, start: np.int64, absent: Int64s, numbers: Int64s, event: np.int64
) -> None:
    """The int64 columns of one batch, as those of the events from `event` on."""
    events = _count(words, start, _EVENTS)
    place = (start + HEADER_WORDS) // 2
    for column in range(len(numbers)):
        row = numbers[column, event : event + events]
        if column == 0 or _has(words, start, _FIRST_OPTIONAL + column - 1):
            _copy(longs[place : place + events], row)
            place += events
        else:
            row[:] = absent[column]


@kernel
def join(
    words: Int32s, longs: Int64s, data: Bytes, starts: Int64s, absent: Int64s
) -> tuple[int, Int64s, Int32s, Int32s, Bytes, Int64s, Int64s]:
    """The events of batches in order; `words`, `longs` and `data` are the same bytes.

    `starts` are the batches' first words; `absent` has for each int64 column what stands
    for those of a batch that lacks it. Returns what is wrong with the first batch that
    has a flaw; the int64 columns, and those of codes, as rows; the offsets of all tables
    one after the other; their bytes; how many names, and bytes, each table has.
    """
    events, names, sizes = _totals(words, starts)
    numbers = np.empty((len(absent), events), np.int64)
    codes = np.empty((3, events), np.int32)
    offsets = np.zeros(names.sum() + 3, np.int32)
    joined = np.empty(sizes.sum(), np.uint8)
    first_offset = np.array([0, names[0] + 1, names[0] + names[1] + 2])
    first_byte = np.array([0, sizes[0], sizes[0] + sizes[1]])
    name, size, event = np.array([0, 0, 1]), np.zeros(3, np.int64), np.int64(0)
    for start in starts:
        flaw = _flaw_of(words, start)
        if flaw:
            return flaw, numbers, codes, offsets, joined, names, sizes
        _join_numbers(words, longs, start, absent, numbers, event)
        of_codes, of_offsets, of_bytes = _places(words, start)
        more_events = _count(words, start, _EVENTS)
        for table in range(3):
            own = codes[table, event : event + more_events]
            if not of_codes[table]:
                own[:] = 0
                continue
            _shift(words[of_codes[table] : of_codes[table] + more_events], name[table], own)
            more_names = _count(words, start, _NAMES + table)
            to = first_offset[table] + name[table] + 1
            of_names = words[of_offsets[table] + 1 : of_offsets[table] + 1 + more_names]
            _shift(of_names, size[table], offsets[to : to + more_names])
            more_bytes = _count(words, start, _SIZES + table)
            at = first_byte[table] + size[table]
            own_bytes = data[of_bytes[table] : of_bytes[table] + more_bytes]
            _copy(own_bytes, joined[at : at + more_bytes])
            name[table] += more_names
            size[table] += more_bytes
        event += more_events
    return FINE, numbers, codes, offsets, joined, names, sizes


@helper
def _copy(values: NDArray[T], copied: NDArray[T]) -> None:
    """As a slice does, but with nothing to compile for lengths that differ."""
    for i in range(len(values)):
        copied[i] = values[i]


@helper
def _shift(numbers: Int32s, by: np.int64, shifted: Int32s) -> None:
    for i in range(len(numbers)):
        shifted[i] = numbers[i] + by


@kernel
def renumber(numbers: Int32s, counts: Int64s) -> tuple[Int64s, Int64s]:
    """Makes the codes and offsets of several batches those of one, where they are.

    `numbers` are the users of all batches, then the slugs and the sessions of all, then
    likewise the offsets of the names of each. Each batch has a column in `counts`: how
    many events it has, and of each table how many names and how many bytes. Returns how
    many names, and bytes, each table then has; less offsets are left than there were.
    """
    batches, names, sizes = counts.shape[1], np.zeros(3, np.int64), np.zeros(3, np.int64)
    read = np.int64(0)
    for table in range(3):
        for batch in range(batches):
            events = counts[0, batch]
            _shift(numbers[read : read + events], names[table], numbers[read : read + events])
            read += events
            names[table] += counts[1 + table, batch]
    written = read
    for table in range(3):
        numbers[written] = 0
        written += 1
        for batch in range(batches):
            more = counts[1 + table, batch]
            offsets = numbers[read + 1 : read + 1 + more]
            _shift(offsets, sizes[table], numbers[written : written + more])
            read += more + 1
            written += more
            sizes[table] += counts[4 + table, batch]
    return names, sizes


@kernel
def used_names(offsets: Int32s, data: Bytes, codes: Int32s) -> tuple[Int32s, Bytes, Int32s]:
    """The names that codes use, in the order of the table, and the codes among these alone."""
    is_used = np.zeros(len(offsets) - 1, np.bool_)
    for code in codes:
        is_used[code] = True
    used_offsets = np.zeros(is_used.sum() + 1, np.int32)
    used_data = np.empty(len(data), np.uint8)
    place = np.empty(len(is_used), np.int32)
    used, size = 0, np.int64(0)
    for name in range(len(is_used)):
        if is_used[name]:
            size = _append(used_data, size, offsets, data, np.int32(name))
            place[name] = used
            used += 1
            used_offsets[used] = size
    compacted = np.empty(len(codes), np.int32)
    for i in range(len(codes)):
        compacted[i] = place[codes[i]]
    return used_offsets, used_data[:size], compacted


@kernel
def hash_names(offsets: Int32s, data: Bytes, seed: np.uint64) -> UInt64s:
    """XXH64 of each name."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(hashes)):
        hashes[i] = hash_bytes(data, np.int64(offsets[i]), np.int64(offsets[i + 1]), seed)
    return hashes


@kernel
def hash_pairs(
    first_offsets: Int32s,
    first_data: Bytes,
    first: Int32s,
    second_offsets: Int32s,
    second_data: Bytes,
    second: Int32s,
    seed: np.uint64,
) -> Int64s:
    """XXH64 of pairs of names with a line feed between them, 1 in place of 0.

    0 for a pair whose second name is empty or has a negative code.
    """
    hashes = np.zeros(len(first), np.int64)
    pair = np.empty(_longest(first_offsets) + 1 + _longest(second_offsets), np.uint8)
    for i in range(len(first)):
        if second[i] < 0 or second_offsets[second[i]] == second_offsets[second[i] + 1]:
            continue
        end = _append(pair, np.int64(0), first_offsets, first_data, first[i])
        pair[end] = 10
        end = _append(pair, end + 1, second_offsets, second_data, second[i])
        hashed = hash_bytes(pair, np.int64(0), end, seed)
        hashes[i] = np.int64(hashed) if hashed else 1
    return hashes


@helper
def _longest(offsets: Int32s) -> np.int64:
    longest = np.int64(0)
    for i in range(len(offsets) - 1):
        longest = max(longest, np.int64(offsets[i + 1] - offsets[i]))
    return longest


@helper
def _append(text: Bytes, end: np.int64, offsets: Int32s, data: Bytes, code: np.int32) -> np.int64:
    """Adds a name to a text of so many bytes; returns how many it then has."""
    start, size = np.int64(offsets[code]), np.int64(offsets[code + 1] - offsets[code])
    for i in range(size):
        text[end + i] = data[start + i]
    return end + size
