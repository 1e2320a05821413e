"""A disk and a clock of a real server's shards that go wrong as long as a test wants them to.

The shards' processes ask the files of this folder before each call; see `seam/sitecustomize.py`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

_SEAM = Path(__file__).parent / "seam"
_ids = count(1)


@dataclass(frozen=True)
class Rule:
    """What happens to these calls on paths like `path`; the first rule that fits decides.

    `error` is raised, of a write no more than `bytes` are carried out, and with `stall` the
    call waits for as long as the rule is there.
    """

    calls: tuple[str, ...]
    path: str
    error: str | None = None
    bytes: int | None = None
    stall: bool = False
    #: How many calls, over all processes; None is all.
    times: int | None = None
    id: str = field(default_factory=lambda: f"rule{next(_ids)}")


@dataclass(frozen=True)
class Happening:
    """A call that a rule was applied to, or with rule "-" the end of a process by its own will."""

    rule: str
    pid: int
    call: str
    path: str


class FailingDisk:
    """Give the server `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        paths = [str(_SEAM), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "FAILING_DISK": str(folder)}
        self._write("rules.json", "[]")
        self.shift_clock(0)

    @contextmanager
    def failing(self, *rules: Rule) -> Iterator[None]:
        self._write("rules.json", json.dumps([asdict(rule) for rule in rules]))
        try:
            yield
        finally:
            self._write("rules.json", "[]")

    def shift_clock(self, seconds: int) -> None:
        """The shards' clock is so far ahead from now on."""
        self._write("clock", str(seconds * 10**9))

    def happened(self) -> list[Happening]:
        """Everything so far, in order."""
        path = self._folder / "happened"
        lines = path.read_text().splitlines() if path.exists() else []
        parts = [line.split(" ", 3) for line in lines]
        return [Happening(rule, int(pid), call, path) for rule, pid, call, path in parts]

    def _write(self, name: str, content: str) -> None:
        draft = self._folder / f"{name}.tmp"
        draft.write_text(content)
        draft.replace(self._folder / name)
