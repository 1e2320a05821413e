"""What stands in the path, the query and the headers of a request, checked."""

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from sanic import Request

from aggregator.event import NAME_BYTES_MAX, Event
from aggregator.messages import Place
from api.intake import checked, explain
from api.problems import FieldError, ProblemError, bad_request

_ETAG = re.compile(r'\s*(?:W/)?"?([0-9]{1,18})"?\s*')
_CURSOR = re.compile(r"([0-9]{1,16})-([0-9]{1,18})")
#: A space is what a query makes of the + of an offset.
_OFFSET = re.compile(r" (?=[0-9]{2}:?[0-9]{2}$)")

T = TypeVar("T")


def name_of(parameter: str, segment: str) -> str:
    """The user or slug in a percent-encoded path segment."""
    name = segment
    if "%" in segment:
        try:
            name = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError as error:
            raise bad_request(f"{parameter}: the path is not UTF-8") from error
    if len(name.encode()) > NAME_BYTES_MAX:
        raise bad_request(f"{parameter}: has more than {NAME_BYTES_MAX} bytes")
    return name


def pair_of(user: str, slug: str) -> tuple[str, str]:
    """The names in the path, as those of an event must be."""
    event = checked(Event(name_of("user", user), name_of("slug", slug), 0.0))
    return event.user, event.slug


def choice(request: Request, parameter: str, choices: tuple[str, ...], default: str) -> Any:
    value = _value(request, parameter) or default
    if value not in choices:
        raise bad_request(f"{parameter}: expected one of {', '.join(choices)}, got {value}")
    return value


def whole_number(request: Request, parameter: str, default: int, maximum: int) -> int:
    value = _value(request, parameter) or str(default)
    if not (re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= maximum):
        raise bad_request(f"{parameter}: expected a whole number from 1 to {maximum}, got {value}")
    return int(value)


def time_ms(request: Request, parameter: str) -> int | None:
    """A time of day as Unix milliseconds; None without one. UTC where it has no offset."""
    value = _value(request, parameter)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(_OFFSET.sub("+", value))
    except ValueError as error:
        raise bad_request(
            f"{parameter}: expected a time such as 2026-01-31T20:00:00Z, got {value}"
        ) from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return int(aware.timestamp() * 1000)
    except OverflowError as error:
        raise bad_request(f"{parameter}: {value} is out of range") from error


def place(request: Request) -> Place | None:
    """Where the page before ended."""
    value = _value(request, "cursor")
    if value is None:
        return None
    found = _CURSOR.fullmatch(value)
    if found is None:
        raise bad_request(f"cursor: expected the `next` of the page before, got {value}")
    return Place(int(found[1]), int(found[2]))


def cursor(place: Place) -> str:
    return f"{place.t}-{place.order}"


def if_versions(request: Request) -> list[int] | None:
    """The versions of `If-Match`; empty for `*`, None without the header."""
    value: str | None = request.headers.get("if-match")
    if value is None:
        return None
    if value.strip() == "*":
        return []
    found = [_ETAG.fullmatch(part) for part in value.split(",")]
    if not all(found):
        raise bad_request(f'If-Match: expected a version such as "7", or *, got {value}')
    return [int(one[1]) for one in found if one is not None]


def body_of(request: Request, shape: type[T]) -> T:
    """The JSON body as a struct; raises `ProblemError` that names the field at fault."""
    encoding = request.headers.get("content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding} is not understood here: send the JSON as it is",
        )
    try:
        return msgspec.json.decode(request.body, type=shape)
    except msgspec.ValidationError as error:
        flaw = explain(error)
        detail = flaw.message if flaw.field is None else f"{flaw.field}: {flaw.message}"
        errors = [FieldError(0, flaw.field, flaw.message)]
        raise bad_request(f"The body is not what is expected here. {detail}", errors) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"The body is not JSON: {error}") from error


def _value(request: Request, parameter: str) -> str | None:
    """The parameter's one value; None without it."""
    values: list[str] = request.get_args(keep_blank_values=True).getlist(parameter, [])
    if len(values) > 1:
        raise bad_request(f"{parameter}: is given more than once")
    if values == [""]:
        raise bad_request(f"{parameter}: is empty")
    return values[0] if values else None
