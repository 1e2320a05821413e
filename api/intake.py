"""From the bytes of a request to checked events, and what is wrong with the others.

Bodies of many events go to a kernel that makes columns of them, or gives up at the
first thing that is unusual (`kernels/json_events.py`).

The others, and those that it gave up, go through one pass of msgspec, whose types and
ranges are those of `Event`. What it cannot see (names too long in bytes, control
characters, keys given twice) is ruled out for all events together by looking at
the bytes. Only where that fails are events looked at one by one.
"""

import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from aggregator.event import NAME_BYTES_MAX, TAG_BYTES_MAX, Event
from api.problems import FieldError, bad_request, too_large
from kernels import json_events
from kernels.event_columns import Found
from persistence.batch import Batch
from persistence.strings import Strings

#: An event may lie this far past the end that it states.
PAST_END_MAX_MS = 1000
#: Smaller bodies are parsed to events: those of many requests become columns together.
COLUMNS_BYTES_MIN = 2_000
#: In a larger body that is not JSON, the fields at fault are not looked for.
EXPLAINED_BYTES_MAX = 1 << 20

#: A digit, and what is between it and the next.
_VALUE_BYTES_MIN = 2
_FIELDS = Event.__struct_fields__
#: Quotes in {"user": "u", "slug": "m", "at": 0}: three keys and two values.
_QUOTES_OF_REQUIRED = 10
_QUOTES_OF_OPTIONAL = {"session": 4, "id": 4, "ts": 2, "duration": 2}


class _Form(NamedTuple):
    """How a body holds events: its decoder, its parts, and its JSON documents."""

    decode: Callable[[bytes], list[Event]]
    split: Callable[[bytes], list[msgspec.Raw]]
    documents: Callable[[bytes], list[bytes]]


_event = msgspec.json.Decoder(Event)
_raw = msgspec.json.Decoder(msgspec.Raw)
_ONE = _Form(lambda body: [_event.decode(body)], lambda body: [_raw.decode(body)], lambda b: [b])
_ARRAY = _Form(
    msgspec.json.Decoder(list[Event]).decode,
    msgspec.json.Decoder(list[msgspec.Raw]).decode,
    lambda body: [body],
)
_LINES = _Form(_event.decode_lines, _raw.decode_lines, bytes.splitlines)

PAST_END = "lies more than 1 s past the event's own duration"
#: Fields in which a control character is a flaw.
NAMES = ("user", "slug")
BYTES_MAX = {
    "user": NAME_BYTES_MAX,
    "slug": NAME_BYTES_MAX,
    "session": TAG_BYTES_MAX,
    "id": TAG_BYTES_MAX,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<field>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")
_PLAIN_WORDS = {
    "float": "number",
    "float | null": "number",
    "int": "number",
    "str": "string",
    "str | null": "string",
}


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why an event is not taken; `field` is None when it is not one field's fault."""

    field: str | None
    message: str


@dataclass(slots=True)
class Parsed:
    """The valid events of a request, and an error for each of the others."""

    events: list[Event] | Batch
    errors: list[FieldError]
    #: Errors that nobody would be told of are only counted.
    unlisted: int = 0

    @property
    def rejected(self) -> int:
        return len(self.errors) + self.unlisted


def parse_json(body: bytes, events_max: int) -> Parsed:
    """One event or an array of events. Raises `ProblemError` when the body is neither."""
    if body.lstrip(b" \t\r\n")[:1] == b"{":
        return _parse(body, events_max, _ONE)
    return _parse_many(body, events_max, _ARRAY)


def parse_ndjson(body: bytes, events_max: int) -> Parsed:
    """One event a line. Raises `ProblemError` when a line is not JSON; then none counts."""
    return _parse_many(body, events_max, _LINES)


def _parse_many(body: bytes, events_max: int, form: _Form) -> Parsed:
    """The fast way where it pays and can be taken, else the one that knows everything."""
    if len(body) >= COLUMNS_BYTES_MIN:
        batch = columns_of(body, events_max, is_lines=form is _LINES)
        if batch is not None:
            return Parsed(batch, [])
    if len(body) > events_max * _VALUE_BYTES_MIN:
        # Before there is an object for each: of the smallest, 40 times the body's memory.
        _check_count(count_values(body, events_max, is_lines=form is _LINES), events_max)
    return _parse(body, events_max, form)


def count_values(body: bytes, values_max: int, is_lines: bool) -> int:
    """In an array, or on lines; those past one more than the most are not counted."""
    content = np.frombuffer(body, np.uint8)
    return int(json_events.count(content, 0 if is_lines else 1, values_max))


def columns_of(body: bytes, events_max: int, is_lines: bool) -> Batch | None:
    """The events of an array, or of lines, if there is nothing unusual in them."""
    return batch_of(json_events.parse(np.frombuffer(body, np.uint8), is_lines, events_max))


def batch_of(found: Found) -> Batch | None:
    """What a kernel found, unless it gave up or there is nothing."""
    events, present, numbers, codes, offsets, names, counts, sizes = found
    if events <= 0:
        return None
    users, slugs, sessions = Strings.cut(offsets, names, counts, sizes)
    user, slug, session = codes[:, :events]
    at_ms, *others = numbers[:, :events]
    ts_ms, duration_ms, id_hash = (
        column if present >> bit & 1 else None for bit, column in enumerate(others, 1)
    )
    return Batch(
        *(users, slugs, sessions, user, slug, session),
        *(at_ms, ts_ms, duration_ms, id_hash),
    )


def plain_event(body: bytes) -> Event | None:
    """The event that a body is; None where `parse_json` is to say what it is."""
    try:
        event = _event.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event if _is_plain(body, [event]) else None


def checked(event: Event) -> Event:
    """The event; raises `ProblemError` for what its types do not show."""
    flaw = _flaw(event)
    if flaw is not None:
        raise bad_request(f"{flaw.field}: {flaw.message}")
    return event


def control_flaw(name: str) -> str | None:
    """What is wrong with a name for its control characters, if it has any."""
    control = _CONTROL.search(name)
    return None if control is None else f"has a control character (U+{ord(control[0]):04X})"


def bytes_flaw(bytes_max: int) -> str:
    """What is wrong with a text of more bytes."""
    return f"has more than {bytes_max} bytes in UTF-8"


def gunzip(body: bytes, bytes_max: int) -> bytes:
    """Raises `ProblemError` for what is not gzip, or inflates to more than `bytes_max`."""
    try:
        inflated = gzip.GzipFile(fileobj=io.BytesIO(body)).read(bytes_max + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise bad_request(f"The body is not gzip, as it says it is ({error})") from error
    if len(inflated) > bytes_max:
        raise too_large(f"The body inflates to more than {bytes_max} bytes")
    return inflated


def _parse(body: bytes, events_max: int, form: _Form) -> Parsed:
    try:
        if not body.isascii():
            body.decode()
        try:
            events = form.decode(body)
        except msgspec.ValidationError:
            return _look_at_each(form.split(body), events_max)
        _check_count(len(events), events_max)
        if _is_plain(body, events):
            return Parsed(events, [])
        if _has_single_keys(body, events):
            return _sort_out(_flaw(event) or event for event in events)
        return _look_at_each(form.split(body), events_max)
    except msgspec.ValidationError as error:
        raise bad_request("Expected an event (a JSON object) or an array of events") from error
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise bad_request("The body is nested too deeply") from error
    except msgspec.DecodeError as error:
        impostors = _impostors(form.documents(body)) if len(body) <= EXPLAINED_BYTES_MAX else []
        raise bad_request(f"Not JSON, nothing was counted. {error}", impostors) from error


def _check_count(events: int, events_max: int) -> None:
    if events > events_max:
        raise too_large(f"The body has more than {events_max} events")


def _look_at_each(encoded: list[msgspec.Raw], events_max: int) -> Parsed:
    _check_count(len(encoded), events_max)
    return _sort_out(_decode_one(bytes(raw)) for raw in encoded)


def _is_plain(body: bytes, events: list[Event]) -> bool:
    """Whether no event can have a flaw that decoding does not show.

    ASCII bodies have as many bytes as characters; without backslashes every
    key and control character stands there literally; and if the quotes are no
    more than the fields decoded need, no key stands there twice.
    """
    if not body.isascii() or b"\\" in body or b"\x7f" in body:
        return False
    quotes = body.count(b'"')
    if quotes == _QUOTES_OF_REQUIRED * len(events):
        return True
    if any(_is_past_end(event) for event in events):
        return False
    return quotes == _QUOTES_OF_REQUIRED * len(events) + sum(
        cost * sum(getattr(event, field) is not None for event in events)
        for field, cost in _QUOTES_OF_OPTIONAL.items()
    )


def _has_single_keys(body: bytes, events: list[Event]) -> bool:
    """Whether no known key can stand twice in an event, judged by counting them all."""
    return b"\\" not in body and all(
        body.count(b'"%s"' % field.encode())
        == sum(getattr(event, field) is not None for event in events)
        for field in _FIELDS
    )


def _sort_out(outcomes: Iterable[Event | Flaw]) -> Parsed:
    events: list[Event] = []
    errors: list[FieldError] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Event):
            events.append(outcome)
        else:
            errors.append(FieldError(index, outcome.field, outcome.message))
    return Parsed(events, errors)


def _decode_one(encoded: bytes) -> Event | Flaw:
    try:
        event = _event.decode(encoded)
    except msgspec.ValidationError as error:
        return explain(error)
    repeated = _repeated_key(encoded)
    if repeated is not None:
        return Flaw(repeated, "is given more than once")
    return _flaw(event) or event


def _flaw(event: Event) -> Flaw | None:
    """What is wrong with an event of the right types and ranges."""
    for field in NAMES:
        if message := control_flaw(getattr(event, field)):
            return Flaw(field, message)
    for field, bytes_max in BYTES_MAX.items():
        text = getattr(event, field)
        if text is not None and len(text.encode()) > bytes_max:
            return Flaw(field, bytes_flaw(bytes_max))
    if _is_past_end(event):
        return Flaw("at", PAST_END)
    return None


def _is_past_end(event: Event) -> bool:
    return event.duration is not None and (
        round(event.at * 1000) > round(event.duration * 1000) + PAST_END_MAX_MS
    )


def _repeated_key(encoded: bytes) -> str | None:
    """A known key that stands more than once at the top of the object."""
    pairs = json.loads(encoded, object_pairs_hook=list, parse_int=str, parse_float=str)
    keys = Counter(key for key, _ in pairs)
    return next((field for field in _FIELDS if keys[field] > 1), None)


def explain(error: msgspec.ValidationError) -> Flaw:
    """msgspec's message, as one about a field."""
    where = _WHERE.match(str(error))
    assert where is not None
    what, field = where["what"], where["field"] or None
    if missing := _MISSING.match(what):
        return Flaw(missing["field"], "is missing")
    message = re.sub(r"`(.*?)`", lambda m: _PLAIN_WORDS.get(m[1], m[1]), what)
    return Flaw(field, message[0].lower() + message[1:])


def _impostors(documents: Iterable[bytes]) -> list[FieldError]:
    """NaN, Infinity and lone surrogates, which Python's parser lets through."""
    try:
        parsed = [json.loads(document) for document in documents if document.strip()]
    except (ValueError, RecursionError):
        return []
    items = parsed[0] if len(parsed) == 1 and isinstance(parsed[0], list) else parsed
    return [
        FieldError(index, field, "is not a JSON value (NaN, Infinity or half a character)")
        for index, item in enumerate(items)
        if isinstance(item, dict)
        for field in _FIELDS
        if _is_impostor(item.get(field))
    ]


def _is_impostor(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
