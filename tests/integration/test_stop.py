"""Streams when their server stops. It comes last, so that others can use the server before."""

import contextlib
import time

from tests.integration.test_live import Listener
from tests.playhead import Playhead


def test_it_ends_when_the_server_stops(twofold: Playhead) -> None:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(Listener(twofold)) for _ in range(20)]
        for listener in listeners:
            listener.frame()
        started = time.monotonic()
        assert twofold.stop() == 0
        assert time.monotonic() - started < 10  # the promise to whoever supervises it
        for listener in listeners:
            assert all(name == "message" for name, _ in listener)  # and then a clean end
    assert "Traceback" not in twofold.log
