"""Settings that processes read from the environment as they start, most of them Ray's.

So this runs before anything imports Ray, and all processes of a server inherit it.
What the user has set is kept.
"""

import atexit
import os
import secrets
import shutil
from pathlib import Path

_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_enable_open_telemetry": "0",
    # So many bytes a process keeps of what a request took. The C library would give them back, and
    # have the next large request touch each page anew, which takes longer than to parse it.
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # has Arrow take its memory from there, too
    "OPENBLAS_NUM_THREADS": "1",  # numpy would have a thread a core in each process, for nothing
}
_EMBEDDED = {
    "RAY_AUTH_MODE": "token",
    # Names another purpose, but is what keeps all of Ray on the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # no agent is there to make environments for actors
    "RAY_worker_niceness": "0",  # Ray's 15 lets HTTP starve the shards
    "RAY_task_events_report_interval_ms": "0",  # no record of each call
    "RAY_memory_monitor_refresh_ms": "0",  # a shard killed for its memory comes back as large
    # A node that hangs is found within seconds instead of a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
#: What Ray makes again as the process ends, where it has lost its head.
_remade: list[Path] = []


def prepare(embedded: bool) -> None:
    """For a Ray of our own (`embedded`), or for joining one that has settings of its own."""
    settings = _ALWAYS | (_EMBEDDED if embedded else {})
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if embedded:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    atexit.register(_remove)  # what is registered before Ray's comes after it


def remove_at_exit(folder: Path) -> None:
    """Has `folder` go when Ray has done what it does as the process ends."""
    _remade.append(folder)


def _remove() -> None:
    for folder in _remade:
        shutil.rmtree(folder, ignore_errors=True)
