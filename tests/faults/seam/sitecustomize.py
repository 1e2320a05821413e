"""Has calls of a shard's process fail, stall or write a part, as `failing_disk.py` tells it.

Python runs this at its start when this folder is in PYTHONPATH. The folder named by
FAILING_DISK holds `rules.json`, a list of rules, and `clock`, the nanoseconds that the
clock is ahead; both may change at any time. What was made to happen is noted in
`happened`, a line each: the rule, the process, the call and the path.
"""

import errno
import fnmatch
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: All that change files, and take a descriptor or a path first.
_CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "replace", "mkdir")
_POLL_S = 0.02

_real_write, _real_sleep = os.write, time.sleep


class _Disk:
    def __init__(self, folder: Path) -> None:
        self._rules_path = folder / "rules.json"
        self._clock_path = folder / "clock"
        self._happened = os.open(folder / "happened", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._read: tuple[int, int] = (0, 0)
        self._rules: list[dict[str, Any]] = []

    def note(self, rule: str, call: str, path: str) -> None:
        _real_write(self._happened, f"{rule} {os.getpid()} {call} {path}\n".encode())

    def rules(self) -> list[dict[str, Any]]:
        """As they are now; the test replaces the file as a whole."""
        status = self._rules_path.stat()
        if (read := (status.st_ino, status.st_mtime_ns)) != self._read:
            self._rules, self._read = json.loads(self._rules_path.read_bytes()), read
        return self._rules

    def rule_for(self, call: str, target: int | str) -> dict[str, Any] | None:
        """The first that this call is subject to. A rule may be for so many calls, in all."""
        rules = [rule for rule in self.rules() if call in rule["calls"]]
        if not rules:
            return None
        path = str(Path(f"/proc/self/fd/{target}").readlink()) if type(target) is int else target
        for rule in rules:
            if fnmatch.fnmatch(str(path), rule["path"]) and self._is_left(rule):
                self.note(rule["id"], call, str(path))
                return rule
        return None

    def _is_left(self, rule: dict[str, Any]) -> bool:
        if rule["times"] is None:
            return True
        noted = os.pread(self._happened, 1 << 20, 0).decode().splitlines()
        times: int = rule["times"]
        return sum(line.startswith(f"{rule['id']} ") for line in noted) < times

    def wait_for_end_of(self, rule: dict[str, Any]) -> None:
        while rule["id"] in [each["id"] for each in self.rules()]:
            _real_sleep(_POLL_S)

    def ahead_ns(self) -> int:
        return int(self._clock_path.read_text())


def _fail(disk: _Disk, call: str) -> None:
    real: Callable[..., Any] = getattr(os, call)

    def failing(target: Any, *arguments: Any, **named: Any) -> Any:
        rule = disk.rule_for(call, target)
        if rule is None:
            return real(target, *arguments, **named)
        if rule["stall"]:
            disk.wait_for_end_of(rule)
        if rule["error"]:
            number = getattr(errno, rule["error"])
            raise OSError(number, os.strerror(number))
        if rule["bytes"] is not None:
            return real(target, bytes(arguments[0])[: rule["bytes"]])
        return real(target, *arguments, **named)

    setattr(os, call, failing)


def _install(folder: Path) -> None:
    disk = _Disk(folder)
    real_exit, real_time_ns = os._exit, time.time_ns

    def noting_exit(code: int) -> None:
        disk.note("-", "exit", str(code))
        real_exit(code)

    for call in _CALLS:
        _fail(disk, call)
    os._exit = noting_exit  # type: ignore[assignment]
    time.time_ns = lambda: real_time_ns() + disk.ahead_ns()


if "FAILING_DISK" in os.environ and any("default_worker.py" in each for each in sys.orig_argv):
    _install(Path(os.environ["FAILING_DISK"]))
