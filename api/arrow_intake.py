"""From an Arrow IPC stream to checked events, as columns all the way.

What an event is, and the words for what is wrong with one, are those of JSON.
A text is looked at once, not for each event that has it; numbers are vectors.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import inspect
from numpy.typing import NDArray

from aggregator.event import Event, pair_hashes, to_ms
from api import arrow_plain
from api.arrow_columns import (
    NONE,
    Numbers,
    Texts,
    bytes_of,
    holds_numbers,
    holds_texts,
    holds_times,
    numbers_of,
    texts_builder,
)
from api.arrow_stream import Stream, refusals
from api.intake import (
    BYTES_MAX,
    NAMES,
    PAST_END,
    PAST_END_MAX_MS,
    Parsed,
    bytes_flaw,
    control_flaw,
)
from api.problems import ERRORS_LISTED_MAX, FieldError, bad_request
from persistence.batch import NO_SESSIONS, Batch, compact
from persistence.strings import Strings

_TYPE_QUOTED_MAX = 60

_Mask = NDArray[np.bool_]
#: Places of events, or all of them.
_Which = NDArray[np.intp] | slice


class _Rule(NamedTuple):
    """What `Event` says of a field."""

    name: str
    type: inspect.StrType | inspect.FloatType
    required: bool


class _Columns(NamedTuple):
    """The columns of a stream, by the fields of an event; some may be missing."""

    texts: dict[str, Texts]
    numbers: dict[str, Numbers]


def parse_arrow(body: bytes, events_max: int, bytes_max: int) -> Parsed:
    """The events of a stream. Raises `ProblemError` when it is none, or lacks a column.

    `bytes_max` is for what compressed buffers inflate to, all together.
    """
    batch = arrow_plain.columns_of(body, events_max)
    if batch is not None:
        return Parsed(batch, [])
    columns = _read(Stream(body, events_max, bytes_max))
    if columns is None:
        return Parsed([], [])
    flaws = _Flaws(len(columns.numbers["at"].values))
    _check(columns, flaws)
    errors, unlisted = flaws.listed()
    if len(errors) + unlisted == flaws.events:
        return Parsed([], errors, unlisted)
    return Parsed(_batch(columns, flaws.without()), errors, unlisted)


# The columns


def _rules() -> list[_Rule]:
    event = inspect.type_info(Event)
    assert isinstance(event, inspect.StructType)
    rules = []
    for field in event.fields:
        type_ = field.type.types[0] if isinstance(field.type, inspect.UnionType) else field.type
        assert isinstance(type_, inspect.StrType | inspect.FloatType)
        rules.append(_Rule(field.name, type_, field.required))
    return rules


_RULES = _rules()


def _places(schema: pa.Schema) -> dict[str, int]:
    """Where the fields of an event are in the schema, ascending; `ProblemError` if not as due."""
    names = schema.names
    missing = [rule.name for rule in _RULES if rule.required and rule.name not in names]
    if missing:
        raise bad_request(f"There is no column {', '.join(missing)}, which every event needs")
    places = {rule.name: names.index(rule.name) for rule in _RULES if rule.name in names}
    for name, place in places.items():
        if names.count(name) > 1:
            raise bad_request(f"The column {name} is given more than once")
        _check_type(name, schema.field(place).type)
    return dict(sorted(places.items(), key=lambda item: item[1]))


def _check_type(name: str, given: pa.DataType) -> None:
    if name in BYTES_MAX:
        is_right, expected = holds_texts(given), "strings, plain or dictionary-encoded"
    elif name == "ts":
        is_right, expected = holds_times(given), "numbers (Unix milliseconds) or timestamps"
    else:
        is_right, expected = holds_numbers(given), "numbers (seconds)"
    if not is_right:
        quoted = str(given)[:_TYPE_QUOTED_MAX]
        raise bad_request(f"The column {name} is of type {quoted}: expected {expected}")


def _read(stream: Stream) -> _Columns | None:
    """The columns of all batches; None when there is no event in them."""
    with refusals():
        places = _places(stream.schema)
    builders = {
        # Nothing is gained from equal ids: a sane request has none.
        name: texts_builder(stream.schema.field(place).type, distinct=name != "id")
        for name, place in places.items()
        if name in BYTES_MAX
    }
    chunks: dict[str, list[pa.Array]] = {name: [] for name in places if name not in BYTES_MAX}
    for batch in stream.batches(list(places.values())):
        for name, chunk in zip(places, batch, strict=True):
            if name in BYTES_MAX:
                builders[name].add(chunk)
            else:
                chunks[name].append(chunk)
    if not chunks["at"]:
        return None
    return _Columns(
        {name: builder.build() for name, builder in builders.items()},
        {name: numbers_of(of_column) for name, of_column in chunks.items()},
    )


# What is wrong with the events


class _Flaws:
    """The flaw of each event that was found first."""

    def __init__(self, events: int) -> None:
        self.events = events
        self._flaw = np.full(events, NONE, np.int16)
        self._found: list[tuple[str, Callable[[int], str]]] = []

    def add(self, field: str, events: _Mask | None, message: str | Callable[[int], str]) -> None:
        """To these events, or none; `message` may depend on the event's index."""
        if events is not None and events.any():
            self._flaw[events & (self._flaw == NONE)] = len(self._found)
            self._found.append((field, message if callable(message) else lambda _: message))

    def without(self) -> _Which:
        """The events that have none."""
        return np.flatnonzero(self._flaw == NONE) if self._found else slice(None)

    def found(self) -> NDArray[np.intp]:
        """The events that have one."""
        return np.flatnonzero(self._flaw != NONE)

    def listed(self) -> tuple[list[FieldError], int]:
        """An error for each of the first, and how many more there are."""
        flawed = self.found() if self._found else np.empty(0, np.intp)
        errors = []
        for index in flawed[:ERRORS_LISTED_MAX].tolist():
            field, message = self._found[self._flaw[index]]
            errors.append(FieldError(index, field, message(index)))
        return errors, len(flawed) - len(errors)


def _check(columns: _Columns, flaws: _Flaws) -> None:
    """In the order in which decoding and then looking at a JSON event finds them."""
    for rule in _RULES:
        if isinstance(rule.type, inspect.StrType) and rule.name in columns.texts:
            _check_length(rule.name, rule.type, columns.texts[rule.name], flaws)
        elif isinstance(rule.type, inspect.FloatType) and rule.name in columns.numbers:
            _check_range(rule.name, rule.type, columns.numbers[rule.name], flaws)
    for rule in _RULES:
        if rule.required:
            _check_presence(rule.name, columns, flaws)
    for name in NAMES:
        _check_controls(name, columns.texts[name], flaws)
    for name, bytes_max in BYTES_MAX.items():
        if texts := columns.texts.get(name):
            too_long = _of_events(texts, texts.lengths_bytes > bytes_max)
            flaws.add(name, too_long, bytes_flaw(bytes_max))
    if "duration" in columns.numbers:
        _check_end(columns.numbers["at"], columns.numbers["duration"], flaws)


def _check_presence(name: str, columns: _Columns, flaws: _Flaws) -> None:
    column = columns.texts[name] if name in columns.texts else columns.numbers[name]
    if not column.complete:
        missing = column.codes == NONE if isinstance(column, Texts) else ~column.given
        flaws.add(name, missing, "is missing")


def _of_events(texts: Texts, is_so: _Mask) -> _Mask | None:
    """Which events have a text that is so; None when no text is."""
    if not is_so.any():
        return None
    return np.not_equal(texts.codes, NONE) & is_so[texts.codes]


def _check_length(name: str, rule: inspect.StrType, texts: Texts, flaws: _Flaws) -> None:
    assert rule.min_length is not None
    assert rule.max_length is not None
    too_short = _of_events(texts, texts.lengths_bytes < rule.min_length)
    flaws.add(name, too_short, f"expected string of length >= {rule.min_length}")
    if (texts.lengths_bytes > rule.max_length).any():
        characters = pc.fill_null(pc.utf8_length(texts.texts), 0).to_numpy()
        too_long = _of_events(texts, characters > rule.max_length)
        flaws.add(name, too_long, f"expected string of length <= {rule.max_length}")


def _check_range(name: str, rule: inspect.FloatType, numbers: Numbers, flaws: _Flaws) -> None:
    values = numbers.values
    assert rule.ge is not None
    assert rule.le is not None
    is_right = (values >= rule.ge) & (values <= rule.le)
    if not numbers.complete:
        is_right |= ~numbers.given
    if is_right.all():
        return
    flaws.add(name, ~np.isfinite(values), "is not a finite number")
    flaws.add(name, ~is_right & (values < rule.ge), f"expected number >= {float(rule.ge)}")
    flaws.add(name, ~is_right & (values > rule.le), f"expected number <= {float(rule.le)}")


def _check_controls(name: str, texts: Texts, flaws: _Flaws) -> None:
    if not _may_have_controls(texts.texts):
        return
    of_texts = [control_flaw(text or "") for text in texts.texts.to_pylist()]
    flawed = _of_events(texts, np.array([flaw is not None for flaw in of_texts], np.bool_))
    flaws.add(name, flawed, lambda index: of_texts[texts.codes[index]] or "")


def _may_have_controls(texts: pa.Array) -> bool:
    """By the bytes of all texts; in UTF-8, C2 leads to U+0080 to U+009F and 32 others."""
    content = bytes_of(texts).tobytes()
    if b"\x7f" in content or b"\xc2" in content:
        return True
    return bool((np.frombuffer(content, np.uint8) < 0x20).any())


def _check_end(at: Numbers, duration: Numbers, flaws: _Flaws) -> None:
    judged = duration.given.copy()
    judged[flaws.found()] = False
    past_ms = to_ms(at.values[judged], 1000) - to_ms(duration.values[judged], 1000)
    judged[judged] = past_ms > PAST_END_MAX_MS
    flaws.add("at", judged, PAST_END)


# The valid events


def _batch(columns: _Columns, valid: _Which) -> Batch:
    texts, numbers = columns
    users, user = _table(texts["user"], valid)
    slugs, slug = _table(texts["slug"], valid)
    sessions, session = NO_SESSIONS, np.zeros(len(user), np.int32)
    if "session" in texts:
        sessions, session = _table(texts["session"], valid)
    return Batch(
        users,
        slugs,
        sessions,
        user,
        slug,
        session,
        at_ms=to_ms(numbers["at"].values[valid], 1000),
        ts_ms=_optional(numbers.get("ts"), valid, absent=-1, scale=1),
        duration_ms=_optional(numbers.get("duration"), valid, absent=0, scale=1000),
        id_hash=_id_hash(users, user, texts.get("id"), valid),
    )


def _table(texts: Texts, valid: _Which) -> tuple[Strings, NDArray[np.int32]]:
    """The texts that valid events have, and which each has; "" stands for none."""
    if isinstance(valid, slice) and texts.complete:
        return _strings(texts.texts), texts.codes
    codes = texts.codes[valid]
    has_one = codes != NONE
    used, compacted = compact(codes[has_one], len(texts.texts))
    of_used = texts.texts if len(used) == len(texts.texts) else texts.texts.take(pa.array(used))
    names = _strings(of_used)
    if len(compacted) == len(codes):
        return names, compacted
    with_none = np.full(len(codes), len(names), np.int32)
    with_none[has_one] = compacted
    return Strings.concatenate([names, NO_SESSIONS]), with_none


def _strings(texts: pa.Array) -> Strings:
    return Strings.of_arrow(texts.cast(pa.string()))


def _optional(
    numbers: Numbers | None, valid: _Which, absent: int, scale: int
) -> NDArray[np.int64] | None:
    """Milliseconds, `absent` where there are none; None when there are none at all."""
    if numbers is None or not (given := numbers.given[valid]).any():
        return None
    return np.where(given, to_ms(numbers.values[valid], scale), absent)


def _id_hash(
    users: Strings, user: NDArray[np.int32], ids: Texts | None, valid: _Which
) -> NDArray[np.int64] | None:
    """The one thing that is made for each event: hashes on disk are of (user, id)."""
    if ids is None or not ((code := ids.codes[valid]) != NONE).any():
        return None
    return pair_hashes(users, user, _strings(ids.texts), code)
