"""What playhead is to reach on two cores: ratios within one run, and a few amounts."""

import msgspec

from benchmarks.measurements import COMMON_HALF, OWN_HALF, Case, Results


class Place(msgspec.Struct, frozen=True):
    """Where a figure is found among the results."""

    workload: str
    subject: str
    figure: str
    case: Case

    def value(self, results: Results) -> float | None:
        return results.median(self.workload, self.subject, self.figure, self.case)


class Target(msgspec.Struct, frozen=True):
    """A bound of a figure, or of its ratio to another."""

    name: str
    of: Place
    to: Place | None = None
    at_least: float | None = None
    at_most: float | None = None

    def value(self, results: Results) -> float | None:
        """None where something was not measured."""
        value = self.of.value(results)
        if value is None or self.to is None:
            return value
        compared = self.to.value(results)
        return value / compared if compared else None

    def is_met(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most


def _singles(subject: str, connections: int) -> Place:
    return Place("singles", subject, "events_per_second", {"connections": connections})


def _positions(subject: str, sent: str, connections: int) -> Place:
    case: Case = {"sent": sent, "connections": connections}
    return Place("positions", subject, "requests_per_second", case)


def _batches(subject: str, format: str, events: int) -> Place:
    return Place("batches", subject, "events_per_second", {"format": format, "events": events})


def _points(subject: str) -> Place:
    case: Case = {"query": "progress", "ingest": "none"}
    return Place("queries", subject, "requests_per_second", case)


def _half_load(subject: str, rate: str) -> Place:
    return Place("open_loop", subject, "p99_ms", {"rate": rate})


def _pairs(sent: str, pairs: int) -> Place:
    return Place("pairs", "playhead", "events_per_second", {"sent": sent, "pairs": pairs})


TARGETS = (
    Target(
        "256 connections, to the ceiling",
        _singles("playhead", 256),
        _singles("ceiling", 256),
        at_least=0.90,
    ),
    *(
        Target(
            f"{connections} connection{'s' * (connections > 1)}, to redis always",
            _singles("playhead", connections),
            _singles("redis always", connections),
            at_least=least,
        )
        for connections, least in ((1, 1.0), (16, 1.8), (64, 2.2), (256, 2.5))
    ),
    *(
        Target(
            f"{sent}, {connections} connection{'s' * (connections > 1)}, to positions",
            _positions("playhead", sent, connections),
            _positions("positions", sent, connections),
            at_least=1.0,
        )
        for sent, connections in (
            *(("events", each) for each in (1, 16, 64, 256)),
            ("questions", 64),
        )
    ),
    Target(
        "JSON, 1,000 events, to redis always",
        _batches("playhead", "JSON", 1_000),
        _batches("redis always", "JSON", 1_000),
        at_least=20,
    ),
    Target(
        "JSON, 10,000 events, to parse",
        _batches("playhead", "JSON", 10_000),
        _batches("parse", "JSON", 10_000),
        at_least=0.75,
    ),
    *(
        Target(
            f"Arrow to JSON, {events:,} events",
            _batches("playhead", "Arrow", events),
            _batches("playhead", "JSON", events),
            at_least=2,
        )
        for events in (1_000, 10_000)
    ),
    *(
        Target(
            f"p99 at {rate}, to redis always",
            _half_load("playhead", rate),
            _half_load("redis always", rate),
            at_most=1.0,
        )
        for rate in (COMMON_HALF, OWN_HALF)
    ),
    Target("progress, to redis GET", _points("playhead"), _points("redis GET"), at_least=1.5),
    Target(
        "bytes a pair with 10,000,000",
        Place("pairs", "playhead", "bytes_a_pair", {"sent": "fill", "pairs": 10_000_000}),
        at_most=128,
    ),
    *(
        Target(
            f"{sent}, 10,000,000 pairs to 100,000",
            _pairs(sent, 10_000_000),
            _pairs(sent, 100_000),
            at_least=0.8,
        )
        for sent in ("batches", "singles")
    ),
    Target(
        "replay, events/s",
        Place("start", "playhead", "events_per_second", {"of": "replay, records of 10,000"}),
        at_least=3_000_000,
    ),
)
