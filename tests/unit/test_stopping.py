"""A stop that is asked for while the server starts is not lost."""

import subprocess
import sys

#: A library that swallows the interrupt, as Ray does at times while it connects.
_START = """
import os, signal
from api import stopping
stopping.install()
stopping.check()
try:
    os.kill(os.getpid(), signal.{signal})
except BaseException:
    pass
try:
    stopping.check()
except KeyboardInterrupt:
    print("stopped")
"""


def test_an_interrupt_that_was_swallowed_is_raised_again() -> None:
    for number in ("SIGINT", "SIGTERM"):
        script = _START.format(signal=number)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "stopped\n"
