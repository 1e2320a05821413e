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


def test_a_stop_that_takes_longer_than_ray_would_wait_is_not_cut_short() -> None:
    for number in ("SIGINT", "SIGTERM"):
        script = _ALARMED.format(signal=number)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "stopped\n"


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


def test_a_stop_between_two_programs_is_kept_for_the_second() -> None:
    for number in ("SIGINT", "SIGTERM"):
        script = _HANDOVER.format(signal=number)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "kept\nstopped\n"


#: A signal for the process goes to any thread that does not block it.
_BESIDE_A_THREAD = """
import os, signal, threading
from api import stopping
over = threading.Event()
thread = threading.Thread(target=over.wait, daemon=True)
thread.start()
stopping.keep()
os.kill(os.getpid(), signal.{signal})
print("kept")
try:
    stopping.install()
except KeyboardInterrupt:
    print("stopped")
over.set()
"""


def test_a_stop_that_another_thread_gets_is_kept_as_well() -> None:
    for number in ("SIGINT", "SIGTERM"):
        script = _BESIDE_A_THREAD.format(signal=number)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "kept\nstopped\n"


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


def test_once_it_stops_another_signal_changes_nothing() -> None:
    for number in ("SIGINT", "SIGTERM"):
        script = _IMPATIENT.format(signal=number)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "goes on\n"
