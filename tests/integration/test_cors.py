"""Players in web pages of other origins."""

import requests

from tests.integration.conftest import PAGE
from tests.playhead import Playhead


def preflight(server: Playhead, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "if-match,content-type",
    }
    path = "/v1/users/u/movies/m/position"
    return server.session.options(server.url + path, headers=headers, timeout=30)


def test_only_origins_that_were_named_are_allowed(strict: Playhead) -> None:
    allowed = preflight(strict, PAGE)
    assert allowed.status_code == 204
    assert allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
    assert {"PUT", "HEAD"} <= set(allowed.headers["Access-Control-Allow-Methods"].split(", "))
    assert "If-Match" in allowed.headers["Access-Control-Allow-Headers"]
    event = {"user": "cors", "slug": "cors", "at": 1}
    posted = strict.post("/", json=event, headers={"Origin": PAGE})
    assert posted.headers["Access-Control-Allow-Origin"] == PAGE
    missing = strict.get("/v1/users/none", headers={"Origin": PAGE})
    assert missing.status_code == 404
    assert missing.headers["Access-Control-Allow-Origin"] == PAGE
    stranger = preflight(strict, "https://stranger.example")
    assert "Access-Control-Allow-Origin" not in stranger.headers


def test_caches_are_told_that_answers_to_other_origins_differ(strict: Playhead) -> None:
    """Else one would give a player what it keeps of an answer to someone else."""
    origins = ("https://stranger.example", PAGE, None)
    for path in ("/healthz", "/v1/users/none", "/nowhere", "/v1/users/none/movies/none"):
        for origin in origins:
            assert strict.get(path, headers={"Origin": origin}).headers["Vary"] == "Origin"
    assert preflight(strict, PAGE).headers["Vary"] == "Origin"
    assert preflight(strict, "https://stranger.example").headers["Vary"] == "Origin"


def test_by_default_no_other_origin_is_allowed(server: Playhead) -> None:
    assert "Access-Control-Allow-Origin" not in preflight(server, PAGE).headers
    answer = server.get("/healthz", headers={"Origin": PAGE})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_star_allows_all_without_cookies(twofold: Playhead) -> None:
    for headers in ({"Origin": PAGE}, {}):  # as a cache may give either the answer to the other
        answer = twofold.get("/healthz", headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Vary" not in answer.headers
