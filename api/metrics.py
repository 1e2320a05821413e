"""GET /metrics: what the shards say of themselves, for Prometheus.

Workers share a port, so a scrape reaches any of them. All that is told comes
from the shards, and is the same whoever tells it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import raw

from aggregator.errors import NoAnswerError
from aggregator.messages import ShardStats
from api import __version__
from api import documentation as doc
from api.context import router
from api.operating import distinct_movies

#: A scrape has 10 s by default, and a shard that is away may not use them up.
ANSWER_S = 2.0

blueprint = Blueprint("metrics")


class Family(NamedTuple):
    """A metric with a value for each shard, in base units; None where there is none."""

    name: str
    help: str
    value: Callable[[ShardStats], float | None]


COUNTERS = (
    Family(
        "events",
        "Events taken since its process started, duplicates included",
        lambda shard: shard.events_taken,
    ),
)
#: Also what only grows until someone is erased.
GAUGES = (
    Family("counted_events", "Events that its totals are made of", lambda shard: shard.events),
    Family(
        "events_per_second",
        "Events a second: mean of the last 10 full seconds, duplicates included",
        lambda shard: shard.events_per_second,
    ),
    Family(
        "watching_now",
        "Streams whose last event is at most a minute old",
        lambda shard: shard.watching_now,
    ),
    Family("watch_seconds", "Watch time of all movies", lambda shard: shard.watch_ms / 1000),
    Family("users", "Users", lambda shard: shard.users),
    Family("pairs", "Pairs of a user and a movie", lambda shard: shard.pairs),
    Family("streams", "Streams in memory, live and idle", lambda shard: shard.streams),
    Family("remembered_ids", "Ids and keys it would recognise", lambda shard: shard.remembered_ids),
    Family("memory_bytes", "Resident memory of its process", lambda shard: shard.memory_bytes),
    Family("writable", "1 if it can write its log, else 0", lambda shard: shard.writable),
    Family("epoch", "How often it was opened", lambda shard: shard.epoch),
    Family("log_bytes", "Size of the log", lambda shard: shard.log_bytes),
    Family("log_segments", "Files of the log", lambda shard: shard.log_segments),
    Family("log_sequence", "Last record of the log", lambda shard: shard.log_sequence),
    Family("log_broken_tails", "Tails that crashes cut short", lambda shard: shard.broken_tails),
    Family(
        "snapshot_sequence",
        "Last record in the newest snapshot, 0 without one",
        lambda shard: shard.snapshot_sequence,
    ),
    Family(
        "snapshot_timestamp_seconds",
        "When the last record in the newest snapshot was received",
        lambda shard: shard.snapshot_ms / 1000 if shard.snapshot_ms else None,
    ),
    Family("stored_events", "Facts in stored events", lambda shard: shard.stored_events),
    Family("stored_bytes", "Size of stored events", lambda shard: shard.stored_bytes),
    Family("stored_sequence", "Last record in stored events", lambda shard: shard.stored_sequence),
    Family("erasing", "Erases that are still on disk", lambda shard: shard.erasing),
    Family(
        "erasing_since_timestamp_seconds",
        "When the oldest of those erases came",
        lambda shard: None if (ms := shard.erasing_since_ms) is None else ms / 1000,
    ),
)


class Shards(Collector):
    """The metrics of all shards, those that are away included."""

    def __init__(self, results: Sequence[ShardStats | NoAnswerError]) -> None:
        self._shards = [result for result in results if isinstance(result, ShardStats)]
        self._are_up = [isinstance(result, ShardStats) for result in results]

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("playhead_build_info", "What runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        up = GaugeMetricFamily("playhead_shard_up", "1 if it answers, else 0", labels=["shard"])
        for number, is_up in enumerate(self._are_up):
            up.add_metric([str(number)], is_up)
        yield up
        if all(self._are_up):  # each may have movies that no other has
            movies = distinct_movies(self._shards)
            yield GaugeMetricFamily("playhead_movies", "Movies, over all shards", movies)
        for family in COUNTERS:
            yield self._filled(CounterMetricFamily, family)
        for family in GAUGES:
            yield self._filled(GaugeMetricFamily, family)

    def _filled(
        self, kind: type[CounterMetricFamily | GaugeMetricFamily], family: Family
    ) -> Metric:
        metric = kind(f"playhead_{family.name}", family.help, labels=["shard"])
        for shard in self._shards:
            value = family.value(shard)
            if value is not None:
                metric.add_metric([str(shard.shard)], value)
        return metric


@blueprint.get("/metrics")
@doc.operation(
    "Metrics for Prometheus",
    """In its text format, with a label for the shard. Of a shard that is away there is
`playhead_shard_up` 0 and nothing else; the answer is 200 all the same.""",
    text="text/plain",
)
async def metrics(request: Request) -> HTTPResponse:
    results = await router(request).stats_of_each(ANSWER_S)
    return raw(generate_latest(Shards(results)), content_type=CONTENT_TYPE_PLAIN_0_0_4)
