"""Bodies of events, as a JSON array or as lines of JSON, straight to columns.

What is here knows events as they mostly come, and only good ones. At anything else it
gives up, and a parser that knows everything is to be asked: at escapes, exponents,
nested values and more digits than it can be sure of, as at whatever is wrong. What it
does not give up at, it takes exactly as that one does.
"""

import numpy as np

from kernels.compiler import helper, kernel, lean_kernel
from kernels.event_columns import (
    AT_MS,
    DURATION_MS,
    END,
    GIVE_UP,
    ID,
    NAME_BYTES_MAX,
    NUMBERS,
    PADDING_BYTES,
    PAST_END_MAX_MS,
    SECONDS_MAX,
    SECONDS_MIN,
    SESSION,
    SLUG,
    TAG_BYTES_MAX,
    TS_MS,
    USER,
    Columns,
    Found,
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
from kernels.words import (
    HIGHS,
    ONES,
    Place,
    byte_at,
    each,
    lowest,
    word_at,
    word_of,
    zeros,
)

#: The fields of an event besides its texts, and any other key.
_AT, _TS, _DURATION, _UNKNOWN = range(4, 8)
_REQUIRED = 1 << USER | 1 << SLUG | 1 << _AT
_ABSENT_TS = -1

#: {"user":"u","slug":"s","at":0} and what is between it and the next.
_EVENT_BYTES_MIN = 31

_QUOTE, _COMMA, _COLON, _POINT = ord('"'), ord(","), ord(":"), ord(".")
_OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = ord("{"), ord("}"), ord("["), ord("]")
_SPACE, _TAB, _LINE_FEED, _RETURN = ord(" "), ord("\t"), ord("\n"), ord("\r")
_BACKSLASH = ord("\\")
_MINUS, _ZERO, _NINE, _LOWER_E, _UPPER_E = ord("-"), ord("0"), ord("9"), ord("e"), ord("E")

_QUOTES, _BACKSLASHES, _SPACES, _ZEROS = each('"'), each("\\"), each(" "), each("0")
#: To each byte above 9 it adds up to 0x80 or more.
_ABOVE_NINE = each("\x76")
_THREE, _FOUR, _FIVE = (np.uint64((1 << 8 * size) - 1) for size in (3, 4, 5))
_USER_KEY, _SLUG_KEY, _SESSION_KEY = word_of(b'user"'), word_of(b'slug"'), word_of(b'session"')
_ID_KEY, _AT_KEY, _TS_KEY = word_of(b'id"'), word_of(b'at"'), word_of(b'ts"')
_DURATION_KEY = word_of(b"duration")
_NULL, _TRUE, _FALSE = word_of(b"null"), word_of(b"true"), word_of(b"false")

#: Floats hold these exactly, and whole numbers below the limit: then a quotient of both is the
#: float that is nearest to the decimal, as it is of any parser (Clinger, 1990).
_POWERS = np.array([10.0**places for places in range(9)])
_WHOLE_POWERS = np.array([10**places for places in range(9)])
_EXACT_MAX = 2**53 - 2
_DIGITS_MAX = 18


# Text


@helper
def _past_space(text: Bytes, at: Place) -> Place:
    while True:
        byte = byte_at(text, at)
        if byte > _SPACE or (
            byte != _SPACE and byte != _LINE_FEED and byte != _RETURN and byte != _TAB
        ):
            return at
        at += 1


@helper
def _end_of_string(text: Bytes, at: Place) -> Place:
    """Where the quote is that ends it; gives up at escapes and control characters."""
    while True:
        word = word_at(text, at)
        special = zeros(word ^ _QUOTES) | zeros(word ^ _BACKSLASHES)
        special |= (word - _SPACES) & ~word & HIGHS
        special |= ((word + ONES) | word) & HIGHS  # from U+007F on
        if special == np.uint64(0):
            at += 8
            continue
        at += lowest(special)
        if byte_at(text, at) == _QUOTE:
            return at
        size = character_size(text, at)
        if size == 0:
            return GIVE_UP
        at += size


@helper
def _key(text: Bytes, at: Place) -> tuple[int, Place]:
    """Which field the key is that begins after a quote, and where it ends."""
    word = word_at(text, at)
    five, three = word & _FIVE, word & _THREE
    if five == _USER_KEY:
        return USER, at + 5
    if five == _SLUG_KEY:
        return SLUG, at + 5
    if three == _AT_KEY:
        return _AT, at + 3
    if word == _SESSION_KEY:
        return SESSION, at + 8
    if three == _ID_KEY:
        return ID, at + 3
    if three == _TS_KEY:
        return _TS, at + 3
    if word == _DURATION_KEY and byte_at(text, at + 8) == _QUOTE:
        return _DURATION, at + 9
    return _UNKNOWN, _past_string(text, at)


@helper
def _past_string(text: Bytes, at: Place) -> Place:
    end = _end_of_string(text, at)
    return GIVE_UP if end == GIVE_UP else end + 1


# Numbers


@helper
def _digits(text: Bytes, at: Place) -> tuple[np.int64, Place]:
    """The number that up to 8 digits are, and how many digits there are."""
    word = word_at(text, at) ^ _ZEROS
    others = ((word + _ABOVE_NINE) | word) & HIGHS
    count = np.int64(8)
    if others != np.uint64(0):
        count = lowest(others)
        if count == 0:
            return np.int64(0), count
        word <<= np.uint64(64 - 8 * count)
    # Neighbours are added up: digits to pairs, pairs to fours, fours to eight (Lemire, 2018).
    word = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(10 << 8 | 1) >> np.uint64(8)
    word = (word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100 << 16 | 1) >> np.uint64(16)
    word = (word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(10_000 << 32 | 1) >> np.uint64(32)
    return np.int64(word), count


@helper
def _is_digit(byte: np.uint8) -> bool:
    return bool((byte >= _ZERO) & (byte <= _NINE))


@helper
def _whole(text: Bytes, at: Place) -> tuple[Place, np.int64]:
    """Where a whole number of at most 15 digits ends, and the number."""
    number, count = _digits(text, at)
    end = at + count
    if count == 8:
        more, count = _digits(text, end)
        number = number * _WHOLE_POWERS[count] + more
        end += count
        if count == 8:
            return GIVE_UP, number
    if end == at or (byte_at(text, at) == _ZERO and end > at + 1):
        return GIVE_UP, number
    return end, number


@helper
def _decimal(text: Bytes, at: Place) -> tuple[Place, np.int64, Place, bool]:
    """Where a decimal ends; its first digits, how many are places, and whether there are more."""
    end, number = _whole(text, at)
    if end == GIVE_UP or byte_at(text, end) != _POINT:
        return end, number, 0, False
    more, places = _digits(text, end + 1)
    if places == 0 or end - at + places > _DIGITS_MAX:
        return GIVE_UP, number, 0, False
    number = number * _WHOLE_POWERS[places] + more
    end += 1 + places
    is_longer = False
    while places == 8 and _is_digit(byte_at(text, end)):
        is_longer = True
        end += 1
    return end, number, places, is_longer


@helper
def _has_exponent(text: Bytes, at: Place) -> bool:
    byte = byte_at(text, at)
    return bool((byte == _LOWER_E) | (byte == _UPPER_E))


@helper
def _number(text: Bytes, at: Place, field: int, event: Int64s) -> Place:
    """Takes a number as milliseconds; where it ends."""
    at, number, places, is_longer = _decimal(text, at)
    if at == GIVE_UP or number > _EXACT_MAX or _has_exponent(text, at):
        return GIVE_UP
    scale = 1.0 if field == _TS else 1000.0
    value = number / _POWERS[places]
    ms = np.rint(value * scale)
    upper = value
    if is_longer:
        # What rises with the decimal is the same for it if it is for decimals on both sides.
        upper = (number + 1) / _POWERS[places]
        if np.rint(upper * scale) != ms:
            return GIVE_UP
    if field != _TS and upper > SECONDS_MAX:
        return GIVE_UP
    if field == _DURATION and value < SECONDS_MIN:
        return GIVE_UP
    event[NUMBERS + field - _AT] = np.int64(ms)
    return at


# Events


@helper
def _value(text: Bytes, at: Place, field: int, event: Int64s) -> Place:
    """Takes the value of a field; where it ends."""
    byte = byte_at(text, at)
    if field <= ID and byte == _QUOTE:
        end = _end_of_string(text, at + 1)
        bytes_max = NAME_BYTES_MAX if field <= SLUG else TAG_BYTES_MAX
        if end <= at + 1 or end > at + 1 + bytes_max:
            return GIVE_UP
        event[field] = at + 1
        event[END + field] = end
        return end + 1
    if field >= _AT and _is_digit(byte):
        return _number(text, at, field, event)
    if word_at(text, at) & _FOUR == _NULL and not _REQUIRED >> field & 1:
        return at + 4
    return GIVE_UP


@helper
def _past_unknown(text: Bytes, at: Place) -> Place:
    """Past a value that nobody asks for, if it is a short way."""
    byte, word = byte_at(text, at), word_at(text, at)
    if byte == _QUOTE:
        return _past_string(text, at + 1)
    if word & _FOUR in (_NULL, _TRUE):
        return at + 4
    if word & _FIVE == _FALSE:
        return at + 5
    end, _, _, _ = _decimal(text, at + (byte == _MINUS))
    return GIVE_UP if end == GIVE_UP or _has_exponent(text, end) else end


@helper
def _member(text: Bytes, at: Place, seen: int, event: Int64s) -> tuple[int, Place]:
    """Takes a key and its value; which field it is, and where the value ends."""
    at = _past_space(text, at)
    if byte_at(text, at) != _QUOTE:
        return _UNKNOWN, GIVE_UP
    field, at = _key(text, at + 1)
    if at == GIVE_UP:
        return field, GIVE_UP
    at = _past_space(text, at)
    if byte_at(text, at) != _COLON or (seen >> field & 1 and field != _UNKNOWN):
        return field, GIVE_UP
    at = _past_space(text, at + 1)
    if field == _UNKNOWN:
        return field, _past_unknown(text, at)
    return field, _value(text, at, field, event)


@helper
def _event(text: Bytes, at: Place, event: Int64s) -> Place:
    """Takes an object with all that an event needs; where it ends."""
    if byte_at(text, at) != _OPEN:
        return GIVE_UP
    for place in range(2 * END):
        event[place] = 0
    event[NUMBERS + TS_MS], event[NUMBERS + DURATION_MS] = _ABSENT_TS, 0
    seen = 0
    while True:
        field, at = _member(text, at + 1, seen, event)
        if at == GIVE_UP:
            return GIVE_UP
        seen |= 1 << field
        at = _past_space(text, at)
        if byte_at(text, at) != _COMMA:
            break
    if byte_at(text, at) != _CLOSE or seen & _REQUIRED != _REQUIRED:
        return GIVE_UP
    duration_ms = event[NUMBERS + DURATION_MS]
    if duration_ms and event[NUMBERS + AT_MS] > duration_ms + PAST_END_MAX_MS:
        return GIVE_UP
    return at + 1


# Bodies


@helper
def _first(text: Bytes, is_lines: bool) -> Place:
    """Where the first event begins."""
    at = _past_space(text, np.int64(0))
    if is_lines:
        return at
    return _past_space(text, at + 1) if text[at] == _OPEN_ARRAY else GIVE_UP


@helper
def _next(text: Bytes, at: Place, size: Place, is_lines: bool) -> Place:
    """Where after an event the next one begins, or `size` if it was the last."""
    if is_lines:
        after = _past_space(text, at)
        while at < after and byte_at(text, at) != _LINE_FEED:
            at += 1
        return after if at < after or after == size else GIVE_UP
    at = _past_space(text, at)
    byte = byte_at(text, at)
    after = _past_space(text, at + 1)
    if (byte == _COMMA and after < size) or (byte == _CLOSE_ARRAY and after == size):
        return after
    return GIVE_UP


@helper
def _fill(
    text: Bytes,
    size: Place,
    is_lines: bool,
    columns: Columns,
    names: Names,
    event: Int64s,
    pair: Bytes,
    progress: Int64s,
) -> None:
    """Goes on from where `progress` says, to the end of the body or until slots are few."""
    rows, at, present = progress[0], progress[1], progress[2]
    rows_max = columns.codes.shape[1]
    while 0 <= at < size and has_room(names):
        at = _event(text, at, event) if rows < rows_max else GIVE_UP
        kept = keep(text, event, rows, columns, names, pair) if at != GIVE_UP else GIVE_UP
        present |= kept
        rows += 1
        at = _next(text, at, size, is_lines) if kept != GIVE_UP else GIVE_UP
    progress[0], progress[1], progress[2] = rows, at, present


@kernel
def parse(body: Bytes, is_lines: bool, events_max: int) -> Found:
    """The events of a body."""
    size = len(body)
    text = np.zeros(size + PADDING_BYTES, np.uint8)
    for i in range(size):
        text[i] = body[i]
    rows_max = min(size // _EVENT_BYTES_MIN + 1, events_max)
    columns, names, event, pair = begin(rows_max)
    progress = np.zeros(3, np.int64)
    progress[1] = _first(text, is_lines)
    _fill(text, size, is_lines, columns, names, event, pair, progress)
    while 0 <= progress[1] < size:
        names = with_more_slots(text, names)
        _fill(text, size, is_lines, columns, names, event, pair, progress)
    events = GIVE_UP if progress[1] == GIVE_UP else progress[0]
    return found(text, events, progress[2], columns, names)


@lean_kernel
def count(text: Bytes, depth: int, values_max: int) -> int:
    """The values so deep in arrays and objects; past `values_max` no more are counted.

    What is not JSON gets some number.
    """
    values = level = 0
    is_text = is_escaped = is_word = False
    for byte in text:
        if is_text:
            is_text = is_escaped or byte != _QUOTE
            is_escaped = byte == _BACKSLASH and not is_escaped
            continue
        is_text = byte == _QUOTE
        is_open = byte in (_OPEN, _OPEN_ARRAY)
        is_close = byte in (_CLOSE, _CLOSE_ARRAY)
        is_between = byte <= _SPACE or byte in (_COMMA, _COLON)
        values += level == depth and not (is_word or is_close or is_between)
        if values > values_max:
            break
        is_word = not (is_text or is_open or is_close or is_between)
        level += int(is_open) - int(is_close)
    return values
