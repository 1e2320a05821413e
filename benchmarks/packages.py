"""The programs that a comparison needs: found, or installed with the system's package manager."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from rich import get_console

from benchmarks.peers import positions, stores
from benchmarks.subjects import NAMES, POSITIONS, POSTGRES, REDIS_ALWAYS, REDIS_EVERYSEC

#: By package manager; -y and the like, because nobody is asked.
INSTALL = {
    "apt-get": ["install", "--yes", "--no-install-recommends"],
    "dnf": ["install", "--assumeyes"],
    "apk": ["add"],
    "brew": ["install"],
}
#: Refuses to run as root; the others need it.
BREW = "brew"
#: Debian starts what it installs, except at this level of a running system.
QUIETLY = ["env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive"]


@dataclass(frozen=True)
class Program:
    """`packages` are by package manager; `measures` is what cannot be measured without it."""

    name: str
    packages: dict[str, str]
    measures: tuple[str, ...]

    @property
    def is_here(self) -> bool:
        return stores.program(self.name) is not None


WRK = Program("wrk", dict.fromkeys(INSTALL, "wrk"), ())
REDIS = Program(
    "redis-server",
    {"apt-get": "redis-server", "dnf": "redis", "apk": "redis", "brew": "redis"},
    (REDIS_EVERYSEC, REDIS_ALWAYS),
)
POSTGRESQL = Program(
    "initdb",
    {
        "apt-get": "postgresql",
        "dnf": "postgresql-server",
        "apk": "postgresql",
        "brew": "postgresql@17",
    },
    (POSTGRES,),
)
PROGRAMS = (WRK, REDIS, POSTGRESQL)


@dataclass(frozen=True)
class Packages:
    """What can be measured here.

    `subjects` are those that can be started, and `missing` has a sentence for each
    program that is not there: what it is for, and how to install it.
    """

    subjects: tuple[str, ...]
    missing: tuple[str, ...]
    has_wrk: bool


def prepare(install: bool = True) -> Packages:
    """Looks for the programs; with `install` also installs what is missing, where it can."""
    missing = [program for program in PROGRAMS if not program.is_here]
    if install and missing:
        _install(missing)
        missing = [program for program in PROGRAMS if not program.is_here]
    without = {name for program in missing for name in program.measures}
    sentences = [_how_to_get(program) for program in missing]
    if POSTGRES not in without and os.geteuid() == 0 and stores.user_for_root() is None:
        without.add(POSTGRES)
        sentences.append("postgres is not measured: it refuses root, and there is no user for it")
    if REDIS not in missing and not positions.can_install():
        absent = " and no ".join(filter(lambda name: not stores.program(name), positions.PROGRAMS))
        sentences.append(f"{POSITIONS} is not measured: there is no {absent}; install Node.js")
    return Packages(
        tuple(name for name in NAMES if name not in without), tuple(sentences), WRK not in missing
    )


def versions() -> dict[str, str]:
    """Of the programs that are here, as they say."""
    said = {
        "wrk": _output(["wrk", "-v"]),
        "redis": _output(["redis-server", "--version"]),
        "postgres": _output(["postgres", "--version"]),
    }
    found = {name: re.search(r"\d+(\.\d+)+", text) for name, text in said.items()}
    return {name: version[0] for name, version in found.items() if version}


def _output(command: list[str]) -> str:
    path = stores.program(command[0])
    if path is None:
        return ""
    ran = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603
    return ran.stdout


def _install(missing: Iterable[Program]) -> None:
    manager = _manager()
    if manager is None:
        return
    name, prefix = manager
    if name == "apt-get":
        _ask([*prefix, name, "update"])
    for program in missing:
        _ask([*prefix, name, *INSTALL[name], program.packages[name]])
    get_console().print("If that started a service, it is not used here, and can be stopped.")


def _ask(command: list[str]) -> None:
    """Has the package manager do it; what it says is shown only when it fails."""
    get_console().print(" ".join(command), style="dim")
    ran = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ran.returncode:
        get_console().print(ran.stdout.strip(), style="yellow", markup=False)


def _manager() -> tuple[str, list[str]] | None:
    """The package manager that may install something, and what stands before its name."""
    for name in INSTALL:
        if shutil.which(name) is None:
            continue
        if name == BREW and os.geteuid() != 0:
            return name, []
        if name != BREW and os.geteuid() == 0:
            return name, QUIETLY
        if name != BREW and _is_sudo_free():
            return name, ["sudo", "--non-interactive", *QUIETLY]
    return None


def _is_sudo_free() -> bool:
    """Whether sudo asks for no password."""
    command = ["sudo", "--non-interactive", "true"]
    return (
        shutil.which("sudo") is not None
        and not subprocess.run(  # noqa: S603
            command, capture_output=True, check=False
        ).returncode
    )


def _how_to_get(program: Program) -> str:
    measures = " and ".join(program.measures)
    loss = f"{measures} cannot be measured" if measures else "nothing can be measured"
    ways = ", ".join(
        f"{manager} {INSTALL[manager][0]} {name}" for manager, name in program.packages.items()
    )
    return f"{program.name} is missing, and without it {loss}; to install it: {ways}"
