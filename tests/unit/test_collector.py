"""Garbage is looked for again after a pause, but not before the outermost has ended."""

import contextlib
import gc

from aggregator import collector


def test_pauses_nest_and_end_with_a_failure() -> None:
    assert gc.isenabled()
    with contextlib.suppress(ZeroDivisionError), collector.paused():
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
