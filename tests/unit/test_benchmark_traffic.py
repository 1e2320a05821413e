"""The traffic of the suite: the same events in each format, with positions that go on."""

import numpy as np
import pytest

from aggregator.event import Part, to_batch
from api.arrow_intake import parse_arrow
from api.intake import Parsed, parse_json, parse_ndjson
from benchmarks import queries, traffic

EVENTS_MAX, BYTES_MAX = 100_000, 16 << 20


def parsed(body: bytes, format: str) -> Parsed:
    if format == "Arrow":
        return parse_arrow(body, EVENTS_MAX, BYTES_MAX)
    return (parse_json if format == "JSON" else parse_ndjson)(body, EVENTS_MAX)


@pytest.mark.parametrize("format", traffic.FORMATS)
def test_all_formats_have_the_same_events(format: str) -> None:
    events = traffic.players()[:250]
    bodies = list(traffic.bodies(events, format, 100))
    assert len(bodies) == 3
    at_ms = []
    for body in bodies:
        found = parsed(body, format)
        assert not found.errors
        at_ms += to_batch([Part(found.events)]).at_ms.tolist()
    assert at_ms == events.at_ms.tolist()


def test_single_events_are_those_of_the_players() -> None:
    events = traffic.players()[:3]
    first = next(traffic.singles(events))
    found = parsed(first, "JSON")
    assert len(found.events) == 1
    assert traffic.user_name(events.user[0]).encode() in first
    assert traffic.movie_name(events.movie[0]).encode() in first


def test_every_player_goes_on_and_is_counted_as_watching() -> None:
    events = traffic.players()
    assert len(events) == traffic.PLAYERS * traffic.REPORTS
    by_report = events.at_ms.reshape(traffic.REPORTS, traffic.PLAYERS)
    steps_ms = np.diff(by_report, axis=0)
    assert steps_ms.min() > 0
    assert steps_ms.max() <= 60_000
    assert len(np.unique(events.user)) == traffic.PLAYERS
    assert len(np.unique(events.movie)) == traffic.MOVIES


@pytest.mark.parametrize("pairs", [10, 250_000])
def test_a_library_has_as_many_pairs_as_it_says(pairs: int) -> None:
    blocks = list(traffic.library(pairs))
    user = np.concatenate([block.user for block in blocks])
    movie = np.concatenate([block.movie for block in blocks])
    _, events_each = np.unique(user * traffic.MOVIES + movie, return_counts=True)
    assert len(events_each) == pairs
    assert set(events_each.tolist()) == {2}
    assert movie.max() < traffic.MOVIES


def test_the_traffic_of_a_library_goes_on_where_it_ended() -> None:
    pairs = 1_000
    (block,) = traffic.library(pairs)
    ended, after = _positions(block[pairs:]), _positions(traffic.library_traffic(pairs)[:pairs])
    assert ended.keys() == after.keys()
    for pair, at_ms in ended.items():
        assert 0 < after[pair] - at_ms <= 60_000


def _positions(events: traffic.Events) -> dict[tuple[int, int], int]:
    pairs = zip(events.user.tolist(), events.movie.tolist(), strict=True)
    return dict(zip(pairs, events.at_ms.tolist(), strict=True))


def test_questions_are_whole_requests_about_known_names() -> None:
    for query, ask in queries.QUERIES.items():
        question = next(iter(ask()))
        assert question.startswith(b"GET /"), query
        assert question.endswith(b"\r\n\r\n"), query
    assert b"Cookie: user_id=user-" in next(iter(queries.QUERIES["watching"]()))
