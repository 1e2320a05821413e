"""The machine that something was measured on, without its name."""

import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec
import psutil

from api import __version__

ROOT = Path(__file__).parents[1]


class Machine(msgspec.Struct, frozen=True):
    """`versions` are by program."""

    cores: int
    cpu: str
    memory_gib: int
    system: str
    versions: dict[str, str]


def this_machine(versions: dict[str, str]) -> Machine:
    """`versions` of programs besides Python and playhead."""
    return Machine(
        os.cpu_count() or 1,
        _cpu(),
        round(psutil.virtual_memory().total / (1 << 30)),
        f"{platform.system()} {platform.machine()}",
        {"playhead": __version__, "python": platform.python_version(), **versions},
    )


def commit() -> str:
    """What is checked out, with a + if it was changed; empty without git."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(  # noqa: S603
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.exists() else None
    return named[1].strip() if named else platform.processor()
