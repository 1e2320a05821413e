"""A server to measure, in processes of its own on the loopback interface."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import requests

START_TIMEOUT_S = 60


@contextlib.contextmanager
def running(module: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """Its address and process; the last argument it gets is a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", module, *arguments, port]
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(url)
            yield url, process.pid
        finally:
            process.terminate()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/readyz", timeout=5).ok:
                return
        time.sleep(0.1)
    sys.exit(f"{url} was not ready within {START_TIMEOUT_S} s")
