"""Servers to measure, in processes of their own on the loopback interface."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import psutil
import requests

START_TIMEOUT_S = 60
#: A shard writes what it has before it ends, also of millions of pairs.
STOP_TIMEOUT_S = 120
LOOK_EVERY_S = 0.05
#: The end of what a server said that did not start.
SAID_BYTES_MAX = 2_000


@contextlib.contextmanager
def listening(command: list[str]) -> Iterator[tuple[str, int]]:
    """Its address and process; the last argument it gets is a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with process([*command, port], lambda: _is_ready(url), env=_environment()) as pid:
        yield url, pid


def running(module: str, *arguments: str) -> AbstractContextManager[tuple[str, int]]:
    """As `listening`, a module of ours."""
    return listening([sys.executable, "-m", module, *arguments])


@contextlib.contextmanager
def process(
    command: list[str],
    is_ready: Callable[[], bool],
    stop_with: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[int]:
    """A process that is ready; it ends with the context. `options` are those of `Popen`.

    It has a session of its own, so that Ctrl-C is for this process alone, which then ends it.
    """
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603
            command, stdout=said, stderr=said, start_new_session=True, **options
        ) as started,
    ):
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not is_ready():
                if started.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{' '.join(command)} did not start:\n{_end_of(said)}")
                time.sleep(LOOK_EVERY_S)
            yield started.pid
        finally:
            _end(started, stop_with)


def _end(started: "subprocess.Popen[bytes]", stop_with: signal.Signals) -> None:
    """Ends it in order, or with all its descendants when that takes too long."""
    started.send_signal(stop_with)
    try:
        started.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for descendant in psutil.Process(started.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        started.kill()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        session.trust_env = False
        return session.get(f"{url}/readyz", timeout=5).ok
    return False


def _environment() -> dict[str, str]:
    """Without settings of another playhead, or of its Ray."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PLAYHEAD_", "RAY_"))}


def _end_of(said: Any) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - SAID_BYTES_MAX))
    return str(said.read().decode(errors="replace"))
