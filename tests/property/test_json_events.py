"""The two ways from JSON to events: what the fast one takes, it takes as the other does."""

import itertools
import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.event import Event, Part, to_batch
from api import intake
from api.intake import count_values
from api.problems import ProblemError
from api.warm_up import warm_up
from persistence.batch import Batch

EVENTS_MAX = 1_000
NAMES = ["u", "user-00000001", "user-00000002", "x" * 8, "x" * 9, "x" * 256, "کاربر", "é" * 128]
NAMES += ["a b", "}", ",", "[{", "null", "at", "~", "\xa0", "߿ࠀ퟿￿𐀀􏿿", "🎬"]
#: With a flaw, or with escapes when they are JSON.
ODD_NAMES = ["", "x" * 257, "é" * 129, "\x7f", "\x85", "\n", '"', "\\", "\0"]
TAGS = ["s", "t", "x" * 128, "é" * 64, "id-00000001"]
ODD_TAGS = ["", "x" * 129, "é" * 65, "tab\t", "\x7f"]
#: Just where a number stops being right, or is rounded to another millisecond.
NUMBERS = [
    *("0", "1", "7", "10000000", "9999999.999", "0.001", "0.0015", "0.0025", "2.5"),
    *("3.5", "1700000000000", "1700000000000.5", "0.5", "1.0005", "0.00050000"),
    *("1.00049999999999999999", "1.000500000000000000001", "12.34567890123456789"),
    *("9999999.99999999", "45035996273704.95", "9007199254740990"),
    *("9007199254740989", "4503599627370497.5", "1.00250000000001", "2.50000000000001"),
    *("101", "101.0005", "101.001", "101.0014999", "184467440737.09551617"),
]
ODD_NUMBERS = [
    *("-0", "-1", "-0.5", "00", "01", "0.", ".5", "1.", "+", "-", "1e3", "1E3"),
    *("1e400", "1e-7", "1.5e1", "NaN", "Infinity", "true", '"1"', "[]", "{}", "1_0"),
    *("0x1", "10000000.0000000001", "10000000.001", "9999999.999999999999"),
    *("10000001", "0.0009999999999", "0.00099999", "0.0", "9007199254740991"),
    *("9007199254740992", "9007199254740993", "18446744073709551616"),
    *("123456789012345678901", "1700000000000.123456789", "900719925474099.25"),
    *("1700000000000000.5"),
]
FIELDS = ("user", "slug", "at", "session", "id", "ts", "duration")
UNKNOWN = ["x", "", "users", "use", "At", "sessions", "durations", "é", "player"]
VALUES = ["null", "true", "false", "-1", "0", "1.5", '"s"', '"é"', '""', '"at"']
ODD_VALUES = ["nul", "tru", "falsey", "01", "1.", "-", "1e5", '"\\n"', "[1]", '{"at": 1}', "", '"']


def written(texts: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(texts).map(lambda text: json.dumps(text, ensure_ascii=False))


def mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 40).flatmap(lambda number: usual if number else odd)


MILLISECONDS = st.integers(0, 10**10).map(lambda ms: str(ms / 1000))
DECIMALS = st.decimals(0, 10**7, allow_nan=False).map(lambda each: f"{each:f}")
NUMBER = mostly(MILLISECONDS | DECIMALS, st.sampled_from([*NUMBERS, *ODD_NUMBERS]))
NAME = mostly(written(NAMES), written(ODD_NAMES) | st.sampled_from(VALUES))
TAG = mostly(written(TAGS) | st.just("null"), written(ODD_TAGS) | st.sampled_from(VALUES))
OF_FIELD = {"user": NAME, "slug": NAME, "session": TAG, "id": TAG}
OF_FIELD["duration"] = mostly(st.sampled_from(["10000000", "9999999.9995", "null"]), NUMBER)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r"])


@st.composite
def objects(draw: st.DrawFn) -> str:
    """An event, or almost one."""
    keys = ["user", "slug", "at", *draw(st.sets(st.sampled_from(FIELDS[3:])))]
    if not draw(st.integers(0, 30)):
        keys.append(draw(st.sampled_from(FIELDS)))
    if not draw(st.integers(0, 30)):
        keys.remove(draw(st.sampled_from(keys)))
    members = [
        f'"{key}"{draw(SPACE)}:{draw(SPACE)}{draw(OF_FIELD.get(key, NUMBER))}' for key in keys
    ]
    if not draw(st.integers(0, 9)):
        value = draw(mostly(st.sampled_from(VALUES), st.sampled_from(ODD_VALUES)))
        members.append(f'"{draw(st.sampled_from(UNKNOWN))}":{value}')
    space = draw(SPACE)
    between = f"{space},{draw(SPACE)}"
    return f"{{{space}{between.join(draw(st.permutations(members)))}{space}}}"


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bool]:
    """An array or lines."""
    is_lines = draw(st.booleans())
    events = draw(st.lists(objects(), max_size=5))
    between = draw(st.sampled_from(["\n", "\r\n", "\n \n", " "] if is_lines else [",", " ,\n"]))
    text = between.join(events)
    text = f"{draw(SPACE)}{text if is_lines else f'[{text}]'}{draw(SPACE)}"
    return text.encode(), is_lines


def slowly(body: bytes, events_max: int, is_lines: bool) -> Batch | None:
    """What is taken of a body in which nothing is wrong; None for any other."""
    form = intake._LINES if is_lines else intake._ARRAY
    try:
        parsed = intake._parse(body, events_max, form)
    except ProblemError:
        return None
    assert isinstance(parsed.events, list)
    return to_batch([Part(parsed.events)]) if parsed.events and not parsed.errors else None


def agree(body: bytes, is_lines: bool, events_max: int = EVENTS_MAX) -> bool:
    """Whether the fast way takes it; if so, it must be what the slow way does, to the last byte."""
    columns = intake.columns_of(body, events_max, is_lines)
    if columns is None:
        return False
    others = slowly(body, events_max, is_lines)
    assert others is not None, body
    assert columns.encode() == others.encode(), body
    return True


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


@given(bodies())
def test_what_is_taken_fast_is_taken_the_same(body: tuple[bytes, bool]) -> None:
    agree(*body)


@given(bodies(), st.data())
def test_nothing_else_is_taken_when_bytes_change(
    body: tuple[bytes, bool], data: st.DataObject
) -> None:
    changed = bytearray(body[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed)))
        some = st.sampled_from(
            list(b' \n\r\t{}[],:"\\019.-+eEntu\0\x1f\x7f\x80\xa0\xc2\xe0\xed\xf4\xff')
        )
        end = place + data.draw(st.integers(0, 2))
        changed[place:end] = bytes(data.draw(st.lists(some | st.integers(0, 255), max_size=2)))
    agree(bytes(changed), body[1])


@pytest.mark.parametrize("field", FIELDS)
def test_each_value_is_taken_the_same(field: str) -> None:
    texts = [json.dumps(text, ensure_ascii=False) for text in NAMES + ODD_NAMES + TAGS + ODD_TAGS]
    good = {"user": '"u"', "slug": '"m"', "at": "1", "duration": "100"}
    taken = set()
    for value in [*texts, *NUMBERS, *ODD_NUMBERS, *VALUES, *ODD_VALUES]:
        members = ",".join(f'"{name}":{text}' for name, text in {**good, field: value}.items())
        again = f'{members},"{field}":{value}'
        for text in (members, again):
            body = f"[{{{text}}}]".encode()
            if agree(body, False):
                taken.add(value)
            agree(body[1:-1], True)
    long = "12.34567890123456789"
    assert taken >= ({"7", "2.5", long} if field in ("at", "ts", "duration") else {'"s"', '"🎬"'})


ONE = b'{"user":"u","slug":"m","at":1}'


@pytest.mark.parametrize(
    "body",
    [
        *(b"[%s]%s]", b"[%s][%s]", b"[%s],%s]", b"[%s%s]", b"[%s %s]", b"[[%s,%s]]", b"[%s,%s,]"),
        *(b"[,%s,%s]", b"[%s,,%s]", b"[%s,%s", b"[%s,%s]]", b"[%s,%s]\0", b"\0[%s,%s]", b"[%s;%s]"),
        *(b"%s,%s]", b"%s,%s", b"%s%s", b"%s %s", b"%s\r%s", b"%s\n,%s", b"%s\n%s,", b"%s\n%s\0"),
        *(b"%s\x0b%s", b"\xef\xbb\xbf%s\n%s", b"%s\xc2\x85%s", b"[%s\n%s]", b"%s\n[%s]"),
    ],
)
def test_what_is_neither_an_array_nor_lines_is_not_taken(body: bytes) -> None:
    for is_lines in (False, True):
        assert not agree(body % (ONE, ONE), is_lines)


@pytest.mark.parametrize(
    "name",
    [
        *(b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xff", b"\xfe", b"\xf5\x80\x80\x80"),
        *(b"\xc3", b"\xe2\x82", b"\xf0\x9f\x8e", b"\xc3\xc3", b"\xe2\x28\xa1", b"\xf0\x28\x8c\xbc"),
        *(b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf"),
        *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf0\x9f\x8e\x41"),
    ],
)
def test_names_that_are_not_utf_8_are_not_taken(name: bytes) -> None:
    for around in (b"%s", b"a%sa", b"abcdefg%sabcdefgh", b"\xc3\xa9%s\xc3\xa9"):
        for field in (b"user", b"id", b"x"):
            body = b'[{"user": "u", "slug": "m", "at": 1, "%s": "%s"}]' % (field, around % name)
            body = body.replace(b'"user": "u", ', b"") if field == b"user" else body
            assert not agree(body, False)


@given(st.integers(0, 10**18 - 1), st.integers(0, 12), st.sampled_from(["at", "ts", "duration"]))
@example(10_000_000_0, 1, "at")
@example(10**16 + 1, 9, "duration")
@example(2**53 - 2, 0, "ts")
@example(2**53 - 1, 0, "ts")
def test_numbers_are_those_of_any_parser(digits: int, places: int, field: str) -> None:
    whole, rest = divmod(digits, 10**places)
    number = f"{whole}.{rest:0{places}}" if places else str(whole)
    rest_of_it = "" if field == "at" else ', "at": 0'
    agree(b'[{"user": "u", "slug": "m", "%s": %s%s}]' % (
        field.encode(), number.encode(), rest_of_it.encode()
    ), False)  # fmt: skip


COMMON = st.fixed_dictionaries(
    {
        "user": st.sampled_from(NAMES) | st.text("abcäöü-_0123456789", min_size=1, max_size=40),
        "slug": st.sampled_from(NAMES),
        "at": st.integers(0, 20_000) | st.integers(0, 10**7).map(lambda ms: ms / 1000),
    },
    optional={
        "session": st.none() | st.sampled_from(TAGS) | st.uuids().map(str),
        "id": st.none() | st.uuids().map(str),
        "ts": st.none() | st.integers(0, 2 * 10**12),
        "duration": st.none() | st.sampled_from([20_000, 30_000.5]),
        "player": st.sampled_from(["web", "tv", 3, True, None]),
    },
)
WAYS: list[Callable[[Any], str]] = [
    lambda value: json.dumps(value, ensure_ascii=False),
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
    lambda value: json.dumps(value, ensure_ascii=False, indent=2),
]


@given(st.lists(COMMON, min_size=1, max_size=20), st.sampled_from(WAYS), st.randoms())
def test_common_bodies_are_taken_fast(
    events: list[dict[str, Any]], dumps: Callable[[Any], str], chance: random.Random
) -> None:
    for event in events:
        items = list(event.items())
        chance.shuffle(items)
        event.clear()
        event.update(items)
    assert agree(dumps(events).encode(), False)
    lines = "\n".join(map(WAYS[1], events))
    assert agree(lines.encode(), True)
    assert agree(lines.encode() + b"\r\n", True)


def body_of(users: list[str]) -> bytes:
    return json.dumps([{"user": user, "slug": "m", "at": 1} for user in users]).encode()


def columns_of(users: list[str]) -> Batch:
    columns = intake.columns_of(body_of(users), len(users), is_lines=False)
    assert columns is not None
    assert [*map(columns.users.to_list().__getitem__, columns.user)] == users
    return columns


def test_names_that_repeat_are_there_once_in_their_order() -> None:
    users = [f"user-{number * 7919 % 20_011:08}" for number in range(15_000)]
    each_thrice = [user for start in range(0, 15_000, 100) for user in users[start:][:100] * 3]
    columns = columns_of(each_thrice)
    assert columns.users.to_list() == users


def test_names_that_hardly_repeat_may_be_there_again() -> None:
    users = [f"user-{number:08}" for number in range(5_000)] * 2
    assert len(columns_of(users).users) > 9_000


def test_where_they_begin_to_repeat_new_ones_are_there_once_again() -> None:
    viewers = [f"viewer-{number}" for number in range(1_000)]
    columns = columns_of(viewers + viewers * 20)
    assert len(columns.users) < 4_000
    assert columns.user[-1_000:].tolist() == columns.user[-2_000:-1_000].tolist()


def test_as_many_events_are_taken_as_may_be() -> None:
    body = body_of(["u"] * 40)
    assert agree(body, False, 40)
    assert not agree(body, False, 39)
    with pytest.raises(ProblemError):
        intake.parse_json(body, 39)


def colliding_names() -> Iterator[str]:
    """Names of 16 letters that have the same hash in the table of a body."""
    odd, wanted = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x7061706170617061)
    chance = np.random.default_rng(1)
    letters = np.frombuffer(string.ascii_letters.encode(), np.uint8)
    while True:
        first = chance.choice(letters, (1 << 20, 8))
        stirred = (first.view(np.uint64)[:, 0] ^ np.uint64(16)) * odd
        second = (wanted ^ stirred ^ (stirred >> np.uint64(32))).view(np.uint8).reshape(-1, 8)
        plain = (second > 0x20) & (second < 0x7F) & (second != ord('"')) & (second != ord("\\"))
        for row in np.flatnonzero(plain.all(axis=1)):
            yield (first[row].tobytes() + second[row].tobytes()).decode()


def test_names_that_were_made_to_collide_are_not_compared_with_all_others() -> None:
    # Each twice, as those that never repeat are not looked for.
    names = [name for name in itertools.islice(colliding_names(), 300) for _ in range(2)]
    assert agree(body_of(names[:500]), False)
    assert not agree(body_of(names), False)
    assert len(intake.parse_json(body_of(names), 600).events) == 600


@pytest.mark.parametrize("is_lines", [False, True])
def test_large_bodies_become_columns_and_small_ones_events(is_lines: bool) -> None:
    event = json.dumps({"user": "u", "slug": "m", "at": 1}).encode()
    parse = intake.parse_ndjson if is_lines else intake.parse_json
    for count, kind in ((2, list), (100, Batch)):
        body = b"\n".join([event] * count) if is_lines else b"[%s]" % b",".join([event] * count)
        parsed = parse(body, EVENTS_MAX)
        assert isinstance(parsed.events, kind)
        assert len(parsed.events) == count


def test_one_flaw_in_a_large_body_is_named_and_costs_one_event() -> None:
    events: list[dict[str, Any]] = [{"user": "u", "slug": "m", "at": 1}] * 100
    events[70] = events[70] | {"at": -1}
    parsed = intake.parse_json(json.dumps(events).encode(), EVENTS_MAX)
    assert [(error.index, error.field) for error in parsed.errors] == [(70, "at")]
    assert parsed.events == [Event("u", "m", 1.0)] * 99


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('[]{},:"\\ \n1'),
    lambda values: st.lists(values) | st.dictionaries(st.text('[]{},:"\\'), values),
)


@given(st.lists(VALUE), st.sampled_from([None, 1]), st.integers(0, 5))
def test_values_are_counted(values: list[Any], indent: int | None, values_max: int) -> None:
    """Up to one more than the most."""
    array = json.dumps(values, indent=indent).encode()
    lines = "\n".join(map(json.dumps, values)).encode()
    assert count_values(array, values_max, is_lines=False) == min(len(values), values_max + 1)
    assert count_values(lines, values_max, is_lines=True) == min(len(values), values_max + 1)
