"""Ray as the control plane: one embedded in this machine, or a cluster that exists.

The server's main process starts Ray and the shard actors and owns both: they end
with it. Its HTTP workers join by address and find the actors by name.
"""

import asyncio
import contextlib
import logging
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import msgspec
import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aggregator import environment, lifeline, ray_node, sockets
from aggregator.actor import ShardActor
from aggregator.description import Description
from aggregator.link import node_id
from aggregator.log_pipe import LogPipe
from aggregator.shard_settings import ShardSettings
from persistence.errors import LockedError
from persistence.files import FolderLock

#: Shards keep their state themselves; Ray's object store holds next to nothing.
OBJECT_STORE_BYTES = 100 << 20
#: How long an existing cluster's address may take to answer.
REACH_TIMEOUT_S = 5.0
#: At most this long for a shard's last snapshot when the server stops.
CLOSE_TIMEOUT_S = 5.0
#: Of Ray's processes, those without which no shard that died is started again.
HEAD = ("gcs_server", "raylet")
#: Between looks at whether they live while the shards start.
LOOK_EVERY_S = 1.0
#: Between looks at whether what was killed has let go of its files.
LOOK_AGAIN_S = 0.05
#: For Ray's processes to be gone once they are killed.
KILLED_TIMEOUT_S = 5.0


class HeadLostError(Exception):
    """A process of Ray's ended on which all else depends."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Ray's {name} has ended")


class Membership(msgspec.Struct, frozen=True):
    """What a process needs to join: Ray's address, the actors' namespace and number."""

    address: str
    namespace: str
    shards: int


class Cluster:
    """The main process' hold on Ray and the shards."""

    def __init__(self, address: str | None, namespace: str, shards: int) -> None:
        """Starts Ray here, or joins the cluster at `address`; `environment` comes before."""
        if address is not None:
            _check_reachable(address)
        self._runtime_folder, self._runtime_lock = _make_runtime_folder(namespace)
        self._lifeline: int | None = lifeline.create(self._runtime_folder)
        self._log_pipe: LogPipe | None = None
        self._actors: list[Any] = []
        self._namespace = namespace
        #: Names by descriptors that become readable when the process ends.
        self._head: dict[int, str] = {}
        try:
            self._log_pipe = LogPipe(self._runtime_folder)
            _init_undisturbed(
                address=address or "local",
                namespace=namespace,
                log_to_driver=False,
                **({} if address else self._local_options(shards)),
            )
        except BaseException:
            self.stop()
            raise
        if address is None:
            self._head = _open_head()

    def _local_options(self, shards: int) -> dict[str, Any]:
        return {
            "num_cpus": shards,  # so many processes wait for actors; by default, one a core
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(self._runtime_folder / "ray"),  # Ray opens it to everyone
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }

    def start_shards(self, shards: Sequence[ShardSettings]) -> list[Description]:
        """Places an actor a shard on this node, where the data is; returns when all have recovered.

        A shard whose data cannot be trusted is there and says so. Raises `HeadLostError`.
        """
        options = {
            "namespace": self._namespace,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": 1000,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id(), soft=False),
        }
        actor_class = ray.remote(ShardActor)
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        self._actors = [
            actor_class.options(name=actor_name(shard.number), **options).remote(
                shard, str(self._runtime_folder), level
            )
            for shard in shards
        ]
        described = [actor.describe.remote() for actor in self._actors]
        waiting = described
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK_EVERY_S)
            if (name := self._lost_head()) is not None:
                raise HeadLostError(name)
        return [msgspec.msgpack.decode(one, type=Description) for one in ray.get(described)]

    def membership(self) -> Membership:
        address = ray.get_runtime_context().gcs_address
        return Membership(address, self._namespace, len(self._actors))

    async def head_lost(self) -> str:
        """Returns when a process of a Ray of our own has ended that it needs; the name of it."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()

        def tell(name: str) -> None:
            if not lost.done():
                lost.set_result(name)

        for descriptor, name in self._head.items():
            loop.add_reader(descriptor, tell, name)
        try:
            return await lost
        finally:
            for descriptor in self._head:
                loop.remove_reader(descriptor)

    def stop(self) -> None:
        """Closes the shards, each with a last snapshot, and Ray if it was started here."""
        if self._lost_head() is not None:
            self.abandon()
            environment.remove_at_exit(self._runtime_folder)
            return
        if self._actors:
            closing = [actor.close.remote() for actor in self._actors]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT_S)
        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()
        self._end_lifeline()
        self._close_log_pipe()
        shutil.rmtree(self._runtime_folder, ignore_errors=True)
        self._runtime_lock.release()

    def abandon(self) -> None:
        """Ends the shards and a Ray that has lost its head, which would take minutes to stop."""
        self._end_lifeline()
        server = psutil.Process()
        children = server.children()
        for process in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(children, KILLED_TIMEOUT_S)  # what is below them, init waits for
        self._close_log_pipe()
        deadline_s = time.monotonic() + KILLED_TIMEOUT_S
        while self._runtime_folder.exists() and time.monotonic() < deadline_s:
            # One of them may still write there.
            shutil.rmtree(self._runtime_folder, ignore_errors=True)
            time.sleep(LOOK_AGAIN_S)

    def _end_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def _close_log_pipe(self) -> None:
        if self._log_pipe is not None:
            self._log_pipe.close()

    def _lost_head(self) -> str | None:
        poll = select.poll()
        for descriptor in self._head:
            poll.register(descriptor, select.POLLIN)
        return next((self._head[descriptor] for descriptor, _ in poll.poll(0)), None)


def join(membership: Membership) -> list[Any]:
    """Joins the cluster from another process and returns the shards' actors, by number."""
    _init_undisturbed(
        address=membership.address, namespace=membership.namespace, log_to_driver=False
    )
    return [
        ray.get_actor(actor_name(shard), membership.namespace) for shard in range(membership.shards)
    ]


def leave() -> None:
    ray.shutdown()


def _make_runtime_folder(namespace: str) -> tuple[Path, FolderLock]:
    """For Ray's files and the shards' sockets, its owner's alone.

    What a killed server left behind goes: a folder whose lock no one holds.
    """
    for leftover in sockets.folders(namespace):
        with contextlib.suppress(LockedError):
            FolderLock(leftover).release()
            shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=sockets.folder_prefix(namespace)))
    return folder, FolderLock(folder)


def _check_reachable(address: str) -> None:
    """Raises `OSError`; Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), REACH_TIMEOUT_S).close()


def actor_name(shard: int) -> str:
    return f"shard-{shard:04}"


def _open_head() -> dict[int, str]:
    return {
        os.pidfd_open(child.pid): child.name()
        for child in psutil.Process().children()
        if child.name() in HEAD
    }


def _init_undisturbed(**options: Any) -> None:
    """Not in the main thread: a signal's exception within Ray would abort the process."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that it leaves SIGTERM alone
    done: Future[None] = Future()

    def initialize() -> None:
        try:
            _init(**options)
        except BaseException as error:  # noqa: BLE001 - the main thread gets it
            done.set_exception(error)
        else:
            done.set_result(None)
        threading.Event().wait()  # Ray's processes end with the thread that started them

    threading.Thread(target=initialize, name="ray", daemon=True).start()
    try:
        done.result()
    except KeyboardInterrupt:
        wait([done])  # what has begun can be stopped only when it is complete
        raise


def _init(**options: Any) -> None:
    ray_node.install()
    ray.init(logging_level=logging.ERROR, **options)
