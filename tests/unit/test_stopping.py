"""A stop that is asked for while the server starts is not lost."""

import subprocess
import sys

import pytest

SIGNALS = pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])


def said(script: str, number: str) -> str:
    """By a process of its own that runs `script`, with `{signal}` in it the one called `number`."""
    done = subprocess.run(
        [sys.executable, "-c", script.format(signal=number)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


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


@SIGNALS
def test_an_interrupt_that_was_swallowed_is_raised_again(number: str) -> None:
    assert said(_START, number) == "stopped\n"


#: As Ray's handler leaves it before it calls the one that was there.
_ALARMED = """
import os, signal, time
from api import stopping
stopping.install()
signal.alarm(1)
try:
    os.kill(os.getpid(), signal.{signal})
except KeyboardInterrupt:
    time.sleep(1.5)
    print("stopped")
"""


@SIGNALS
def test_a_stop_that_takes_longer_than_ray_would_wait_is_not_cut_short(number: str) -> None:
    assert said(_ALARMED, number) == "stopped\n"


#: One that comes while one program makes way for the next.
_HANDOVER = """
import os, signal
from api import stopping
stopping.keep()
os.kill(os.getpid(), signal.{signal})
print("kept")
try:
    stopping.install()
except KeyboardInterrupt:
    print("stopped")
"""


@SIGNALS
def test_a_stop_between_two_programs_is_kept_for_the_second(number: str) -> None:
    assert said(_HANDOVER, number) == "kept\nstopped\n"


#: A signal for the process goes to any thread that does not block it, in its own time.
_BESIDE_A_THREAD = """
import os, signal, threading, time
from api import stopping

def is_known():
    try:
        stopping.check()
    except KeyboardInterrupt:
        return True
    return False

threading.Thread(target=threading.Event().wait, daemon=True).start()
stopping.keep()
os.kill(os.getpid(), signal.{signal})
while not is_known():
    time.sleep(0.001)
print("kept")
try:
    stopping.install()
except KeyboardInterrupt:
    print("stopped")
"""


@SIGNALS
def test_a_stop_that_another_thread_gets_is_kept_as_well(number: str) -> None:
    assert said(_BESIDE_A_THREAD, number) == "kept\nstopped\n"


_IMPATIENT = """
import os, signal
from api import stopping
stopping.keep()
os.kill(os.getpid(), signal.{signal})
stopping.ignore()
signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping.SIGNALS)
os.kill(os.getpid(), signal.{signal})
print("goes on")
"""


@SIGNALS
def test_once_it_stops_another_signal_changes_nothing(number: str) -> None:
    assert said(_IMPATIENT, number) == "goes on\n"
