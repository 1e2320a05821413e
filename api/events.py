"""POST / and POST /v1/events: taking events in."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from sanic import Blueprint, HTTPResponse, Request

from aggregator.event import TAG_BYTES_MAX, Part, to_batch
from aggregator.lane import Receipt
from api import arrow_stream
from api import documentation as doc
from api.answer import JsonAnswer, encoded_answer
from api.arrow_intake import parse_arrow
from api.context import router, settings
from api.direct import Awaited
from api.intake import Parsed, columns_of, gunzip, parse_json, parse_ndjson, plain_event
from api.problems import (
    ERRORS_LISTED_MAX,
    ProblemError,
    bad_request,
)
from api.schema import EventsAnswer, encode, time_of
from api.settings import Settings

blueprint = Blueprint("events")

#: Larger bodies are parsed beside the event loop, which others wait for.
PARSED_AT_ONCE_BYTES_MAX = 1 << 18
#: So are these, unless a kernel takes all of them: others take twenty times as long.
PARSED_SLOWLY_AT_ONCE_BYTES_MAX = 1 << 14
#: Each thread has memory of its own for a body's events: with more, none of it stays in a cache.
_PARSED_BESIDE_MAX = 2

_FORM = "application/x-www-form-urlencoded"

_parsing = ThreadPoolExecutor(_PARSED_BESIDE_MAX, "parsing")


def _parse_json(body: bytes, limits: Settings) -> Parsed:
    return parse_json(body, limits.events_max)


def _parse_ndjson(body: bytes, limits: Settings) -> Parsed:
    return parse_ndjson(body, limits.events_max)


def _parse_arrow(body: bytes, limits: Settings) -> Parsed:
    return parse_arrow(body, limits.events_max, limits.body_bytes_max)


Parser = Callable[[bytes, Settings], Parsed]
_PARSERS: dict[str, Parser] = {
    "application/json": _parse_json,
    "": _parse_json,
    "application/x-ndjson": _parse_ndjson,
    arrow_stream.CONTENT_TYPE: _parse_arrow,
}


_documented = partial(
    doc.operation,
    "Take events in",
    answer=EventsAnswer,
    body=doc.EVENTS_BODY,
    headers=("Idempotency-Key",),
    problems=(400, 413, 415, 503),
)


def _begin(ctx: Any, body: bytes, content_type: str) -> Awaited | None:
    """Events, unless there are so many that others would wait, or none."""
    parser = _PARSERS.get(content_type)
    if parser is None or len(body) > PARSED_AT_ONCE_BYTES_MAX:
        return None
    if parser is _parse_json and body[:1] == b"{":
        event = plain_event(body)
        if event is not None:  # as in most requests, so with nothing to spare
            return Awaited(ctx.router.submit([event], None, len(body)), _encode_answer_to_one)
    parsed = _parse_swiftly(parser, body, ctx.settings)
    if parsed is None:
        return None
    _refuse_if_all_are_invalid(parsed)
    if not parsed.events:
        return None
    receipt = ctx.router.submit(parsed.events, None, len(body))
    return Awaited(receipt, partial(_encode_answer, parsed))


def _parse_swiftly(parser: Parser, body: bytes, limits: Settings) -> Parsed | None:
    """None if that cannot be done at once."""
    if parser is _parse_arrow or len(body) <= PARSED_SLOWLY_AT_ONCE_BYTES_MAX:
        return parser(body, limits)
    batch = columns_of(body, limits.events_max, is_lines=parser is _parse_ndjson)
    return None if batch is None else Parsed(batch, [])


@blueprint.post("/v1/events", ctx_begin=_begin)
@_documented(
    """One event, an array of events (JSON), one event a line (NDJSON), or an Arrow IPC stream.
The answer comes when all that were accepted are on disk and counted. Any other outcome is
unknown: send the request again, with the same `id`s or the same `Idempotency-Key`, and it counts
once."""
)
def events(request: Request) -> Awaitable[HTTPResponse]:
    return _take(request)


@blueprint.post("/", ctx_begin=_begin)
@_documented("The same as /v1/events.")
def events_at_root(request: Request) -> Awaitable[HTTPResponse]:
    return _take(request)


async def _take(request: Request) -> HTTPResponse:
    parsed, size = await parse(request)
    _refuse_if_all_are_invalid(parsed)
    receipt = Receipt(received_ms=time.time_ns() // 10**6, duplicates=0)
    if parsed.events:
        receipt = await router(request).submit(parsed.events, idempotency_key(request), size)
    return JsonAnswer(_answer(parsed, receipt))


def _refuse_if_all_are_invalid(parsed: Parsed) -> None:
    if parsed.rejected and not parsed.events:
        raise bad_request("No event in the request is valid", parsed.errors)


def _answer(parsed: Parsed, receipt: Receipt) -> bytes:
    accepted = len(parsed.events) - receipt.duplicates
    if not parsed.rejected:
        return _nothing_rejected(accepted, receipt.duplicates, receipt.received_ms)
    errors = parsed.errors[:ERRORS_LISTED_MAX]
    now = time_of(receipt.received_ms)
    return encode(EventsAnswer(accepted, receipt.duplicates, parsed.rejected, errors, now))


@lru_cache(maxsize=256)
def _nothing_rejected(accepted: int, duplicates: int, received_ms: int) -> bytes:
    """The requests of a frame have most of their answers in common."""
    return encode(EventsAnswer(accepted, duplicates, 0, [], time_of(received_ms)))


def _encode_answer(parsed: Parsed, receipt: Receipt) -> bytes:
    return encoded_answer(_answer(parsed, receipt))


def _encode_answer_to_one(receipt: Receipt) -> bytes:
    return _encoded_answer_to_one(receipt.duplicates, receipt.received_ms)


@lru_cache(maxsize=256)
def _encoded_answer_to_one(duplicates: int, received_ms: int) -> bytes:
    return encoded_answer(_nothing_rejected(1 - duplicates, duplicates, received_ms))


async def parse(request: Request) -> tuple[Parsed, int]:
    """The events of the body, by its content type and encoding, and its bytes."""
    content_type = header(request, "content-type")
    parser = _PARSERS.get(content_type)  # mostly as plainly as this
    if parser is None:
        content_type = content_type.partition(";")[0].strip().lower()
        if content_type == _FORM and request.body[:1] in (b"{", b"["):
            content_type = ""  # what curl -d and urllib say when they are told nothing
        parser = _PARSERS.get(content_type)
    if parser is None:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{content_type} is not understood: send application/json, application/x-ndjson or "
            f"{arrow_stream.CONTENT_TYPE} (with curl: -H 'Content-Type: application/json')",
        )
    encoding = header(request, "content-encoding").lower()
    if encoding not in ("", "identity", "gzip"):
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding} is not understood: send gzip, or none",
            headers={"Accept-Encoding": "gzip"},
        )
    body, limits = request.body, settings(request)
    if encoding == "gzip" or len(body) > PARSED_SLOWLY_AT_ONCE_BYTES_MAX:
        parsing = partial(_to_columns, parser, body, limits, is_gzip=encoding == "gzip")
        return await asyncio.get_running_loop().run_in_executor(_parsing, parsing)
    return parser(body, limits), len(body)


def _to_columns(parser: Parser, body: bytes, limits: Settings, is_gzip: bool) -> tuple[Parsed, int]:
    """As `parse`. Inflated here, few bodies are in memory at a time, however many wait."""
    if is_gzip:
        body = gunzip(body, limits.body_bytes_max)
    parsed = parser(body, limits)
    if isinstance(parsed.events, list) and parsed.events:
        parsed.events = to_batch([Part(parsed.events)])
    return parsed, len(body)


def idempotency_key(request: Request) -> str | None:
    key = header(request, "idempotency-key")
    if len(key.encode()) > TAG_BYTES_MAX:
        raise bad_request(f"Idempotency-Key: has more than {TAG_BYTES_MAX} bytes")
    if not key and "idempotency-key" in request.headers:
        raise bad_request("Idempotency-Key: is empty; leave it out, or send 1 to 128 bytes")
    return key or None


def header(request: Request, name: str) -> str:
    """A header's value, "" without one; raises `ProblemError` when it is not UTF-8."""
    value: str = request.headers.get(name, "")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise bad_request(f"The header {name} is not UTF-8") from error
    return value
