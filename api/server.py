"""The main process: opens the data, starts Ray and the shards, keeps the HTTP workers running.

It holds the listening socket, so no connection is lost when a worker is replaced.
Sanic's own process manager is not used: it does not replace a worker that died,
and kills its whole process group when a start fails.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from aggregator.cluster import Cluster, HeadLostError
from aggregator.description import Description
from aggregator.shard_settings import ShardSettings
from aggregator.sockets import namespace_of
from api import __version__, stopping
from api.orders import BACKLOG, GRACE_S, Orders
from api.settings import Settings
from api.worker_process import WorkerProcess
from persistence.directory import DataDirectory

#: A worker of the server before this one may still hold the port for a moment.
BIND_WAIT_S = 3.0
#: For a worker to end, beyond the time that its requests may take.
ENDING_S = 2.0
#: Between the end of a worker and the start of the next, so that a broken one does not spin.
RESTART_DELAY_S = 1.0
#: Between lines about the progress of long work.
TELL_EVERY_S = 5.0
#: For Ray, the files of a shard and some connections.
DESCRIPTORS_MIN = 256
#: Names the descriptor of the socket that a server which starts itself anew goes on with.
LISTENING = "PLAYHEAD_LISTENING_DESCRIPTOR"

_logger = logging.getLogger("playhead")


class StartError(Exception):
    """The server cannot start; the message says what to do."""


def serve(settings: Settings) -> None:
    """Runs until SIGINT or SIGTERM; before it is ready, they raise `KeyboardInterrupt`.

    Raises `StartError` or `PersistenceError` when it cannot start.
    """
    started = time.monotonic()
    environment = dict(os.environ)  # before Ray adds to it
    take_descriptors()
    with contextlib.ExitStack() as cleanup:
        directory = open_directory(settings)
        cleanup.callback(directory.close)
        if settings.shards not in (None, directory.manifest.shards):
            split_anew(directory, settings)
        listening = cleanup.enter_context(inherited() or bind(settings.host, settings.port))
        _logger.info("playhead %s, data in %s", __version__, directory.path)
        workers = []
        for _ in range(settings.workers):
            workers.append(WorkerProcess(listening))
            cleanup.callback(workers[-1].kill)
        cluster = start_cluster(settings.ray_address, directory)
        cleanup.callback(cluster.stop)
        stopping.check()
        shards = shard_settings(settings, directory)
        try:
            check_shards(cluster.start_shards(shards))
        except HeadLostError as error:
            raise StartError(
                f"{error} while the shards were starting; start playhead anew"
            ) from None
        stopping.check()
        server = Server(settings, cluster, listening)
        lost = asyncio.run(server.run(workers, started))
        if lost is None:
            stopping.ignore()
            return
        stopping.install()
        cluster.abandon()
        start_anew(listening, environment)


def take_descriptors() -> None:
    """A connection is a descriptor, and the usual soft limit is a thousand: takes all there are.

    Raises `StartError` when they are too few.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < DESCRIPTORS_MIN:
        raise StartError(
            f"a process may open no more than {most} files here, and {DESCRIPTORS_MIN} are needed: "
            "raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def start_anew(listening: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Has this process begin from the start; connections wait meanwhile.

    Nothing of a Ray that is broken is left then, and who supervises the process
    sees it run on. The locks that it holds are free as the new program starts.
    """
    stopping.keep()
    stopping.check()
    listening.set_inheritable(True)
    descriptor = {LISTENING: str(listening.fileno())}
    os.execve(sys.executable, sys.orig_argv, {**environment, **descriptor})  # noqa: S606


def inherited() -> socket.socket | None:
    """The listening socket that this process had before it started itself anew."""
    descriptor = os.environ.pop(LISTENING, None)
    if descriptor is None:
        return None
    listening = socket.socket(fileno=int(descriptor))
    listening.set_inheritable(False)
    return listening


def open_directory(settings: Settings) -> DataDirectory:
    """Raises `StartError` when nothing can be kept there."""
    rules, shards = settings.rules().as_dict(), settings.shards or settings.workers
    try:
        return DataDirectory.open(settings.data_dir, rules, shards)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = f"{error.filename} is not a folder" if is_file else error.strerror
        raise StartError(
            f"cannot keep data in {settings.data_dir}: {reason}. "
            "Put that right, or name a folder that can be written as --data-dir"
        ) from error


def split_anew(directory: DataDirectory, settings: Settings) -> None:
    """Makes as many shards of the data as are asked for now."""
    from aggregator.regeneration import regenerate  # noqa: PLC0415 - seldom needed, and large

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


def start_cluster(address: str | None, directory: DataDirectory) -> Cluster:
    """Raises `StartError`."""
    manifest = directory.manifest
    try:
        return Cluster(address, namespace_of(manifest.id), manifest.shards)
    except Exception as error:
        where = f"the cluster at {address}" if address else "Ray on this machine"
        raise StartError(f"cannot start on {where}: {error}{_advice(error)}") from error


def _advice(error: Exception) -> str:
    """What to do about it, where Ray does not say so."""
    if "AF_UNIX" not in str(error):
        return ""
    return f". Set TMPDIR to a folder with a shorter path than {tempfile.gettempdir()}"


def shard_settings(settings: Settings, directory: DataDirectory) -> list[ShardSettings]:
    return [
        ShardSettings(
            shard,
            directory.shard_folder(shard),
            directory.manifest.owner(shard),
            settings.rules(),
            settings.hours_kept_days,
            settings.snapshot_log_bytes,
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
            if error.errno == errno.EADDRNOTAVAIL:  # nobody uses it, so nobody can leave it
                raise StartError(
                    f"--host {host} is no address of this machine: {error.strerror}"
                ) from error
            if time.monotonic() > deadline:
                raise StartError(
                    f"cannot listen on {host} port {port}: {error.strerror}. "
                    "Stop what uses it, or choose another --port"
                ) from error
            time.sleep(0.1)


class Server:
    """Keeps workers running until told to stop."""

    def __init__(self, settings: Settings, cluster: Cluster, listening: socket.socket) -> None:
        self._cluster = cluster
        self._orders = Orders(settings.model_dump_json(), cluster.membership())
        self._listening = listening
        self._stopping = asyncio.Event()
        self._is_told_to_stop = False
        self._workers_ready = 0
        self._worker_came = asyncio.Event()

    async def run(self, workers: Sequence[WorkerProcess], started: float) -> str | None:
        """Returns when stopped, or with the name of what Ray has lost; the workers have ended.

        Raises `StartError` when a worker cannot even start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(self._keep_worker(worker))
                announcing = tasks.create_task(self._announce(len(workers), started))
                lost = await self._stop_or_loss()
                announcing.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        stopping.keep()  # the loop, as it closes, leaves signals to the system
        return None if self._is_told_to_stop else lost

    def _stop(self) -> None:
        self._is_told_to_stop = True
        self._stopping.set()

    async def _stop_or_loss(self) -> str | None:
        """Has the workers finish when told to stop, or when Ray has lost what is named."""
        head_lost = asyncio.create_task(self._cluster.head_lost())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([head_lost, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            head_lost.cancel()
            _logger.info("stopping")
            return None
        stopping.cancel()
        _logger.error("Ray's %s has ended; starting anew, connections wait", head_lost.result())
        self._stopping.set()
        return head_lost.result()

    async def _keep_worker(self, worker: WorkerProcess) -> None:
        """Has one worker running, and another in its place when it ends."""
        has_been_ready = False
        stopping = asyncio.create_task(self._stopping.wait())
        if not worker.is_running:  # a recovery may have taken long
            worker = WorkerProcess(self._listening)
        try:
            while True:
                worker.order(self._orders)
                ready = asyncio.create_task(worker.ready())
                ended = asyncio.create_task(worker.ended())
                await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and ready.result() and not has_been_ready:
                    has_been_ready = True
                    self._workers_ready += 1
                    self._worker_came.set()
                await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
                if self._stopping.is_set():
                    ready.cancel()
                    worker.terminate()
                    await asyncio.wait([ended], timeout=GRACE_S + ENDING_S)
                    return
                _logger.error("a worker ended with exit code %s", ended.result())
                worker.kill()
                if not has_been_ready:
                    raise StartError("an HTTP worker did not start; its log is above")
                await asyncio.wait([stopping], timeout=RESTART_DELAY_S)
                if self._stopping.is_set():
                    return
                worker = WorkerProcess(self._listening)
        finally:
            stopping.cancel()
            worker.kill()

    async def _announce(self, workers: int, started: float) -> None:
        """Says where to go, once all workers take requests."""
        while self._workers_ready < workers:
            self._worker_came.clear()
            await self._worker_came.wait()
        host, port = self._listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        _logger.info("ready after %.1f s", time.monotonic() - started)
        _logger.info("events go to  %s/", url)
        _logger.info("documentation %s/docs", url)
