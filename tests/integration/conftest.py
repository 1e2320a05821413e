"""Servers with other settings than most, each for all tests that can do with it."""

from collections.abc import Iterator

import pytest

from tests.playhead import Playhead

#: An origin whose pages may call `strict`.
PAGE = "https://video.example"
#: To `strict`, at a time.
CONNECTIONS_MAX = 24


def connections_of(playhead: Playhead) -> int:
    """How many clients its only worker is connected with."""
    (worker,) = playhead.children("api.worker")
    port = int(playhead.url.rpartition(":")[2])
    return sum(c.laddr.port == port and bool(c.raddr) for c in worker.net_connections("tcp"))


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One whose requests have little time and connections little room; use names of your own."""
    flags = (
        *("--shards", "2", "--workers", "1", "--connections-max", str(CONNECTIONS_MAX)),
        *("--request-timeout-s", "1", "--shard-timeout-s", "2"),
        *("--cors-origins", f"https://other.example, {PAGE}"),
    )
    with Playhead(tmp_path_factory.mktemp("strict"), *flags).running() as playhead:
        yield playhead


@pytest.fixture(scope="session")
def twofold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One with two workers, whom all pages may call; use names of your own."""
    flags = ("--workers", "2", "--shards", "2", "--shard-timeout-s", "60", "--cors-origins", "*")
    with Playhead(tmp_path_factory.mktemp("twofold"), *flags).running() as playhead:
        yield playhead


@pytest.fixture(scope="session")
def amounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One for sources that send amounts instead of positions; use names of your own."""
    flags = ("--credit", "duration", "--shards", "1")
    with Playhead(tmp_path_factory.mktemp("amounts"), *flags).running() as playhead:
        yield playhead
