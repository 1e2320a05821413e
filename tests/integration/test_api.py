"""The HTTP contract, on a real server with two shards."""

import gzip
import json
import re
import socket
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.playhead import Playhead

PROBLEM = "application/problem+json"


def problem_of(response: requests.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, which has this status and says so."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert all(problem[member] for member in ("type", "title", "detail"))
    return problem


def event(user: str, slug: str, at: float, **more: Any) -> dict[str, Any]:
    return {"user": user, "slug": slug, "at": at, **more}


def progress(server: Playhead, user: str, slug: str) -> dict[str, Any]:
    path = f"/v1/users/{quote(user, safe='')}/movies/{quote(slug, safe='')}"
    found: dict[str, Any] = server.get(path).json()
    return found


@pytest.mark.parametrize("path", ["/", "/v1/events"])
def test_one_event(server: Playhead, path: str) -> None:
    user = f"one{len(path)}"
    answer = server.post(path, json=event(user, "show_slug", 4500))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert datetime.fromisoformat(body.pop("now")).tzinfo is not None
    assert body == {"accepted": 1, "duplicates": 0, "rejected": 0, "errors": []}
    assert progress(server, user, "show_slug")["latest"]["at"] == 4500


def test_without_a_content_type(server: Playhead) -> None:
    body = json.dumps(event("typeless", "m", 1)).encode()
    request = requests.Request("POST", server.url + "/", data=body).prepare()
    assert "content-type" not in request.headers
    assert server.session.send(request).json()["accepted"] == 1


def test_with_the_content_type_of_tools_that_were_told_nothing(server: Playhead) -> None:
    body = json.dumps(event("curl", "m", 1))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.post("/", data=body, headers=headers).json()["accepted"] == 1


def test_a_batch_is_applied_as_far_as_it_is_valid(server: Playhead) -> None:
    events = [event("batch", "m", at) for at in range(0, 100, 10)]
    events[3]["at"] = "thirty"
    events[7]["user"] = ""
    body = server.post("/", json=events).json()
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (8, 0, 2)
    assert [(error["index"], error["field"]) for error in body["errors"]] == [
        (3, "at"),
        (7, "user"),
    ]
    assert progress(server, "batch", "m")["events"] == 8


def test_lines(server: Playhead) -> None:
    lines = "\n".join(json.dumps(event("lines", "m", at)) for at in range(0, 50, 10))
    answer = server.post("/", data=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.json()["accepted"] == 5
    assert progress(server, "lines", "m")["watch_seconds"] == 40


def test_gzip(server: Playhead) -> None:
    body = gzip.compress(json.dumps(event("gzip", "m", 5)).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert server.post("/", data=body, headers=headers).json()["accepted"] == 1
    problem_of(server.post("/", data=b"{}", headers=headers), 400)
    bomb = gzip.compress(bytes(40 << 20))
    problem_of(server.post("/", data=bomb, headers=headers), 413)
    problem_of(server.post("/", data=b"{}", headers={"Content-Encoding": "br"}), 415)


def test_ids_and_keys_make_a_resend_safe(server: Playhead) -> None:
    first = [event("resend", "m", at, id=f"{at}") for at in (0, 10)]
    assert server.post("/", json=first).json()["duplicates"] == 0
    answer = server.post("/", json=[*first, event("resend", "m", 20)]).json()
    assert (answer["accepted"], answer["duplicates"]) == (1, 2)
    crowd = [event(f"crowd{n}", "m", 1) for n in range(20)]
    headers = {"Idempotency-Key": "key"}
    for accepted in (20, 0, 0):
        answer = server.post("/", json=crowd, headers=headers).json()
        assert (answer["accepted"], answer["duplicates"]) == (accepted, 20 - accepted)
    problem_of(server.post("/", json=crowd, headers={"Idempotency-Key": "k" * 129}), 400)


def test_nothing_valid_is_a_400_that_lists_why(server: Playhead) -> None:
    problem = problem_of(server.post("/", json=[{}] * 150), 400)
    assert len(problem["errors"]) == 100
    assert problem["errors"][5] == {"index": 5, "field": "user", "message": "is missing"}
    assert server.post("/", json=[]).json()["accepted"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"nonsense", {}, 400),
        (b'{"user": "\xff"}', {}, 400),
        (b"[" * 50_000, {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"user=u&slug=m&at=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"[" + b" " * (17 << 20) + b"]", {}, 413),
        (b"[" + b"{}," * 100_001 + b"{}]", {}, 413),
    ],
    ids=repr,
)
def test_what_is_not_understood(
    server: Playhead, body: bytes, headers: dict[str, str], status: int
) -> None:
    problem_of(server.post("/", data=body, headers=headers), status)


@pytest.mark.parametrize(
    ("request_line", "header"),
    [
        ("POST /", b"Idempotency-Key: \xff"),
        ("POST /", b"Content-Type: \xff"),
        ("POST /", b"Content-Encoding: \xff"),
        ("POST /watching", b"Cookie: user_id=\xff"),
        ("GET /watching?video_id=1", b"Cookie: user_id=\xff"),
        ("GET /v1/movies?sort=%FF", b"X: y"),
        ("GET /v1/movies/%FF", b"X: y"),
        ("GET /docs/assets/", b"X: y"),
        ("GET /docs/assets/%00", b"X: y"),
        ("GET /" + "a" * 20_000, b"X: y"),
    ],
)
def test_bytes_that_are_no_text(server: Playhead, request_line: str, header: bytes) -> None:
    host, port = re.findall(r"//(.+):(\d+)", server.url)[0]
    body = b'{"user":"u","slug":"m","at":1}' if request_line == "POST /" else b"{}"
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + header
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(head + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = client.recv(65536)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert b"application/problem+json" in answer


def test_bytes_that_are_not_http_at_all(server: Playhead) -> None:
    host, port = re.findall(r"//(.+):(\d+)", server.url)[0]
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(65536)
            assert not answer.startswith(b"HTTP/1.1 5"), answer
    assert server.get("/healthz").status_code == 200


def test_the_three_questions(server: Playhead) -> None:
    for user, stop in (("ann", 100), ("bob", 40)):
        server.post("/", json=[event(user, "three", at) for at in range(0, stop + 1, 10)])
    server.post("/", json=event("ann", "four", 30.25, duration=40))
    movie = server.get("/v1/movies/three").json()
    assert datetime.fromisoformat(movie.pop("first_event")) <= datetime.fromisoformat(
        movie.pop("last_event")
    )
    assert movie == {
        "slug": "three",
        "watch_seconds": 140,
        "viewers": 2,
        "views": 2,
        "completions": 0,
        "events": 16,
        "watching_now": 2,
        "average_watch_seconds": 70,
        "duration": None,
        "title": None,
    }
    user = server.get("/v1/users/ann").json()
    assert user.pop("last_event")
    assert user == {
        "user": "ann",
        "watch_seconds": 100,
        "movies": 2,
        "completed": 0,
        "events": 12,
    }
    answer = server.get("/v1/users/ann/movies/four")
    assert answer.headers["etag"] == '"1"'
    found = answer.json()
    assert found["latest"].pop("time")
    assert found == {
        "user": "ann",
        "slug": "four",
        "latest": {"at": 30.25},
        "furthest": 30.25,
        "resume_at": 30.25,
        "watch_seconds": 0,
        "unique_seconds": 0,
        "completed": False,
        "completed_at": None,
        "views": 1,
        "events": 1,
        "duration": 40,
        "version": 1,
    }


@pytest.mark.parametrize("name", ["a/b", "a b", "کاربر", "%2F", "?x=1", "#", "..", "🎬", "a%", "+"])
def test_any_name_can_stand_in_a_path(server: Playhead, name: str) -> None:
    user, slug = f"u{name}", f"m{name}"
    server.post("/", json=[event(user, slug, at) for at in (0, 10)])
    assert progress(server, user, slug)["user"] == user
    assert server.get(f"/v1/movies/{quote(slug, safe='')}").json()["slug"] == slug
    assert server.get(f"/v1/users/{quote(user, safe='')}").json()["watch_seconds"] == 10


@pytest.mark.parametrize(
    "path",
    [
        "/v1/movies/unseen",
        "/v1/users/unseen",
        "/v1/users/unseen/movies/unseen",
        "/v1/users/a/b",
        "/x",
    ],
)
def test_never_seen(server: Playhead, path: str) -> None:
    problem_of(server.get(path), 404)


def test_a_wrong_method(server: Playhead) -> None:
    answer = server.session.delete(server.url + "/v1/events", timeout=30)
    problem_of(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_top_movies(server: Playhead) -> None:
    for user in range(5):
        for rank in range(user + 1):
            at = [event(f"fan{user}", f"top{rank}", 500_000 * (4 - rank) + s) for s in (0, 50)]
            server.post("/", json=at)
    best = server.get("/v1/movies?sort=viewers&limit=1000").json()["movies"]
    top = [movie for movie in best if re.fullmatch(r"top\d", movie["slug"])]
    assert [(movie["slug"], movie["viewers"]) for movie in top] == [
        ("top0", 5),
        ("top1", 4),
        ("top2", 3),
        ("top3", 2),
        ("top4", 1),
    ]
    counts = [(-movie["viewers"], movie["slug"]) for movie in best]
    assert counts == sorted(counts)
    for window in ("all", "1h", "24h", "7d", "30d"):
        recent = server.get(f"/v1/movies?window={window}&limit=1000").json()["movies"]
        watched = [(-movie["watch_seconds"], movie["slug"]) for movie in recent]
        assert watched == sorted(watched)
        assert {"top0": 250, "top4": 50}.items() <= {
            movie["slug"]: movie["watch_seconds"] for movie in recent
        }.items()
    assert len(server.get("/v1/movies?limit=2").json()["movies"]) == 2


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("sort=x", "sort"),
        ("window=2h", "window"),
        ("sort=viewers&window=1h", "window"),
        *(
            (f"limit={value}", "limit")
            for value in (
                "0",
                "-1",
                "x",
                "1001",
                "1.5",
                "٣",
                "9" * 5000,
                "0" * 5000,
                "0000000011001",
            )
        ),
    ],
)
def test_a_bad_parameter_is_named(server: Playhead, query: str, parameter: str) -> None:
    problem = problem_of(server.get(f"/v1/movies?{query}"), 400)
    assert problem["detail"].startswith(f"{parameter}: ")


def test_watching(server: Playhead) -> None:
    ann, bob = {"user_id": "player1"}, {"user_id": "player2"}
    stored = server.post("/watching", json={"video_id": "123", "position": 1}, cookies=ann)
    assert (stored.status_code, stored.json()) == (200, {"position": 1})
    fetched = server.get("/watching?video_id=123", cookies=ann)
    assert (fetched.status_code, fetched.json()) == (200, {"position": 1})
    assert progress(server, "player1", "123")["latest"]["at"] == 1
    server.post("/", json=event("player1", "123", 61.5))
    assert server.get("/watching?video_id=123", cookies=ann).json() == {"position": 61.5}
    server.post("/watching", json={"video_id": "123", "position": 0}, cookies=ann)
    assert server.get("/watching?video_id=123", cookies=ann).json() == {"position": 0}
    missing = problem_of(server.get("/watching?video_id=123", cookies=bob), 404)
    assert missing["detail"] == "nothing stored"
    server.session.cookies.clear()


@pytest.mark.parametrize(
    "body", [{}, {"video_id": "1"}, {"position": 1}, {"video_id": 1, "position": 1}, [], "x"]
    + [{"video_id": video, "position": 1} for video in ("", "a" * 257, "é" * 129, "a\n")]
    + [{"video_id": "1", "position": position} for position in (-1, "1", True, None, 10**8)],
    ids=repr,
)  # fmt: skip
def test_watching_refuses_what_is_invalid(server: Playhead, body: Any) -> None:
    problem_of(server.post("/watching", json=body, cookies={"user_id": "player3"}), 400)
    server.session.cookies.clear()


def test_watching_needs_its_cookie_and_its_video(server: Playhead) -> None:
    server.session.cookies.clear()
    problem_of(server.post("/watching", json={"video_id": "123", "position": 1}), 400)
    problem_of(server.get("/watching?video_id=123"), 400)
    problem_of(server.get("/watching", cookies={"user_id": "player4"}), 400)
    server.session.cookies.clear()


def test_health_and_statistics(server: Playhead) -> None:
    assert server.get("/healthz").status_code == 200
    assert server.get("/readyz").status_code == 200
    before = server.get("/v1/stats").json()
    server.post("/", json=[event(f"stats{n}", "stats", 1) for n in range(30)])
    after = server.get("/v1/stats").json()
    for counted, more in (("users", 30), ("movies", 1), ("pairs", 30), ("events", 30)):
        assert after[counted] == before[counted] + more
    assert [shard["shard"] for shard in after["shards"]] == [0, 1]
    assert all(shard["events"] for shard in after["shards"])


def test_every_route_documents_itself(server: Playhead) -> None:
    document = server.get("/openapi.json").json()
    assert document["info"]["title"] == "playhead"
    documented = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert {
        ("post", "/"),
        ("post", "/v1/events"),
        ("get", "/v1/movies"),
        ("get", "/v1/movies/{slug}"),
        ("get", "/v1/users/{user}"),
        ("get", "/v1/users/{user}/movies/{slug}"),
        ("get", "/watching"),
        ("post", "/watching"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/v1/stats"),
    } <= set(documented)
    identifiers = [operation["operationId"] for operation in documented.values()]
    assert len(identifiers) == len(set(identifiers))
    for operation in documented.values():
        assert operation["summary"]
        assert operation["description"]
        assert {"200", "204"} & set(operation["responses"])
        contents = [
            content
            for response in operation["responses"].values()
            for content_type, content in response.get("content", {}).items()
            if "json" in content_type and "ndjson" not in content_type
        ]
        assert all("example" in content for content in contents)
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])


def test_the_order_of_the_documentation_is_that_of_the_paths(server: Playhead) -> None:
    """It was another one in each process."""
    paths = server.get("/openapi.json").json()["paths"]
    assert list(paths) == sorted(paths)
    for methods in paths.values():
        assert list(methods) == sorted(methods)


def test_how_to_send_a_cookie_from_the_documentation_is_said(server: Playhead) -> None:
    methods = server.get("/openapi.json").json()["paths"]["/watching"]
    for operation in methods.values():
        assert '`document.cookie = "user_id=username"`' in operation["description"]


def test_schemas_are_what_generators_of_clients_know(server: Playhead) -> None:
    """OpenAPI 3.0 has no type `null`, and a property that may be null says so beside its type."""
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.0")
    assert '"null"' not in json.dumps(document)
    assert '"required": []' not in json.dumps(document)
    schemas = document["components"]["schemas"]
    assert schemas["ProgressAnswer"]["properties"]["resume_at"] == {
        "type": "number",
        "nullable": True,
    }
    assert schemas["MovieAnswer"]["properties"]["completions"] == {
        "type": "integer",
        "nullable": True,
    }
    assert schemas["UserAnswer"]["properties"]["watch_seconds"] == {"type": "number"}
    (_, video) = document["paths"]["/watching"]["get"]["parameters"]
    assert video["required"]
    described = schemas["Event"]["properties"]["session"]
    assert described["type"] == "string"
    assert described["nullable"]


def test_the_examples_in_the_documentation_work(server: Playhead) -> None:
    document = server.get("/openapi.json").json()
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path != "/v1/live"  # never ends
    ]
    order = ["post", "put", "get", "delete"]
    # What is erased cannot be asked for after: the most general goes last.
    operations.sort(key=lambda o: (order.index(o[0]), -len(o[1]) if o[0] == "delete" else 0))
    for method, path, operation in operations:
        contents = operation.get("requestBody", {}).get("content", {"": {"example": ""}})
        for content_type, content in contents.items():
            if "example" not in content:
                assert content_type == "application/vnd.apache.arrow.stream"
                continue
            example = content["example"]
            body = example if isinstance(example, str) else json.dumps(example)
            url, query, headers = filled_in(path, operation)
            answer = server.session.request(
                method,
                server.url + url,
                params=query,
                data=body or None,
                headers=headers | ({"Content-Type": content_type} if content_type else {}),
                timeout=30,
            )
            assert answer.status_code in (200, 204), (operation, answer.text)


def filled_in(path: str, operation: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, str]]:
    """The path, query and headers of an operation with its examples and defaults."""
    headers: dict[str, str] = {}
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        example = schema.get("example", schema.get("default"))
        match parameter["in"]:
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", example)
            case "cookie":
                headers["Cookie"] = f"{parameter['name']}={example}"
            case "query" if example is not None:
                query[parameter["name"]] = example
    return path, query, headers
