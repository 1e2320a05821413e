"""The main process: opens the data, starts Ray and the shards, keeps the HTTP workers running.

It holds the listening socket, so no connection is lost when a worker is replaced.
Sanic's own process manager is not used: it does not replace a worker that died,
and kills its whole process group when a start fails.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence

import msgspec

from aggregator.actor import Description
from aggregator.cluster import Cluster, Membership
from aggregator.regeneration import regenerate
from aggregator.shard import ShardSettings
from aggregator.sockets import namespace_of
from api import __version__, stopping
from api.app import GRACE_S
from api.settings import Settings
from api.worker import BACKLOG, READY, Orders
from persistence.directory import DataDirectory

#: A worker of the server before this one may still hold the port for a moment.
BIND_WAIT_S = 3.0
#: Between the end of a worker and the start of the next, so that a broken one does not spin.
RESTART_DELAY_S = 1.0
#: Between lines about the progress of long work.
TELL_EVERY_S = 5.0

_logger = logging.getLogger("playhead")


class StartError(Exception):
    """The server cannot start; the message says what to do."""


def serve(settings: Settings) -> None:
    """Runs until SIGINT or SIGTERM; before it is ready, they raise `KeyboardInterrupt`.

    Raises `StartError` or `PersistenceError` when it cannot start.
    """
    started = time.monotonic()
    # A connection is a descriptor, and the usual soft limit is a thousand.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as cleanup:
        directory = DataDirectory.open(
            settings.data_dir, settings.rules().as_dict(), settings.shards or settings.workers
        )
        cleanup.callback(directory.close)
        if settings.shards not in (None, directory.manifest.shards):
            split_anew(directory, settings)
        listening = cleanup.enter_context(bind(settings.host, settings.port))
        _logger.info("playhead %s, data in %s", __version__, directory.path)
        cluster = start_cluster(settings.ray_address, namespace_of(directory.manifest.id))
        cleanup.callback(cluster.stop)
        stopping.check()
        shards = shard_settings(settings, directory)
        check_shards(cluster.start_shards(shards))
        stopping.check()
        server = Server(settings, cluster.membership(), listening)
        asyncio.run(server.run(started))


def split_anew(directory: DataDirectory, settings: Settings) -> None:
    """Makes as many shards of the data as are asked for now."""
    shards = settings.shards
    assert shards is not None
    _logger.info("splitting %d shards into %d", directory.manifest.shards, shards)
    told_s = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > TELL_EVERY_S:
            told_s = time.monotonic()
            _logger.info("split %d of %d stored events", done, total)

    regenerate(directory, shards, settings.rules(), settings.hours_kept_days, tell)


def start_cluster(address: str | None, namespace: str) -> Cluster:
    """Raises `KeyboardInterrupt` when told to stop meanwhile, as everything else here does."""
    try:
        cluster = Cluster(address, namespace)
    except SystemExit:  # from the SIGTERM handler that Ray puts in place
        raise KeyboardInterrupt from None
    except Exception as error:
        where = f"the cluster at {address}" if address else "Ray on this machine"
        raise StartError(f"cannot start on {where}: {error}") from error
    stopping.install()
    return cluster


def shard_settings(settings: Settings, directory: DataDirectory) -> list[ShardSettings]:
    return [
        ShardSettings(
            shard,
            directory.shard_folder(shard),
            settings.rules(),
            settings.hours_kept_days,
            settings.snapshot_events,
            settings.snapshot_interval_s,
            settings.segment_bytes,
            settings.erase_delay_s,
        )
        for shard in range(directory.manifest.shards)
    ]


def check_shards(descriptions: Sequence[Description]) -> None:
    """Logs how each shard came up; raises `StartError` when none did."""
    for shard in descriptions:
        if shard.failure is not None:
            _logger.critical("shard %d does not serve: %s", shard.shard, shard.failure)
        else:
            _logger.info("shard %d: %s", shard.shard, shard.recovered)
    if all(shard.failure is not None for shard in descriptions):
        raise StartError(descriptions[0].failure)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises `StartError`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartError(f"--host {host} is no address of this machine: {error}") from error
    deadline = time.monotonic() + BIND_WAIT_S
    while True:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(BACKLOG)
            return listening
        except OSError as error:
            listening.close()
            if time.monotonic() > deadline:
                raise StartError(
                    f"cannot listen on {host} port {port}: {error.strerror}. "
                    "Stop what uses it, or choose another --port"
                ) from error
            time.sleep(0.1)


class Server:
    """Keeps `settings.workers` workers running until told to stop."""

    def __init__(
        self, settings: Settings, membership: Membership, listening: socket.socket
    ) -> None:
        self._settings = settings
        self._orders = Orders(settings.model_dump_json(), membership)
        self._listening = listening
        self._stopping = asyncio.Event()
        self._workers_ready = 0
        self._worker_came = asyncio.Event()

    async def run(self, started: float) -> None:
        """Returns when stopped; raises `StartError` when a worker cannot even start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._settings.workers):
                    tasks.create_task(self._keep_worker())
                announcing = tasks.create_task(self._announce(started))
                await self._stopping.wait()
                _logger.info("stopping")
                announcing.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _keep_worker(self) -> None:
        """Has one worker running, and another in its place when it ends."""
        has_been_ready = False
        while not self._stopping.is_set():
            worker = await self._start_worker()
            assert worker.stdout is not None
            stopping = asyncio.create_task(self._stopping.wait())
            ended = asyncio.create_task(worker.wait())
            reported = asyncio.create_task(worker.stdout.readline())
            await asyncio.wait([reported, stopping], return_when=asyncio.FIRST_COMPLETED)
            if reported.done() and reported.result() == READY and not has_been_ready:
                has_been_ready = True
                self._workers_ready += 1
                self._worker_came.set()
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                _logger.error("a worker ended with exit code %s", worker.returncode)
                if not has_been_ready:
                    raise StartError("an HTTP worker did not start; its log is above")
                await asyncio.wait([stopping], timeout=RESTART_DELAY_S)
            stopping.cancel()
            await _end(worker)

    async def _start_worker(self) -> asyncio.subprocess.Process:
        descriptor = self._listening.fileno()
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "api.worker",
            str(descriptor),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[descriptor],
        )
        assert worker.stdin is not None
        worker.stdin.write(msgspec.json.encode(self._orders) + b"\n")
        return worker

    async def _announce(self, started: float) -> None:
        """Says where to go, once all workers take requests."""
        while self._workers_ready < self._settings.workers:
            self._worker_came.clear()
            await self._worker_came.wait()
        host, port = self._listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        _logger.info("ready after %.1f s", time.monotonic() - started)
        _logger.info("events go to  %s/", url)
        _logger.info("documentation %s/docs", url)


async def _end(worker: asyncio.subprocess.Process) -> None:
    """Asks the worker to finish what it has, and ends it if it takes too long."""
    if worker.returncode is not None:
        return
    worker.terminate()
    try:
        await asyncio.wait_for(worker.wait(), GRACE_S + 2)
    except TimeoutError:
        worker.kill()
        await worker.wait()
