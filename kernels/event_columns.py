"""Events that a kernel found in the body of a request, as columns.

Whoever finds them gives up at the first thing that is unusual.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import allocating_helper, helper
from kernels.hashing import Bytes, hash_bytes
from kernels.words import Place, are_equal, quick_hash, set_word, word_at

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

#: In place of a number of events, or of where something ends.
GIVE_UP = -1
#: Rows of the int64 columns, and their bits among those that any event has.
AT_MS, TS_MS, DURATION_MS, ID_HASH = range(4)

#: The texts of an event; the first three are names, by table.
USER, SLUG, SESSION, ID = range(4)
#: An event has where each of its texts begins and where it ends, both 0 for none, and numbers.
END, NUMBERS = 4, 8
EVENT_SIZE = 11

NAME_BYTES_MAX, TAG_BYTES_MAX = 256, 128
SECONDS_MIN, SECONDS_MAX = 0.001, 1e7
PAST_END_MAX_MS = 1000

#: Words are read where the body ends, and written where texts that are put together do.
PADDING_BYTES = 16
#: Slots of all names at first; half of them are used at most.
_SLOTS = 512
#: As many names in a row are no chance, but made so that each takes longer than the one before.
_OTHERS_MAX = 256
#: Where after so many events fewer than one in so many had a name that was there, new ones get no
#: slot: to make room for slots takes more than anything else.
_REPEATED_AFTER, _REPEATED_ONE_IN = 256, 8
#: In the lower half of a slot the code is above the table.
_LOWER, _CODE = np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFC)
_TABLE, _TABLE_BITS = np.uint64(3), np.uint64(2)
_32 = np.uint64(32)
_LINE_FEED = ord("\n")

#: How many events there are, or `GIVE_UP`, and their columns. These are: the bits of those in
#: which any event has something; as rows that may be longer, the int64 columns and those of
#: codes; the offsets of the names of users, slugs and sessions, one table after the other, and
#: their bytes; how many names, and bytes, each table has. Names are in the order of their first
#: appearance; where they hardly repeat, some are there more than once.
Found = tuple[Place, int, Int64s, Int32s, Int32s, Bytes, Int64s, Int64s]


class Columns(NamedTuple):
    """A row a column."""

    numbers: Int64s
    codes: Int32s


class Names(NamedTuple):
    """The names of each table: where they are in the body, and how many.

    A slot has the upper half of the hash of a name, its code and its table; 0 has none.
    `used` says how many have one.
    """

    slots: UInt64s
    spans: Int64s
    counts: Int64s
    used: Int64s


# Text


@helper
def character_size(text: Bytes, at: Place) -> int:
    """The bytes of a character above U+009F; 0 if it is none, or is not UTF-8."""
    first, second = text[at], text[at + 1]
    if first < 0xC2 or first > 0xF4:
        return 0
    low, high = 0x80, 0xBF
    if first in (0xC2, 0xE0):
        low = 0xA0
    elif first == 0xED:
        high = 0x9F
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F
    size = 2 + (first >= 0xE0) + (first >= 0xF0)
    if second < low or second > high:
        return 0
    for i in range(2, size):
        if text[at + i] & 0xC0 != 0x80:
            return 0
    return size


# Names


@helper
def _is(text: Bytes, start: Place, end: Place, table: int, code: Place, names: Names) -> bool:
    """Whether text[start:end] is the name that has this code."""
    first, size = names.spans[table, code, 0], end - start
    return names.spans[table, code, 1] - first == size and are_equal(text, first, start, size)


@helper
def _code(slot: np.uint64) -> np.int64:
    return np.int64((slot & _CODE) >> _TABLE_BITS) - 1


@helper
def _slot_of(
    text: Bytes, start: Place, end: Place, table: int, names: Names
) -> tuple[np.int64, np.uint64, int]:
    """The slot of a name, or the empty one for it; what it keeps but the code; others tried."""
    kept = quick_hash(text, start, end - start) & ~_LOWER | np.uint64(table)
    slots, others = len(names.slots), 0
    at = np.int64((kept >> _32) * np.uint64(slots) >> _32)
    while names.slots[at] != np.uint64(0):
        slot = names.slots[at]
        if slot & ~_CODE == kept and _is(text, start, end, table, _code(slot), names):
            break
        others += 1
        at += 1
        if at == slots:
            at = 0
    return at, kept, others


@helper
def _code_of(
    text: Bytes, start: Place, end: Place, table: int, row: Place, like: Place, names: Names
) -> Place:
    """The code of a row's name, a new one if it is new; often it is that with the code `like`."""
    slots, spans, counts, used = names
    if like < counts[table] and _is(text, start, end, table, like, names):
        return like
    at, kept, others = _slot_of(text, start, end, table, names)
    if slots[at] != np.uint64(0):
        return _code(slots[at])
    if others > _OTHERS_MAX:
        return GIVE_UP
    code = counts[table]
    spans[table, code, 0], spans[table, code, 1] = start, end
    counts[table] += 1
    if row < _REPEATED_AFTER or _REPEATED_ONE_IN * (row - code) >= row:
        slots[at] = kept | np.uint64(code + 1) << _TABLE_BITS
        used[0] += 1
    return code


@allocating_helper
def with_more_slots(text: Bytes, names: Names) -> Names:
    """Four times as many."""
    slots = np.zeros(4 * len(names.slots), np.uint64)
    more = Names(slots, names.spans, names.counts, names.used)
    for slot in names.slots:
        if slot != np.uint64(0):
            table = np.int64(slot & _TABLE)
            start, end = names.spans[table, _code(slot), 0], names.spans[table, _code(slot), 1]
            at, _, _ = _slot_of(text, start, end, table, more)
            slots[at] = slot
    return more


@helper
def _append(joined: Bytes, size: Place, text: Bytes, start: Place, end: Place) -> Place:
    """Adds text[start:end] to so many bytes; how many there are then. Writes up to 7 more."""
    for i in range(0, end - start, 8):
        set_word(joined, size + i, word_at(text, start + i))
    return size + end - start


@allocating_helper
def tables_of(text: Bytes, names: Names) -> tuple[Int32s, Bytes, Int64s]:
    """The offsets of all tables, the bytes of their names and a few more, how many each has."""
    sizes = np.zeros(3, np.int64)
    for table in range(3):
        for code in range(names.counts[table]):
            sizes[table] += names.spans[table, code, 1] - names.spans[table, code, 0]
    offsets = np.zeros(names.counts[0] + names.counts[1] + names.counts[2] + 3, np.int32)
    data = np.empty(sizes[0] + sizes[1] + sizes[2] + PADDING_BYTES, np.uint8)
    place, end = 0, np.int64(0)
    for table in range(3):
        first = end
        for code in range(names.counts[table]):
            start, stop = names.spans[table, code, 0], names.spans[table, code, 1]
            end = _append(data, end, text, start, stop)
            offsets[place + code + 1] = end - first
        place += names.counts[table] + 1
    return offsets, data, sizes


# Events


@helper
def keep(
    text: Bytes, event: Int64s, row: Place, columns: Columns, names: Names, pair: Bytes
) -> int:
    """Makes what is known of an event a row; the bits of the columns in which it has something."""
    numbers, codes = columns
    for table in range(3):
        like = np.int64(codes[table, row - 1]) if row else 0
        code = _code_of(text, event[table], event[END + table], table, row, like, names)
        if code == GIVE_UP:
            return GIVE_UP
        codes[table, row] = code
    hashed = np.uint64(0)
    if event[ID]:
        size = _append(pair, np.int64(0), text, event[USER], event[END + USER])
        pair[size] = _LINE_FEED
        size = _append(pair, size + 1, text, event[ID], event[END + ID])
        hashed = hash_bytes(pair, np.int64(0), size, np.uint64(0))
        hashed += np.uint64(hashed == np.uint64(0))
    ts_ms, duration_ms = event[NUMBERS + TS_MS], event[NUMBERS + DURATION_MS]
    numbers[AT_MS, row] = event[NUMBERS + AT_MS]
    numbers[TS_MS, row] = ts_ms
    numbers[DURATION_MS, row] = duration_ms
    numbers[ID_HASH, row] = np.int64(hashed)
    has_id = hashed != np.uint64(0)
    return (ts_ms >= 0) << TS_MS | (duration_ms > 0) << DURATION_MS | has_id << ID_HASH


@allocating_helper
def begin(rows_max: int) -> tuple[Columns, Names, Int64s, Bytes]:
    """Room for so many events, no names yet, and what `keep` takes: an event, and a pair."""
    columns = Columns(np.empty((4, rows_max), np.int64), np.empty((3, rows_max), np.int32))
    spans = np.empty((3, rows_max, 2), np.int64)
    counts, used = np.zeros(3, np.int64), np.zeros(1, np.int64)
    names = Names(np.zeros(_SLOTS, np.uint64), spans, counts, used)
    pair = np.empty(NAME_BYTES_MAX + 1 + TAG_BYTES_MAX + PADDING_BYTES, np.uint8)
    return columns, names, np.zeros(EVENT_SIZE, np.int64), pair


@allocating_helper
def found(text: Bytes, events: Place, present: int, columns: Columns, names: Names) -> Found:
    """What `begin` made, filled."""
    offsets, data, sizes = tables_of(text, names)
    return events, present, columns.numbers, columns.codes, offsets, data, names.counts, sizes


@helper
def has_room(names: Names) -> bool:
    """Whether there are slots for the names of another event."""
    return bool(2 * names.used[0] < len(names.slots))
