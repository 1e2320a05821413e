"""The shared cases of watch time with their exact answers, on every form of the rules."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.event import Event, Part, to_batch
from aggregator.reference import Reference
from aggregator.rules import Rules
from aggregator.state import State
from persistence.batch import Batch
from tests.comparison import Facts, facts_of_reference, facts_of_state

CASES = json.loads((Path(__file__).parent.parent / "watch-time.json").read_text())["cases"]


def reference_of(case: dict[str, Any]) -> Facts:
    reference = Reference(Rules(**case["settings"]))
    for event in case["events"]:
        reference.apply(
            event["user"],
            event["slug"],
            round(event["at"] * 1000),
            event["received_ms"],
            event.get("session", ""),
            event.get("id"),
            event.get("ts"),
            round(event.get("duration", 0) * 1000),
        )
    return facts_of_reference(reference)


def state_of(case: dict[str, Any], events_per_batch: int) -> Facts:
    state = State(Rules(**case["settings"]))
    for start in range(0, len(case["events"]), events_per_batch):
        chunk = case["events"][start : start + events_per_batch]
        received_ms = np.array([event["received_ms"] for event in chunk])
        fields = [{k: v for k, v in event.items() if k != "received_ms"} for event in chunk]
        batch = to_batch([Part([Event(**event) for event in fields])])
        state.apply(Batch.decode(batch.encode()), received_ms)
    return facts_of_state(state)


def check(case: dict[str, Any], facts: Facts) -> None:
    """The facts hold all that the case expects, and no pair, movie, user or hour besides."""
    expect = case["expect"]
    for want in expect["progress"]:
        pair = facts["pair", want["user"], want["slug"]]
        watch, unique, latest, _, furthest, resume, completed_t, views, events, _, _ = pair
        assert {
            "user": want["user"],
            "slug": want["slug"],
            "watch_ms": watch,
            "unique_ms": unique,
            "latest_ms": latest,
            "furthest_ms": furthest,
            "resume_ms": resume,
            "completed": completed_t is not None,
            "views": views,
            "events": events,
        } == want
    for want in expect["movies"]:
        counted = (want[k] for k in ("watch_ms", "viewers", "views", "completions", "events"))
        assert facts["movie", want["slug"]][:5] == tuple(counted)
    for want in expect["users"]:
        counted = (want[k] for k in ("watch_ms", "movies", "completed", "events"))
        assert facts["user", want["user"]][:4] == tuple(counted)
    for want in expect["retention"]:
        assert facts["retention", want["slug"]] == (want["viewers"], want["plays"])
    for want in expect["hours"]:
        assert facts["hour", want["slug"], want["hour_start_ms"]] == want["watch_ms"]
    for kind, name in (
        ("pair", "progress"),
        ("movie", "movies"),
        ("user", "users"),
        ("hour", "hours"),
    ):
        assert sum(key[0] == kind for key in facts) == len(expect[name])


def test_all_cases_are_there() -> None:
    assert len(CASES) == 29


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reference(case: dict[str, Any]) -> None:
    check(case, reference_of(case))


@pytest.mark.parametrize("events_per_batch", [1, 2, 7, 1000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_state(case: dict[str, Any], events_per_batch: int) -> None:
    check(case, state_of(case, events_per_batch))
