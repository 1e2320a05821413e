"""The generator's verification: it sees every difference, and none where there is none."""

import asyncio
from typing import Any

import pytest

from aggregator.reference import Reference
from benchmarks.player import Heartbeat
from benchmarks.verification import Difference, Facts, Verification, differences

NOW = "2026-01-01T12:00:00.250Z"
NOW_MS = 1_767_268_800_250

HEARTBEATS = [
    Heartbeat("ann", "alien", 0, "tv", duration=100),
    Heartbeat("ann", "alien", 10.5, "tv"),
    Heartbeat("ann", "alien", 10.5, "phone", "1", NOW_MS - 5_000),
    Heartbeat("ann", "alien", 20, "phone", "2", NOW_MS - 4_000),
    Heartbeat("ann", "alien", 20, "phone", "2", NOW_MS - 4_000),
    Heartbeat("ann", "brazil", 7),
    Heartbeat("bob", "alien", 95, "tv", duration=100),
]


@pytest.fixture
def expected() -> dict[str, Facts]:
    verification = Verification()
    verification.record(HEARTBEATS[:3], NOW)
    verification.record(HEARTBEATS[3:], NOW)
    return verification.expected()


def answers_of(expected: dict[str, Facts]) -> dict[str, dict[str, Any]]:
    """As the API would say it: nested, and with more than is compared."""
    answers = {}
    for path, facts in expected.items():
        answer: dict[str, Any] = {"version": 3}
        for fact, value in facts.items():
            if "[]." in fact:
                name, _, of_item = fact.partition("[].")
                answer[name] = [{of_item: item, "more": 1} for item in value]
                continue
            *outer, name = fact.split(".")
            inside = answer
            for key in outer:
                inside = inside.setdefault(key, {})
            inside[name] = value
        answers[path] = answer
    return answers


def check(
    expected: dict[str, Facts], answers: dict[str, dict[str, Any]]
) -> tuple[list[Difference], int]:
    """What is different, and how many paths were asked."""

    async def ask(path: str) -> Facts | None:
        return answers.get(path)

    async def collect() -> list[list[Difference]]:
        return [of_path async for of_path in differences(expected, ask)]

    found = asyncio.run(collect())
    return [difference for of_path in found for difference in of_path], len(found)


def test_expects_what_the_events_make(expected: dict[str, Facts]) -> None:
    assert expected["v1/movies/alien"] == {
        "watch_seconds": 20.0,
        "viewers": 2,
        "views": 3,
        "completions": 1,
        "events": 5,
    }
    assert expected["v1/users/ann"] == {
        "watch_seconds": 20.0,
        "movies": 2,
        "completed": 0,
        "events": 5,
    }
    assert expected["v1/users/ann/movies/alien"] == {
        "watch_seconds": 20.0,
        "unique_seconds": 20.0,
        "latest.at": 10.5,
        "furthest": 20.0,
        "resume_at": 10.5,
        "completed": False,
        "views": 2,
        "events": 4,
        "duration": 100.0,
    }
    assert expected["v1/users/ann/movies/brazil"]["duration"] is None
    assert expected["v1/users/bob/movies/alien"]["completed"] is True


def test_expects_lists_and_curves(expected: dict[str, Facts]) -> None:
    assert expected["v1/movies/alien/retention"] == {"viewers": [1, 1], "plays": [1, 2]}
    days = expected["v1/movies/alien/timeseries?step=day&from=2026-01-01&to=2026-01-02"]
    assert days == {"points[].watch_seconds": [20.0]}
    assert expected["v1/users/ann/movies?limit=1000"] == {"movies[].slug": ["brazil", "alien"]}
    assert expected["v1/users/bob/continue?limit=1000"] == {"movies[].slug": []}


def test_totals_are_those_of_the_reference(expected: dict[str, Facts]) -> None:
    reference = Reference()
    for beat in HEARTBEATS:
        reference.apply(
            beat.user,
            beat.slug,
            round(beat.at * 1000),
            NOW_MS,
            beat.session or "",
            beat.id,
            beat.ts,
            round((beat.duration or 0) * 1000),
        )
    for slug in ("alien", "brazil"):
        totals = reference.movie(slug)
        assert list(expected[f"v1/movies/{slug}"].values()) == [
            totals.watch_ms / 1000,
            totals.pairs,
            totals.views,
            totals.completions,
            totals.events,
        ]
    for user in ("ann", "bob"):
        totals = reference.user(user)
        assert list(expected[f"v1/users/{user}"].values()) == [
            totals.watch_ms / 1000,
            totals.pairs,
            totals.completions,
            totals.events,
        ]


def test_right_answers_have_no_difference(expected: dict[str, Facts]) -> None:
    found, asked = check(expected, answers_of(expected))
    assert not found
    # Movies with their retention, one with days, users with two lists each, pairs.
    assert asked == len(expected) == 2 * 2 + 1 + 2 * 3 + 3


def test_finds_every_planted_difference(expected: dict[str, Facts]) -> None:
    for path, facts in expected.items():
        for fact, value in facts.items():
            wrong = not value if isinstance(value, bool) else _a_little_more(value)
            answers = answers_of(expected | {path: facts | {fact: wrong}})
            assert check(expected, answers)[0] == [Difference(path, fact, value, wrong)]


def _a_little_more(value: Any) -> Any:
    return [*value, 0.001] if isinstance(value, list) else (value or 0) + 0.001


def test_finds_a_missing_answer(expected: dict[str, Facts]) -> None:
    answers = answers_of(expected)
    del answers["v1/users/bob"]
    assert check(expected, answers)[0] == [Difference("v1/users/bob", "known", True, False)]


def test_finds_a_missing_fact(expected: dict[str, Facts]) -> None:
    answers = answers_of(expected)
    del answers["v1/users/ann/movies/alien"]["latest"]
    assert check(expected, answers)[0] == [
        Difference("v1/users/ann/movies/alien", "latest.at", 10.5, None)
    ]


def test_received_is_the_answers_now() -> None:
    """Without a ts an event is as new as the answer says: a break shows there alone."""
    verification = Verification()
    for minute, at in ((0, 0), (20, 10), (51, 20)):
        verification.record([Heartbeat("ann", "alien", at)], f"2026-01-01T12:{minute:02}:00.000Z")
    facts = verification.expected()["v1/users/ann/movies/alien"]
    assert (facts["views"], facts["watch_seconds"]) == (2, 10.0)
