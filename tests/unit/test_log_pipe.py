"""What other processes say, in this one's standard error."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Never

import pytest

from aggregator.log_pipe import LogPipe

_SHARD = """
import logging, sys
from pathlib import Path
from aggregator import log_pipe, logs
log_pipe.write_to(Path(sys.argv[1]))
logs.configure("INFO")
for number in range(int(sys.argv[2])):
    logging.getLogger("shard").warning("line %d", number)
"""


def say(folder: Path, lines: int) -> None:
    subprocess.run([sys.executable, "-c", _SHARD, str(folder), str(lines)], check=True, timeout=60)


def test_what_shards_say_comes_one_after_the_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = LogPipe(tmp_path)
    for _ in range(2):
        say(tmp_path, 3)
    pipe.close()
    pipe.close()
    said = capfd.readouterr().err.splitlines()
    assert [line.split("WARNING ")[1] for line in said] == [
        f"shard: line {number}" for number in (0, 1, 2, 0, 1, 2)
    ]


def test_a_server_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    say(tmp_path, 10_000)
    lines = os.read(reader, 1 << 20).decode().splitlines()
    assert [line.split("WARNING ")[1] for line in lines] == [
        f"shard: line {number}" for number in range(len(lines))
    ]
    assert len(lines) < 10_000
    os.close(reader)


def test_a_line_that_cannot_be_written_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = LogPipe(tmp_path)
    with monkeypatch.context() as patched:
        full = Full()
        patched.setattr(sys, "stderr", full)
        say(tmp_path, 1)
        assert full.is_tried.wait(10)
    say(tmp_path, 1)
    pipe.close()
    assert capfd.readouterr().err.count("line 0") == 1


class Full:
    """A standard error that nothing can be written to."""

    def __init__(self) -> None:
        self.is_tried = Event()

    @property
    def buffer(self) -> Never:
        self.is_tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")
