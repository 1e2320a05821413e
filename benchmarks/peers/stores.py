"""redis-server and PostgreSQL, with their data and their socket, the only address, in a folder."""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import asyncpg
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.peers import POSTGRES_USER
from benchmarks.server import process

#: Where PostgreSQL is when it is not in the PATH; below the root.
POSTGRES_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/libexec/postgresql*",
    "opt/homebrew/opt/postgresql@*/bin",
    "home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
)
#: The first that there is.
USERS_FOR_ROOT = ("postgres", "nobody")
#: For a machine that it shares with its clients, and so that no checkpoint falls in a measurement.
POSTGRES_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}

Fsync = Literal["everysec", "always"]


def program(name: str) -> str | None:
    """Its path; of PostgreSQL's programs, those of the newest version that is installed."""
    folders = [str(folder) for pattern in POSTGRES_FOLDERS for folder in Path("/").glob(pattern)]
    folders.sort(key=lambda folder: float(re.findall(r"[\d.]+", folder)[-1]), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)]))


def user_for_root() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL for root, whom it refuses."""
    for name in USERS_FOR_ROOT:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


@contextlib.contextmanager
def redis(folder: Path, fsync: Fsync) -> Iterator[tuple[Path, int]]:
    """The socket of a redis-server, and its process."""
    socket = folder / "redis.sock"
    with process(
        [
            *(_found("redis-server"), "--port", "0", "--unixsocket", str(socket)),
            *("--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", fsync),
        ],
        partial(_redis_answers, socket),
    ) as pid:
        yield socket, pid


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[tuple[Path, int]]:
    """The folder with the socket of a PostgreSQL that is durable, and its process."""
    identity = _identity(folder)
    data = folder / "data"
    if not data.exists():
        command = [_found("initdb"), "--auth=trust", "--encoding=UTF8", "--locale=C"]
        _run([*command, f"--username={POSTGRES_USER}", f"--pgdata={data}"], **identity)
    addresses = {"listen_addresses": "", "unix_socket_directories": str(folder)}
    settings = [f"--{name}={value}" for name, value in (addresses | POSTGRES_SETTINGS).items()]
    with process(
        [_found("postgres"), "-D", str(data), *settings],
        partial(_postgres_answers, folder),
        stop_with=signal.SIGINT,  # what PostgreSQL calls fast: it does not wait for clients
        **identity,
    ) as pid:
        yield folder, pid


def _identity(folder: Path) -> dict[str, Any]:
    """Whose process it has to be, who then owns `folder`; as options of `Popen`."""
    if os.geteuid() != 0:
        return {"cwd": folder}
    user = user_for_root()
    assert user is not None
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"cwd": folder, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _found(name: str) -> str:
    path = program(name)
    assert path is not None, f"{name} is not installed"
    return path


def _run(command: list[str], **options: Any) -> None:
    """Raises `SystemExit` with what the program said when it failed."""
    ran = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if ran.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ran.stdout}")


def _redis_answers(socket: Path) -> bool:
    with contextlib.suppress(RedisError), Redis(unix_socket_path=str(socket)) as client:
        return bool(client.ping())
    return False


def _postgres_answers(folder: Path) -> bool:
    async def connect() -> None:
        options = {"host": str(folder), "user": POSTGRES_USER, "database": "postgres"}
        await (await asyncpg.connect(**options)).close()

    with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
        asyncio.run(connect())
        return True
    return False
