"""A service that keeps the latest position alone: Node, fastify and Redis, as many begin.

npm fetches what `package.json` names, for one run.
"""

import shutil
import subprocess
from pathlib import Path

from benchmarks.peers import stores

PROGRAMS = ("node", "npm", "redis-server")
_HERE = Path(__file__).parent
_FILES = ("package.json", "service.js")
_INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
_INSTALL_TIMEOUT_S = 300


class CannotInstallError(Exception):
    """Says why the service cannot be run here."""


def install(folder: Path) -> None:
    """Puts the service and its packages into `folder`, or raises `CannotInstallError`."""
    missing = [name for name in PROGRAMS if stores.program(name) is None]
    if missing:
        raise CannotInstallError(f"{' and '.join(missing)} not found in the PATH")
    for name in _FILES:
        shutil.copy(_HERE / name, folder)
    try:
        ran = subprocess.run(  # noqa: S603
            [str(stores.program("npm")), *_INSTALL],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"npm took more than {_INSTALL_TIMEOUT_S} s") from error
    if ran.returncode:
        raise CannotInstallError(f"npm failed:\n{ran.stderr.strip()}")


def command(folder: Path, redis_socket: Path) -> list[str]:
    """Runs what is installed in `folder`; a port is still to be added."""
    return [str(stores.program("node")), str(folder / _FILES[1]), str(redis_socket)]
