"""A real playhead in processes of its own, for tests that talk to it as clients do."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

#: A start takes about 5 s; on a busy machine several times that.
START_TIMEOUT_S = 60
#: What is told to stop while it starts stops when it has started.
STOP_TIMEOUT_S = 40

COMMAND = Path(sys.executable).parent / "playhead"


class Playhead:
    """`start` returns when it takes requests; the log is in `log_path`."""

    def __init__(
        self, folder: Path, *flags: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = folder / "data"
        self.log_path = folder / "playhead.log"
        self._flags = flags
        self._environment = dict(environment or {})
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.session = requests.Session()
        self.session.trust_env = False

    def launch(self, *flags: str) -> subprocess.Popen[bytes]:
        """Starts it and does not wait."""
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(COMMAND, "serve", "--port", "0", "--data-dir", self.data_dir),
                    *(*self._flags, *flags),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_inherited() | self._environment,
            )
        return self.process

    def start(self, *flags: str) -> "Playhead":
        process = self.launch(*flags)
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := re.search(r"documentation (http://\S+)/docs", self.log)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"playhead did not start:\n{self.log}")
            time.sleep(0.05)
        self.url = found[1]
        return self

    def running_again(self) -> "Playhead":
        """As it runs, or started once more after a test that ended it."""
        return self if self.is_running else self.start()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it as an operator does; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Ends every process of it at once, as a power cut would."""
        if self.process is None or not self.is_running:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            _wait_until_dead(family)
        self.process.wait(STOP_TIMEOUT_S)

    @contextlib.contextmanager
    def running(self) -> Iterator["Playhead"]:
        """Started, until it is killed at the end."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def children(self, name: str) -> list[psutil.Process]:
        """Its processes whose command line holds `name`."""
        named = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    named.append(process)
        return named

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.session.post(self.url + path, timeout=30, **options)


def refused(*flags: str | Path, files_max: int | None = None) -> str:
    """What `playhead serve` says, in one line, when it does not start."""
    limit = [] if files_max is None else ["prlimit", f"--nofile={files_max}"]
    process = subprocess.run(
        [*limit, COMMAND, "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        start_new_session=True,
        check=False,
        env=_inherited(),
    )
    said = process.stderr + process.stdout
    assert process.returncode == 1, said
    assert "Traceback" not in said
    return " ".join(said.split())


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Waits for it, as long as a start may take."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, f"not {what} after {START_TIMEOUT_S} s"
        time.sleep(0.05)


def _wait_until_dead(processes: list[psutil.Process]) -> None:
    """Zombies hold nothing more, and whoever has to collect them may take a second."""

    def is_dead(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not all(map(is_dead, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _inherited() -> dict[str, str]:
    """The environment, without settings of another playhead or Ray."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PLAYHEAD"))}
