"""GET /metrics, read by Prometheus' own parser."""

import re

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.playhead import Playhead, eventually

Values = dict[tuple[str, str | None], float]


def scrape(playhead: Playhead) -> Values:
    """The value of each metric by its name and its shard; checks names and types by the way."""
    answer = playhead.get("/metrics", headers={"Connection": "close"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values: Values = {}
    for family in text_string_to_metric_families(answer.text):
        assert re.fullmatch("playhead_[a-z_]+", family.name)
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            values[sample.name, sample.labels.get("shard")] = sample.value
    return values


def of_shards(values: Values, name: str) -> list[float]:
    return [value for (metric, shard), value in values.items() if metric == name and shard]


def test_the_metrics_are_those_of_the_statistics(server: Playhead) -> None:
    events = [
        {"user": f"metrics{n}", "slug": "metrics", "at": at} for n in range(9) for at in (0, 5)
    ]
    server.post("/", json=events)
    stats, values = server.get("/v1/stats").json(), scrape(server)
    assert of_shards(values, "playhead_shard_up") == [1, 1]
    assert values["playhead_movies", None] == stats["movies"]
    for name, total in (
        ("playhead_counted_events", "events"),
        ("playhead_watch_seconds", "watch_seconds"),
        ("playhead_users", "users"),
        ("playhead_pairs", "pairs"),
    ):
        assert sum(of_shards(values, name)) == pytest.approx(stats[total], rel=1e-12)
    for shard in stats["shards"]:
        number = str(shard["shard"])
        for name in ("streams", "epoch", "log_bytes", "log_segments", "log_sequence"):
            assert values[f"playhead_{name}", number] == shard[name]
        for name in ("snapshot_sequence", "stored_bytes", "erasing", "writable"):
            assert values[f"playhead_{name}", number] == shard[name]
        assert values["playhead_memory_bytes", number] > 10 << 20
        assert values["playhead_log_broken_tails", number] == 0
    assert ("playhead_watching_now", "1") in values
    assert ("playhead_events_per_second", "0") in values


def test_an_erase_lowers_no_counter(server: Playhead) -> None:
    server.post("/", json=[{"user": "counter", "slug": "metrics", "at": at} for at in range(50)])
    before = scrape(server)
    assert server.session.delete(f"{server.url}/v1/users/counter", timeout=30).status_code == 204
    after = scrape(server)
    taken, counted = "playhead_events_total", "playhead_counted_events"
    assert of_shards(after, taken) == of_shards(before, taken)
    assert sum(of_shards(after, counted)) == sum(of_shards(before, counted)) - 50


def test_every_worker_says_the_same_and_a_shard_that_is_away_is_down(twofold: Playhead) -> None:
    twofold.post("/", json=[{"user": f"twofold{n}", "slug": "twofold", "at": 1} for n in range(20)])
    volatile = {
        f"playhead_{name}" for name in ("memory_bytes", "events_per_second", "watching_now")
    }
    first, *others = [
        {key: value for key, value in scrape(twofold).items() if key[0] not in volatile}
        for _ in range(12)  # each over a connection of its own, to whichever worker takes it
    ]
    assert others == [first] * len(others)
    away, _ = twofold.children("ShardActor")
    away.suspend()
    try:
        eventually(lambda: away.status() == psutil.STATUS_STOPPED, "standing")
        values = scrape(twofold)
    finally:
        away.resume()
    up = of_shards(values, "playhead_shard_up")
    assert sorted(up) == [0, 1]
    assert len(of_shards(values, "playhead_events_total")) == 1
    assert ("playhead_events_total", str(up.index(1))) in values
    assert ("playhead_movies", None) not in values  # never a total that lacks a part
    while of_shards(scrape(twofold), "playhead_shard_up") != [1, 1]:
        pass
