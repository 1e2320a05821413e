"""Arrow streams, on a real server with two shards."""

import gzip
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
import requests

from tests.arrow_streams import TEXT_TYPES, batch, broken, stream
from tests.integration.test_api import event, problem_of, progress
from tests.playhead import Playhead

HEADERS = {"Content-Type": "application/vnd.apache.arrow.stream"}


def post(server: Playhead, body: bytes, path: str = "/", **headers: str) -> requests.Response:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.post(path, data=body, headers=HEADERS | more)


def counts(answer: requests.Response) -> tuple[int, int, int]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["accepted"], body["duplicates"], body["rejected"]


@pytest.mark.parametrize("type_", TEXT_TYPES, ids=str)
@pytest.mark.parametrize("path", ["/", "/v1/events"])
def test_a_stream_counts_as_json_does(server: Playhead, type_: pa.DataType, path: str) -> None:
    tag = f"arrow {type_} {path}"
    events = [event(f"{tag} {n % 5}", f"{tag}", 10 * (n // 5)) for n in range(50)]
    assert counts(post(server, stream(batch(events, type_)), path)) == (50, 0, 0)
    movie = server.get(f"/v1/movies/{quote(tag, safe='')}").json()
    assert (movie["watch_seconds"], movie["viewers"], movie["events"]) == (450, 5, 50)
    assert progress(server, f"{tag} 3", tag)["latest"]["at"] == 90


def test_every_field_arrives(server: Playhead) -> None:
    at = [0, 10, 20]
    columns = {
        "ts": pa.array([1_700_000_000_000_000 + n * 10**7 for n in range(3)], pa.timestamp("us")),
        "user": ["arrow fields"] * 3,
        "slug": pa.array(["m"] * 3).dictionary_encode(),
        "at": pa.array(at, pa.float32()),
        "session": ["a", None, "a"],
        "duration": pa.array([100, None, 100], pa.decimal128(9, 2)),
        "device": [{"name": "tv"}] * 3,
    }
    assert counts(post(server, stream(pa.record_batch(columns)))) == (3, 0, 0)
    found = progress(server, "arrow fields", "m")
    assert (found["duration"], found["views"], found["events"]) == (100, 2, 3)
    assert found["latest"] == {"at": 20, "time": "2023-11-14T22:13:40.000Z"}


def test_a_resend_counts_once_also_across_formats(server: Playhead) -> None:
    events = [event("arrow resend", "m", at, id=f"{at}é") for at in (0, 10, 20)]
    assert counts(server.post("/", json=events[:2])) == (2, 0, 0)
    assert counts(post(server, stream(batch(events)))) == (1, 2, 0)
    crowd = [event(f"arrow crowd{n % 20}", "m", n) for n in range(100)]
    body = stream(batch(crowd))
    assert counts(post(server, body, Idempotency_Key="arrow key")) == (100, 0, 0)
    assert counts(post(server, body, Idempotency_Key="arrow key")) == (0, 100, 0)
    again = server.post("/", json=crowd, headers={"Idempotency-Key": "arrow key"})
    assert counts(again) == (0, 100, 0)


def test_errors_are_counted_over_all_batches(server: Playhead) -> None:
    parts = [batch([event("arrow errors", "m", at) for at in (0, -1, 10)]) for _ in range(100)]
    answer = post(server, stream(*parts))
    assert counts(answer) == (200, 0, 100)
    assert [error["index"] for error in answer.json()["errors"]] == list(range(1, 300, 3))
    assert answer.json()["errors"][99] == {
        "index": 298,
        "field": "at",
        "message": "expected number >= 0.0",
    }
    assert progress(server, "arrow errors", "m")["events"] == 200


def test_nothing_valid_is_a_400_that_lists_why(server: Playhead) -> None:
    problem = problem_of(post(server, stream(batch([event("", "m", 1)] * 150))), 400)
    assert len(problem["errors"]) == 100
    problem = problem_of(post(server, stream(batch([{"user": "u", "slug": "m"}]))), 400)
    assert "at" in problem["detail"]
    assert "errors" not in problem


def test_gzip_and_compressed_buffers(server: Playhead) -> None:
    events = batch([event("arrow gzip", "m", at) for at in range(0, 1000, 10)])
    body = gzip.compress(stream(events, compression="zstd"))
    assert counts(post(server, body, Content_Encoding="gzip")) == (100, 0, 0)
    big = pa.record_batch({"user": ["u"], "slug": ["m"], "at": [1], "x": ["x" * (17 << 20)]})
    problem_of(post(server, stream(big, compression="zstd")), 413)
    problem_of(post(server, stream(big)), 413)
    bomb = gzip.compress(stream(big))
    problem_of(post(server, bomb, Content_Encoding="gzip"), 413)


@pytest.mark.parametrize("kind", ["arrow", "json"])
def test_a_large_request_is_counted_to_the_last_event(server: Playhead, kind: str) -> None:
    """Large ones are parsed in a thread."""
    count, viewers = 100_000, 1000
    number = np.arange(count)
    columns: dict[str, Any] = {
        "user": [f"large {kind} {n % viewers}" for n in number],
        "slug": [f"large {kind}"] * count,
        "at": (number // viewers * 10).tolist(),
    }
    if kind == "arrow":
        answer = post(server, stream(pa.record_batch(columns)))
        problem_of(post(server, stream(*[pa.record_batch(columns).slice(0, 60_000)] * 2)), 413)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        answer = server.post("/", json=rows)
    assert counts(answer) == (count, 0, 0)
    movie = server.get(f"/v1/movies/large%20{kind}").json()
    assert (movie["events"], movie["viewers"]) == (count, viewers)
    assert movie["watch_seconds"] == viewers * 990


def test_broken_streams_are_refused_and_the_worker_stays(server: Playhead) -> None:
    before = server.get("/v1/stats").json()["events"]
    taken = 0
    for seed, body in broken(10_000, 300):
        answer = post(server, body)
        assert answer.status_code in (200, 400, 413), (seed, answer.text)
        taken += answer.json()["accepted"] if answer.status_code == 200 else 0
    assert server.get("/v1/stats").json()["events"] == before + taken
    assert "Traceback" not in server.log


def test_it_is_in_the_documentation(server: Playhead) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    for path in ("/", "/v1/events"):
        content = paths[path]["post"]["requestBody"]["content"]
        schema = content["application/vnd.apache.arrow.stream"]["schema"]
        assert schema["format"] == "binary"
        assert "dictionary-encoded" in schema["description"]
    refused = server.post("/", data=b"x", headers={"Content-Type": "text/csv"})
    assert "arrow" in problem_of(refused, 415)["detail"]
