"""Streams when their server stops."""

import contextlib
import time

from tests.integration.test_live import Listener
from tests.playhead import Playhead


def test_it_ends_when_the_server_stops(playhead: Playhead) -> None:
    playhead.start("--workers", "2", "--shards", "1")
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(Listener(playhead)) for _ in range(20)]
        for listener in listeners:
            listener.frame()
        started = time.monotonic()
        assert playhead.stop() == 0
        assert time.monotonic() - started < 10  # the promise to whoever supervises it
        for listener in listeners:
            assert all(name == "message" for name, _ in listener)  # and then a clean end
    assert "Traceback" not in playhead.log
