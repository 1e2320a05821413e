"""Events that lie as plain columns in an Arrow stream, straight to the columns of a batch.

Every event has each field that has a column. What is not given up at, is taken exactly
as by a parser that knows everything, which is to be asked about all else.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiler import helper, kernel
from kernels.event_columns import (
    AT_MS,
    DURATION_MS,
    END,
    GIVE_UP,
    NAME_BYTES_MAX,
    NUMBERS,
    PAST_END_MAX_MS,
    SECONDS_MAX,
    SECONDS_MIN,
    SLUG,
    TAG_BYTES_MAX,
    TS_MS,
    Columns,
    Found,
    Int32s,
    Int64s,
    Names,
    begin,
    character_size,
    found,
    has_room,
    keep,
    with_more_slots,
)
from kernels.hashing import Bytes
from kernels.words import HIGHS, ONES, Place, each, lowest, word_at

Float64s = NDArray[np.float64]

#: Of a column of texts, in `places`.
_OFFSETS, _START, _SIZE = range(3)
#: As many fields of an event are texts.
_TEXTS = 4
_TS_MAX = 2.0**53
_SPACES = each(" ")
_8, _64, _ALL = np.uint64(8), np.uint64(64), ~np.uint64(0)


class Numbers(NamedTuple):
    """Seconds, but of `ts` milliseconds. Those that no event has are empty."""

    at: Float64s
    ts: Float64s
    duration: Float64s


@helper
def _is_text(text: Bytes, at: Place, end: Place) -> bool:
    """Whether it is UTF-8 without control characters; a word after it can be read."""
    while at < end:
        word = word_at(text, at)
        if end - at < 8:  # spaces in place of what follows
            beyond = _ALL << (_8 * np.uint64(end - at))
            word = (word & ~beyond) | (_SPACES & beyond)
        special = ((word - _SPACES) & ~word) | (word + ONES) | word
        if special & HIGHS == np.uint64(0):
            at = min(at + 8, end)
            continue
        at += lowest(special & HIGHS)
        size = character_size(text, at)
        if size == 0:
            return False
        at += size
    return at == end


@helper
def _take_texts(text: Bytes, words: Int32s, places: Int64s, row: Place, event: Int64s) -> bool:
    """Takes where the texts of an event lie; whether all are as they should be."""
    for field in range(_TEXTS):
        first, start = places[field, _OFFSETS], places[field, _START]
        if not first:
            continue
        begins, ends = np.int64(words[first + row]), np.int64(words[first + row + 1])
        bytes_max = NAME_BYTES_MAX if field <= SLUG else TAG_BYTES_MAX
        if begins < 0 or ends > places[field, _SIZE]:
            return False
        if ends <= begins or ends - begins > bytes_max:
            return False
        if not _is_text(text, start + begins, start + ends):
            return False
        event[field], event[END + field] = start + begins, start + ends
    return True


@helper
def _take_numbers(numbers: Numbers, row: Place, event: Int64s) -> bool:
    """Takes the numbers of an event as milliseconds; whether all are as they should be."""
    at = numbers.at[row]
    if not 0.0 <= at <= SECONDS_MAX:
        return False
    at_ms = event[NUMBERS + AT_MS] = np.int64(np.rint(at * 1000.0))
    if len(numbers.ts):
        ts = numbers.ts[row]
        if not 0.0 <= ts <= _TS_MAX:
            return False
        event[NUMBERS + TS_MS] = np.int64(np.rint(ts))
    if len(numbers.duration):
        duration = numbers.duration[row]
        if not SECONDS_MIN <= duration <= SECONDS_MAX:
            return False
        duration_ms = event[NUMBERS + DURATION_MS] = np.int64(np.rint(duration * 1000.0))
        return at_ms <= duration_ms + PAST_END_MAX_MS
    return True


@helper
def _fill(
    text: Bytes,
    words: Int32s,
    places: Int64s,
    numbers: Numbers,
    columns: Columns,
    names: Names,
    event: Int64s,
    pair: Bytes,
    progress: Int64s,
) -> None:
    """Goes on from the row that `progress` says, to the last or until slots are few."""
    row, present = progress[0], progress[1]
    while 0 <= row < len(numbers.at) and has_room(names):
        kept = GIVE_UP
        if _take_texts(text, words, places, row, event) and _take_numbers(numbers, row, event):
            kept = keep(text, event, row, columns, names, pair)
        present |= kept
        row = row + 1 if kept != GIVE_UP else GIVE_UP
    progress[0], progress[1] = row, present


@kernel
def parse(text: Bytes, words: Int32s, places: Int64s, numbers: Numbers) -> Found:
    """The events of columns that lie in `text`, of which `words` are the same bytes.

    `places` has a row a field that is a text: the word of its column's first offset, 0 if there
    is none, the byte where its texts begin, and how many they have. `PADDING_BYTES` after them
    can be read.
    """
    rows = len(numbers.at)
    columns, names, event, pair = begin(rows)
    event[NUMBERS + TS_MS] = -1
    progress = np.zeros(2, np.int64)
    _fill(text, words, places, numbers, columns, names, event, pair, progress)
    while 0 <= progress[0] < rows:
        names = with_more_slots(text, names)
        _fill(text, words, places, numbers, columns, names, event, pair, progress)
    return found(text, progress[0], progress[1], columns, names)
