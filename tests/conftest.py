"""Fixtures that several folders share."""

from collections.abc import Iterator

import pytest

from tests.playhead import Playhead


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """One running playhead for all tests that need nothing special; use names of your own."""
    playhead = Playhead(tmp_path_factory.mktemp("server"), "--shards", "2")
    playhead.start()
    yield playhead
    playhead.kill()


@pytest.fixture
def playhead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playhead]:
    """A playhead of the test's own, not started yet."""
    own = Playhead(tmp_path_factory.mktemp("own"))
    yield own
    own.kill()
