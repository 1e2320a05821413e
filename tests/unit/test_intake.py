"""What is accepted as an event, and how everything else is refused."""

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.event import Event
from api import events, intake
from api.intake import Parsed, gunzip
from api.problems import ProblemError
from api.settings import Settings
from api.warm_up import warm_up

GOOD = {"user": "u", "slug": "m", "at": 1}


class _Delete:
    """In place of a value: the key is taken out."""

    def __repr__(self) -> str:  # so that a test has the same name in each run
        return "DELETE"


DELETE = _Delete()
EVENTS_MAX = 1000


def parse_json(body: bytes) -> Parsed:
    return intake.parse_json(body, EVENTS_MAX)


def parse_ndjson(body: bytes) -> Parsed:
    return intake.parse_ndjson(body, EVENTS_MAX)


NOT_NAMES: list[Any] = [
    None,
    1,
    True,
    [],
    {},
    "",
    "a" * 257,
    "é" * 129,
    "a\n",
    "\0",
    "\x7f",
    "\x85",
]
NOT_TAGS: list[Any] = [1, True, [], "", "a" * 129, "é" * 65]
NOT_POSITIONS: list[Any] = [None, "1", True, [], {}, -1, -0.001, 10_000_000.001, 1e300, 10**30]
NOT_TIMES: list[Any] = ["1", True, -1, 1e300]
NOT_DURATIONS: list[Any] = ["1", True, 0, -5, 10_000_001]

#: Changes to a good event, and the field that must be named.
FLAWS: list[tuple[dict[str, Any], str]] = [
    *(({field: DELETE}, field) for field in GOOD),
    *(({field: value}, field) for field in ("user", "slug") for value in NOT_NAMES),
    *(({field: value}, field) for field in ("session", "id") for value in NOT_TAGS),
    *(({"at": value}, "at") for value in NOT_POSITIONS),
    *(({"ts": value}, "ts") for value in NOT_TIMES),
    *(({"duration": value}, "duration") for value in NOT_DURATIONS),
    ({"at": 101.001, "duration": 100}, "at"),
]

VALID: list[dict[str, Any]] = [
    {},
    {"user": "a" * 256, "slug": "é" * 128},
    {"at": 0},
    {"at": 10_000_000},
    {"at": 0.0005},
    {"session": "s" * 128, "id": "é" * 64},
    {"session": "a\nb"},
    {"session": None, "id": None, "ts": None, "duration": None},
    {"ts": 1_700_000_000_000},
    {"ts": 0},
    {"at": 101, "duration": 100},
    {"player": {"user": [1, {"user": 2}]}, "": None},
    {"user": "کاربر", "slug": "فیلم/۱ 🎬"},
    {"user": 'a"b\\c'},
]


def changed(change: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in (GOOD | change).items() if v is not DELETE}


def encode(events: list[dict[str, Any]], ensure_ascii: bool) -> bytes:
    return json.dumps(events, ensure_ascii=ensure_ascii).encode()


def encode_lines(events: list[dict[str, Any]], ensure_ascii: bool) -> bytes:
    lines = (json.dumps(event, ensure_ascii=ensure_ascii) for event in events)
    return "\n".join(lines).encode()


WAYS = pytest.mark.parametrize(
    ("parse", "encode"), [(parse_json, encode), (parse_ndjson, encode_lines)]
)
ESCAPING = pytest.mark.parametrize("ensure_ascii", [True, False])
Parse = Callable[[bytes], Parsed]
Encode = Callable[[list[dict[str, Any]], bool], bytes]


@WAYS
@ESCAPING
@pytest.mark.parametrize(("change", "field"), FLAWS, ids=repr)
def test_a_flaw_is_named_and_costs_one_event_alone(
    parse: Parse, encode: Encode, ensure_ascii: bool, change: dict[str, Any], field: str
) -> None:
    parsed = parse(encode([GOOD, changed(change), GOOD], ensure_ascii))
    assert parsed.events == [Event("u", "m", 1.0)] * 2
    ((error),) = parsed.errors
    assert (error.index, error.field) == (1, field)
    assert error.message


@WAYS
@ESCAPING
@pytest.mark.parametrize("change", VALID, ids=repr)
def test_what_is_valid_is_taken_as_it_is(
    parse: Parse, encode: Encode, ensure_ascii: bool, change: dict[str, Any]
) -> None:
    event = changed(change)
    parsed = parse(encode([GOOD, event], ensure_ascii))
    assert parsed.errors == []
    wanted = {k: v for k, v in event.items() if k in Event.__struct_fields__}
    assert isinstance(parsed.events, list)
    assert parsed.events[1] == Event(**wanted)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"user":"u","user":"v","slug":"m","at":1}', "user"),
        (b'{"user":"u","slug":"m","at":1,"at":2}', "at"),
        (b'{"user":"u","slug":"m","at":1,"session":null,"session":"s"}', "session"),
        (b'{"us\\u0065r":"u","user":"v","slug":"m","at":1}', "user"),
        (b'{"user":"user","slug":"m","at":1,"id":"1","id":"1"}', "id"),
        (b'{"user":"u","slug":"m","slug":"m","at":1,"x":"\xc3\xa9"}', "slug"),
        (b'{"user":"u","slug":"m","at":1,"ts":1,"ts":1,"n":1' + b"0" * 5000 + b"}", "ts"),
    ],
)
def test_a_key_given_twice_is_named(body: bytes, field: str) -> None:
    for parsed in (
        parse_json(body),
        parse_json(b"[" + body + b"]"),
        parse_ndjson(body),
    ):
        assert [(error.index, error.field) for error in parsed.errors] == [(0, field)]
        assert "more than once" in parsed.errors[0].message


def test_keys_in_values_and_in_nested_objects_are_not_given_twice() -> None:
    body = b'{"user":"user","slug":"slug","at":1,"more":{"at":2,"at":3}}'
    assert parse_json(body) == Parsed([Event("user", "slug", 1.0)], [])


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"[", b"nonsense", b"1", b'"x"', b"null", b"\xef\xbb\xbf{}"),
        b'[{"user":"u","slug":"m","at":1},',
        b'{"user":"u","slug":"m","at":1} x',
        b'{"user":"\xff","slug":"m","at":1}',
        b'{"user":"u","slug":"m","at":1,"unknown":"\xff"}',
        b'{"user":"a\x01","slug":"m","at":1}',
        b"[" * 100_000,
        b'{"user":"u","slug":"m","at":1,"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_not_json_is_refused_whole(body: bytes) -> None:
    with pytest.raises(ProblemError) as refusal:
        parse_json(body)
    assert refusal.value.status == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("field", ["at", "ts", "duration"])
def test_nan_is_not_json_and_is_named(value: bytes, field: str) -> None:
    bad = b'{"user":"u","slug":"m","at":1,"%s":%s}' % (field.encode(), value)
    good = b'{"user":"u","slug":"m","at":1}'
    for parse, body in (
        (parse_json, b"[%s,%s]" % (good, bad)),
        (parse_ndjson, b"%s\n%s\n" % (good, bad)),
    ):
        with pytest.raises(ProblemError) as refusal:
            parse(body)
        assert [(e.index, e.field) for e in refusal.value.errors or []] == [(1, field)]


def test_half_a_character_is_named() -> None:
    with pytest.raises(ProblemError) as refusal:
        parse_json(b'{"user":"\\ud800","slug":"m","at":1}')
    assert [(e.index, e.field) for e in refusal.value.errors or []] == [(0, "user")]


@pytest.mark.parametrize("element", [b"0", b"{}", b'{"user":"u","slug":"m","at":1}'])
def test_too_many_events_are_refused_before_each_is_looked_at(element: bytes) -> None:
    for parse, separator in ((parse_json, b","), (parse_ndjson, b"\n")):
        body = separator.join([element] * (EVENTS_MAX + 1))
        with pytest.raises(ProblemError) as refusal:
            parse(b"[" + body + b"]" if parse is parse_json else body)
        assert refusal.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_lines_may_be_empty_and_end_as_on_windows() -> None:
    line = json.dumps(GOOD).encode()
    assert len(parse_ndjson(line + b"\r\n\r\n" + line + b"\n\n").events) == 2
    assert parse_ndjson(b"") == Parsed([], [])


def test_one_bad_line_is_not_json_and_nothing_counts() -> None:
    with pytest.raises(ProblemError):
        parse_ndjson(json.dumps(GOOD).encode() + b"\nnonsense\n")


def is_answered(parse: Parse, body: bytes) -> bool:
    """Whether `body` is taken, sorted out or refused with a 400; anything else is raised."""
    try:
        parse(body)
    except ProblemError as problem:
        return problem.status == HTTPStatus.BAD_REQUEST
    return True


@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(body: bytes) -> None:
    assert is_answered(parse_json, body)
    assert is_answered(parse_ndjson, body)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_no_value_of_a_field_makes_it_fail_otherwise(value: Any) -> None:
    for field in Event.__struct_fields__:
        assert is_answered(parse_json, json.dumps(GOOD | {field: value}).encode())


@pytest.mark.parametrize("depth", [100, 900, 1500, 5000, 50_000])
def test_no_depth_makes_it_fail_otherwise(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    assert is_answered(parse_json, b'{"user":5,"x":%s}' % nested)
    assert is_answered(parse_json, b'{"user":"\\u0041","slug":"m","at":1,"x":%s}' % nested)


def test_gzip_is_undone_within_its_limit() -> None:
    body = b"x" * 10_000
    assert gunzip(gzip.compress(body), 10_000) == body
    assert gunzip(gzip.compress(body[:9]) + gzip.compress(body[9:]), 10_000) == body
    with pytest.raises(ProblemError) as bomb:
        gunzip(gzip.compress(b"0" * 50_000_000), 10_000)
    assert bomb.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert gunzip(b"", 10_000) == gunzip(gzip.compress(b"") * 1000, 10_000) == b""
    for broken in (b"not gzip", gzip.compress(body)[:-4], gzip.compress(body)[:20]):
        with pytest.raises(ProblemError) as refusal:
            gunzip(broken, 10_000)
        assert refusal.value.status == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("one", [b"1,", b'{"user":1},', b"[],"])
def test_too_many_values_are_refused_before_there_is_an_object_for_each(one: bytes) -> None:
    """A few kilobytes of gzip took half a gigabyte for a moment."""
    many = 1_000_000
    array, lines = b"[" + one * many + b"1]", one.replace(b",", b"\n") * many
    warm_up()
    for parsed, body in ((parse_json, array), (parse_ndjson, lines)):
        tracemalloc.start()
        with pytest.raises(ProblemError) as refusal:
            parsed(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert refusal.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert peak_bytes < 2 * len(body)


def test_few_bodies_are_inflated_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests wait to be parsed."""
    inflated: list[int] = []
    parsed: list[int] = []

    def note(body: bytes, bytes_max: int) -> bytes:
        inflated.append(len(inflated) - len(parsed) + 1)
        return gunzip(body, bytes_max)

    def parse(body: bytes, _: int) -> Parsed:
        time.sleep(0.01)
        parsed.append(len(body))
        return parse_json(body)

    monkeypatch.setattr(events, "gunzip", note)
    monkeypatch.setattr(events, "parse_json", parse)
    body = gzip.compress(json.dumps([GOOD] * 50).encode())
    request: Any = SimpleNamespace(
        body=body,
        headers={"content-encoding": "gzip"},
        app=SimpleNamespace(ctx=SimpleNamespace(settings=Settings())),
    )

    async def run() -> None:
        await asyncio.gather(*(events.parse(request) for _ in range(20)))

    asyncio.run(run())
    assert len(parsed) == 20
    assert max(inflated) <= 3, "a thread may have noted neither yet"
