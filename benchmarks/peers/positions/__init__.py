"""A service that keeps the latest position alone: Node, fastify and Redis, as many begin.

npm fetches what `package.json` names, for one run.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import stores

PROGRAMS = ("node", "npm", "redis-server")
_HERE = Path(__file__).parent
_FILES = ("package.json", "service.js")
_INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
_INSTALL_TIMEOUT_S = 300


def can_install() -> bool:
    """Whether the programs for it are here."""
    return all(map(stores.program, PROGRAMS))


def install(folder: Path) -> None:
    """Puts the service and its packages into `folder`, or ends the run and says why not."""
    for name in _FILES:
        shutil.copy(_HERE / name, folder)
    try:
        subprocess.run(  # noqa: S603
            [str(stores.program("npm")), *_INSTALL],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"positions cannot be measured: npm took more than {_INSTALL_TIMEOUT_S} s")
    except subprocess.CalledProcessError as error:
        sys.exit(f"positions cannot be measured, npm failed:\n{error.stderr.strip()}")


def command(folder: Path, redis_socket: Path) -> list[str]:
    """Runs what is installed in `folder`; a port is still to be added."""
    return [str(stores.program("node")), str(folder / _FILES[1]), str(redis_socket)]
