"""What can be asked and changed beyond single totals, on a real server with two shards."""

import gzip
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.test_api import event, problem_of
from tests.playhead import Playhead, eventually

NOW_MS = int(time.time() * 1000)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def play(server: Playhead, user: str, slug: str, *positions: float, **more: Any) -> None:
    answer = server.post("/", json=[event(user, slug, at, **more) for at in positions])
    assert answer.json()["accepted"] == len(positions), answer.text


def put(server: Playhead, path: str, body: Any = None, **headers: str) -> requests.Response:
    return server.session.put(server.url + path, json=body, headers=headers, timeout=30)


def delete(server: Playhead, path: str) -> requests.Response:
    return server.session.delete(server.url + path, timeout=30)


def slugs(server: Playhead, path: str) -> list[str]:
    return [movie["slug"] for movie in server.get(path).json()["movies"]]


# Movies


def test_retention_counts_users_once_and_plays_again(server: Playhead) -> None:
    play(server, "ret-a", "ret", 0, 30, 5, 20)
    play(server, "ret-b", "ret", 15, 25)
    play(server, "ret-c", "ret", 500)
    assert server.get("/v1/movies/ret/retention").json() == {
        "slug": "ret",
        "bucket_seconds": 10,
        "viewers": [1, 2, 2],
        "plays": [2, 3, 2],
    }
    problem_of(server.get("/v1/movies/ret-none/retention"), 404)


def test_watch_time_by_hour_and_day(server: Playhead) -> None:
    start = NOW_MS // DAY_MS * DAY_MS - 2 * DAY_MS
    for user, t, watched in (("a", 0, 10), ("b", HOUR_MS + 5, 20), ("c", DAY_MS, 40)):
        play(server, f"ts-{user}", "ts", 0, ts=start + t)
        play(server, f"ts-{user}", "ts", watched, ts=start + t + 1000)
    day = datetime.fromtimestamp(start / 1000, UTC)
    path = f"/v1/movies/ts/timeseries?from={day:%Y-%m-%d}&step="
    by_hour = server.get(path + f"hour&to={day:%Y-%m-%d}T03:00:00Z").json()
    assert by_hour["slug"], by_hour["step"] == ("ts", "hour")
    assert [point["watch_seconds"] for point in by_hour["points"]] == [10, 20, 0]
    assert by_hour["points"][1]["start"] == f"{day:%Y-%m-%d}T01:00:00.000Z"
    by_day = server.get(path + "day").json()["points"]
    assert [point["watch_seconds"] for point in by_day] == [30, 40, 0]
    from_the_first_event = server.get("/v1/movies/ts/timeseries?step=day").json()["points"]
    assert from_the_first_event == by_day


def test_days_long_past_are_known_by_day_alone(server: Playhead) -> None:
    start = NOW_MS // DAY_MS * DAY_MS - 60 * DAY_MS
    play(server, "old", "old", 0, ts=start + 5 * HOUR_MS)
    play(server, "old", "old", 30, ts=start + 5 * HOUR_MS + 30_000)
    day = datetime.fromtimestamp(start / 1000, UTC)
    after = day + timedelta(days=1)
    path = f"/v1/movies/old/timeseries?from={day:%Y-%m-%d}&to={after:%Y-%m-%d}"
    hours = [point["watch_seconds"] for point in server.get(path).json()["points"]]
    assert hours == [30] + [0] * 23
    days = [point["watch_seconds"] for point in server.get(path + "&step=day").json()["points"]]
    assert days == [30]
    play(server, "old", "old", 0, 20)
    points = server.get("/v1/movies/old/timeseries").json()["points"]
    assert points[0] == {"start": f"{day:%Y-%m-%d}T00:00:00.000Z", "watch_seconds": 30}
    assert sum(point["watch_seconds"] for point in points) == 50


def test_top_movies_of_a_window(server: Playhead) -> None:
    for user in range(8):
        play(server, f"win{user}", "win-recent", 0, 30)
        play(server, f"win{user}", "win-older", 0, ts=NOW_MS - 3 * DAY_MS)
        play(server, f"win{user}", "win-older", 60, ts=NOW_MS - 3 * DAY_MS + 60_000)

    def order(window: str) -> list[tuple[str, float]]:
        movies = server.get(f"/v1/movies?limit=1000&window={window}").json()["movies"]
        return [
            (movie["slug"], movie["watch_seconds"])
            for movie in movies
            if movie["slug"].startswith("win-")
        ]

    assert order("24h") == [("win-recent", 240), ("win-older", 0)]
    assert order("7d") == order("all") == [("win-older", 480), ("win-recent", 240)]


def test_the_catalogue(server: Playhead) -> None:
    described = put(server, "/v1/movies/cat", {"duration": 100, "title": "Cätalogue"})
    assert described.status_code == 200
    assert described.json() == server.get("/v1/movies/cat").json()
    assert described.json() == {
        "slug": "cat",
        "watch_seconds": 0,
        "viewers": 0,
        "views": 0,
        "completions": 0,
        "events": 0,
        "watching_now": 0,
        "average_watch_seconds": 0,
        "duration": 100,
        "title": "Cätalogue",
        "first_event": None,
        "last_event": None,
    }
    assert "cat" not in slugs(server, "/v1/movies?limit=1000")
    for user in range(6):  # on either shard
        play(server, f"cat{user}", "cat", 50)
        play(server, f"cat{user}", "cat", 90)
        progress = server.get(f"/v1/users/cat{user}/movies/cat").json()
        assert (progress["completed"], progress["duration"], progress["resume_at"]) == (
            True,
            100,
            0,
        )
    play(server, "cat-own", "cat", 90, duration=1000)
    assert server.get("/v1/users/cat-own/movies/cat").json()["completed"] is False
    assert server.get("/v1/movies/cat").json()["completions"] == 6
    assert put(server, "/v1/movies/cat", {}).json()["duration"] is None
    assert server.get("/v1/users/cat0/movies/cat").json()["duration"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"duration": 0},
        {"duration": "long"},
        {"title": "x" * 1025},
        {"title": "a\nb"},
        [],
        {"duration": 1e9},
    ],
)
def test_an_invalid_catalogue_entry_changes_nothing(server: Playhead, body: Any) -> None:
    put(server, "/v1/movies/cat-bad", {"duration": 7})
    problem_of(put(server, "/v1/movies/cat-bad", body), 400)
    assert server.get("/v1/movies/cat-bad").json()["duration"] == 7


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("step=week", "step"),
        ("from=yesterday", "from"),
        ("to=2026-13-01", "to"),
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("from=1990-01-01&to=2026-01-01", "from"),
        ("from=1900-01-01&to=1900-01-02", "from"),
    ],
)
def test_bad_parameters_of_a_timeseries_are_named(server: Playhead, query: str, named: str) -> None:
    play(server, "bad", "bad-ts", 0)
    problem = problem_of(server.get(f"/v1/movies/bad-ts/timeseries?{query}"), 400)
    assert problem["detail"].startswith(named)


def test_before_the_first_event_there_are_no_points(server: Playhead) -> None:
    play(server, "early", "early", 0)
    points = server.get("/v1/movies/early/timeseries?to=2020-01-01T00:00:00Z").json()["points"]
    assert points == []


# Lists of a user


def test_the_history_pages_stay_stable_while_movies_move(server: Playhead) -> None:
    for number in range(7):
        play(server, "hist", f"hist{number}", 10)
    newest_first = [f"hist{number}" for number in reversed(range(7))]
    assert slugs(server, "/v1/users/hist/movies") == newest_first
    first = server.get("/v1/users/hist/movies?limit=3").json()
    assert [movie["slug"] for movie in first["movies"]] == newest_first[:3]
    play(server, "hist", "hist1", 20)  # moves up, out of the pages to come
    second = server.get(f"/v1/users/hist/movies?limit=3&cursor={first['next']}").json()
    assert [movie["slug"] for movie in second["movies"]] == ["hist3", "hist2", "hist0"]
    assert second["next"] is None
    assert slugs(server, "/v1/users/hist/movies?limit=1") == ["hist1"]
    assert second["movies"][0] == server.get("/v1/users/hist/movies/hist3").json()


def test_the_history_of_one_request_is_in_its_order(server: Playhead) -> None:
    server.post("/", json=[event("order", f"order{n}", 10) for n in (4, 2, 9, 1)])
    assert slugs(server, "/v1/users/order/movies") == ["order1", "order9", "order2", "order4"]


def test_the_continue_list(server: Playhead) -> None:
    play(server, "cont", "cont-middle", 500, duration=1000)
    play(server, "cont", "cont-start", 10, duration=1000)
    play(server, "cont", "cont-end", 950, duration=1000)
    play(server, "cont", "cont-again", 950, 300, duration=1000)
    play(server, "cont", "cont-unknown", 5)
    play(server, "cont", "cont-marked", 500, duration=1000)
    put(server, "/v1/users/cont/movies/cont-marked/completed")
    play(server, "cont", "cont-hidden", 500)
    put(server, "/v1/users/cont/movies/cont-hidden/hidden")
    path = "/v1/users/cont/continue"
    assert slugs(server, path) == ["cont-unknown", "cont-again", "cont-middle"]
    play(server, "cont", "cont-hidden", 505)
    play(server, "cont", "cont-marked", 500)
    assert slugs(server, path)[:2] == ["cont-marked", "cont-hidden"]
    assert slugs(server, path + "?limit=1") == ["cont-marked"]
    delete(server, "/v1/users/cont/movies/cont-marked/completed")
    assert "cont-marked" in slugs(server, path)
    assert "cont-start" not in slugs(server, path)


def test_a_late_upload_does_not_begin_a_finished_movie_again(server: Playhead) -> None:
    play(server, "late", "late", 500, duration=1000)
    put(server, "/v1/users/late/movies/late/completed")
    play(server, "late", "late", 400, ts=NOW_MS - DAY_MS)
    assert slugs(server, "/v1/users/late/continue") == []


@pytest.mark.parametrize("path", ["movies", "continue", "export"])
def test_lists_of_an_unknown_user(server: Playhead, path: str) -> None:
    problem_of(server.get(f"/v1/users/nobody-at-all/{path}"), 404)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=", "cursor"),
        ("limit=0", "limit"),
    ],
)
def test_empty_and_repeated_parameters_are_named(server: Playhead, query: str, named: str) -> None:
    play(server, "params", "m", 1)
    problem = problem_of(server.get(f"/v1/users/params/movies?{query}"), 400)
    assert problem["detail"].startswith(named)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/movies/m", "GET, HEAD, PUT"),
        ("POST", "/v1/users/u/movies/m", "GET, HEAD, DELETE"),
        ("GET", "/v1/users/u/movies/m/completed", "PUT, DELETE"),
        ("PUT", "/v1/stats", "GET, HEAD"),
        ("HEAD", "/v1/live", "GET"),
        ("HEAD", "/v1/users/u/export", "GET"),
        ("HEAD", "/v1/events", "POST"),
    ],
)
def test_other_methods_are_told_what_is_possible(
    server: Playhead, method: str, path: str, allowed: str
) -> None:
    answer = server.session.request(method, server.url + path, timeout=30)
    assert answer.headers["Allow"] == allowed
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (405, b"")
    else:
        assert allowed in problem_of(answer, 405)["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/readyz",
        "/docs",
        "/docs/assets/swagger-ui.css",
        "/openapi.json",
        "/v1/movies",
        "/v1/movies/headed",
        "/v1/users/headed",
        "/v1/users/headed/movies/headed",
        "/v1/users/headed/movies/none",
        "/v1/movies?limit=0",
        "/nowhere",
    ],
)
def test_head_gets_what_get_would_without_the_body(server: Playhead, path: str) -> None:
    play(server, "headed", "headed", 1)
    got, headed = (
        server.session.request(method, server.url + path, timeout=30) for method in ("GET", "HEAD")
    )
    assert headed.status_code == got.status_code
    assert headed.headers == got.headers
    assert int(got.headers["content-length"]) == len(got.content)
    assert headed.content == b""


def test_head_of_metrics(server: Playhead) -> None:
    headed = server.session.head(server.url + "/metrics", timeout=30)
    assert headed.status_code == 200
    assert int(headed.headers["content-length"]) > 0
    assert headed.headers["content-type"] == server.get("/metrics").headers["content-type"]


def test_an_empty_idempotency_key(server: Playhead) -> None:
    answer = server.post("/", json=event("key", "m", 1), headers={"Idempotency-Key": ""})
    assert problem_of(answer, 400)["detail"].startswith("Idempotency-Key")


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-1-2", "9" * 30 + "-1"])
def test_a_bad_cursor_is_named(server: Playhead, cursor: str) -> None:
    problem = problem_of(server.get(f"/v1/users/hist/movies?cursor={cursor}"), 400)
    assert problem["detail"].startswith("cursor")


# Changes by hand


def test_a_position_by_hand(server: Playhead) -> None:
    play(server, "hand", "m", 0, 30)
    before = server.get("/v1/users/hand/movies/m")
    path = "/v1/users/hand/movies/m/position"
    moved = put(server, path, {"at": 300}, **{"If-Match": before.headers["ETag"]})
    assert moved.status_code == 200
    assert moved.headers["ETag"] == f'"{moved.json()["version"]}"'
    assert moved.json()["latest"]["at"] == moved.json()["resume_at"] == 300
    unmoved = ("furthest", "watch_seconds", "unique_seconds", "views", "events")
    assert [moved.json()[name] for name in unmoved] == [before.json()[name] for name in unmoved]
    too_late = put(server, path, {"at": 400}, **{"If-Match": before.headers["ETag"]})
    problem = problem_of(too_late, 412)
    assert {name: problem[name] for name in moved.json()} == moved.json()
    assert too_late.headers["ETag"] == moved.headers["ETag"]
    play(server, "hand", "m", 40)
    assert server.get("/v1/users/hand/movies/m").json()["watch_seconds"] == 40


def test_a_position_by_hand_where_nothing_was_watched(server: Playhead) -> None:
    path = "/v1/users/hand-new/movies/hand-new/position"
    problem_of(put(server, path, {"at": 5}, **{"If-Match": '"1"'}), 412)
    problem_of(put(server, path, {"at": 5}, **{"If-Match": "*"}), 412)
    assert put(server, path, {"at": 5}).json()["latest"]["at"] == 5
    assert put(server, path, {"at": 6}, **{"If-Match": "*"}).json()["latest"]["at"] == 6
    movie = server.get("/v1/movies/hand-new").json()
    assert (movie["viewers"], movie["views"], movie["events"]) == (0, 0, 0)


@pytest.mark.parametrize("body", [{}, {"at": -1}, {"at": "x"}, {"at": 1e8}, [], 3])
def test_a_bad_position_by_hand(server: Playhead, body: Any) -> None:
    problem = problem_of(put(server, "/v1/users/hand-bad/movies/m/position", body), 400)
    assert [error["field"] for error in problem["errors"]] == [
        "at" if isinstance(body, dict) else None
    ]
    problem_of(server.get("/v1/users/hand-bad"), 404)


def test_a_bad_if_match(server: Playhead) -> None:
    path = "/v1/users/hand-bad/movies/m/position"
    problem = problem_of(put(server, path, {"at": 1}, **{"If-Match": "latest"}), 400)
    assert problem["detail"].startswith("If-Match")


def test_names_by_hand_are_checked_as_those_of_events(server: Playhead) -> None:
    problem_of(put(server, "/v1/users/a%0Ab/movies/m/position", {"at": 1}), 400)
    problem_of(put(server, "/v1/users/ab/movies/m%00/completed"), 400)
    problem_of(put(server, f"/v1/movies/{'x' * 257}", {}), 400)


def test_of_many_devices_one_wins_each_version(server: Playhead) -> None:
    play(server, "race", "m", 10)
    path = "/v1/users/race/movies/m"

    def device(number: int) -> list[int]:
        """Moves on from each version it sees; the versions it made."""
        won = []
        with requests.Session() as session:
            session.trust_env = False
            version = session.get(server.url + path, timeout=30).json()["version"]
            for _ in range(10):
                answer = session.put(
                    f"{server.url}{path}/position",
                    json={"at": number},
                    headers={"If-Match": f'"{version}"'},
                    timeout=30,
                )
                version = answer.json()["version"]
                if answer.status_code == 200:
                    assert answer.json()["latest"]["at"] == number
                    won.append(version)
                else:
                    assert answer.status_code == 412
        return won

    with ThreadPoolExecutor(50) as devices:
        won = [version for versions in devices.map(device, range(50)) for version in versions]
    last = server.get(path).json()["version"]
    assert sorted(won) == list(range(2, last + 1))
    assert len(won) >= 10


def test_marks(server: Playhead) -> None:
    path = "/v1/users/mark/movies/mark/completed"
    problem_of(delete(server, path), 404)
    marked = put(server, path).json()
    assert (marked["completed"], marked["views"]) == (True, 0)
    assert put(server, path).json()["completed_at"] == marked["completed_at"]
    assert server.get("/v1/movies/mark").json()["completions"] == 1
    assert server.get("/v1/users/mark").json()["completed"] == 1
    unmarked = delete(server, path).json()
    assert (unmarked["completed"], unmarked["completed_at"]) == (False, None)
    assert server.get("/v1/movies/mark").json()["completions"] == 0
    problem_of(put(server, "/v1/users/mark/movies/never/hidden"), 404)


# Erasing and exporting


def test_an_erased_pair_is_as_if_it_had_never_been(server: Playhead) -> None:
    play(server, "pair-a", "pair", 0, 30, 0, 20)
    before = [server.get(path).json() for path in ("/v1/movies/pair", "/v1/movies/pair/retention")]
    play(server, "pair-b", "pair", 0, 60)
    play(server, "pair-b", "pair-other", 5)
    assert delete(server, "/v1/users/pair-b/movies/pair").status_code == 204
    problem_of(server.get("/v1/users/pair-b/movies/pair"), 404)
    problem_of(delete(server, "/v1/users/pair-b/movies/pair"), 404)
    assert [
        server.get(path).json() for path in ("/v1/movies/pair", "/v1/movies/pair/retention")
    ] == before
    assert slugs(server, "/v1/users/pair-b/movies") == ["pair-other"]
    assert delete(server, "/v1/users/pair-b").status_code == 204
    problem_of(server.get("/v1/movies/pair-other"), 404)
    play(server, "pair-b", "pair", 7)
    assert server.get("/v1/users/pair-b/movies/pair").json()["events"] == 1


def holding(folder: Path, name: str) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and name.encode() in path.read_bytes()
    ]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    flags = (
        *("--shards", "1", "--snapshot-interval-s", "0.5", "--snapshot-log-bytes", "4096"),
        *("--erase-delay-s", "0.5"),
    )
    with Playhead(tmp_path_factory.mktemp("hasty"), *flags).running() as playhead:
        yield playhead


@pytest.fixture
def hasty(lasting: Playhead) -> Playhead:
    """One that soon stores events and makes erases final; a test may end it."""
    return lasting.running_again()


def lines_of(answer: requests.Response) -> Iterator[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return map(json.loads, answer.iter_lines())


def stored_events(playhead: Playhead) -> int:
    (stats,) = playhead.get("/v1/stats").json()["shards"]
    return int(stats["stored_events"])


def test_an_export_holds_everything(hasty: Playhead) -> None:
    before = stored_events(hasty)
    for start in range(0, 60, 10):
        if start == 30:  # some of it is stored already, the rest is in the log
            eventually(lambda: stored_events(hasty) > before, "stored")
        play(hasty, "exp", f"m{start}", *range(start, start + 10), session="tv")
        play(hasty, "else", "m0", *range(5))
    hasty.post("/", json=[event("exp", "m0", 1, id="i", ts=NOW_MS, duration=50)] * 2)
    put(hasty, "/v1/users/exp/movies/m0/completed")
    lines = list(lines_of(hasty.get("/v1/users/exp/export")))
    assert [line.pop("type") for line in lines] == (
        ["user"] + ["progress"] * 6 + ["event"] * 61 + ["completed"]
    )
    assert lines[0] == hasty.get("/v1/users/exp").json()
    assert lines[1:7] == hasty.get("/v1/users/exp/movies").json()["movies"]
    assert [line["at"] for line in lines[7:67]] == list(range(60))
    assert {line["session"] for line in lines[7:67]} == {"tv"}
    assert (lines[67]["duration"], lines[67]["slug"]) == (50, "m0")
    assert datetime.fromisoformat(lines[67]["time"]).timestamp() * 1000 == pytest.approx(NOW_MS)


def test_an_erased_user_is_in_no_file(hasty: Playhead) -> None:
    name = "Ünerased-7f3a"
    for number in range(30):
        play(hasty, "other", "m", number)
        play(hasty, name, "m", *range(5), session="tv")
    put(hasty, f"/v1/users/{name}/movies/m/position", {"at": 3})
    assert holding(hasty.data_dir, name)
    assert delete(hasty, f"/v1/users/{name}").status_code == 204
    problem_of(hasty.get(f"/v1/users/{name}"), 404)
    assert hasty.get("/v1/movies/m").json()["watch_seconds"] == 29
    deadline = time.monotonic() + 60
    while (stats := hasty.get("/v1/stats").json())["erasing"]:
        assert datetime.fromisoformat(stats["erasing_since"]) <= datetime.now(UTC)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert holding(hasty.data_dir, name) == []
    assert holding(hasty.data_dir, "other")
    hasty.kill()
    hasty.start()
    problem_of(hasty.get(f"/v1/users/{name}"), 404)
    assert hasty.get("/v1/movies/m").json()["watch_seconds"] == 29
    assert hasty.stop() == 0
    assert holding(hasty.data_dir, name) == []


# Sources that send amounts


def test_amounts_instead_of_positions(amounts: Playhead) -> None:
    play(amounts, "amount", "sum", 30, 30, 10, duration=60)
    progress = amounts.get("/v1/users/amount/movies/sum").json()
    assert (progress["watch_seconds"], progress["latest"]["at"]) == (70, 10)
    unknown = ("unique_seconds", "completed", "completed_at", "resume_at")
    assert [progress[name] for name in unknown] == [None] * 4
    movie = amounts.get("/v1/movies/sum").json()
    assert (movie["watch_seconds"], movie["completions"]) == (70, None)
    assert amounts.get("/v1/users/amount").json()["completed"] is None
    retention = amounts.get("/v1/movies/sum/retention").json()
    assert (retention["viewers"], retention["plays"]) == (None, None)
    assert slugs(amounts, "/v1/users/amount/continue") == []
    problem_of(put(amounts, "/v1/users/amount/movies/sum/completed"), 409)
    assert amounts.get("/v1/movies/sum/timeseries?step=day").json()["points"][-1] is not None


def test_a_series_that_began_long_ago_ends_now(server: Playhead) -> None:
    """One event of long ago had all who gave no range refused, for ever."""
    play(server, "ancient", "ancient", 0, ts=1)
    play(server, "ancient", "ancient", 0, 20)
    for step, hours in (("hour", 1), ("day", 24)):
        points = server.get(f"/v1/movies/ancient/timeseries?step={step}").json()["points"]
        assert len(points) == 10_000
        first, last = (datetime.fromisoformat(points[place]["start"]) for place in (0, -1))
        assert last - first == timedelta(hours=hours) * 9_999
        assert sum(point["watch_seconds"] for point in points) == 20


def test_an_encoded_body_is_refused_where_it_is_not_understood(server: Playhead) -> None:
    body = gzip.compress(b'{"duration": 100}')
    url, headers = server.url + "/v1/movies/zipped", {"Content-Encoding": "gzip"}
    answer = requests.put(url, data=body, headers=headers, timeout=30)
    assert "Content-Encoding gzip" in problem_of(answer, 415)["detail"]
