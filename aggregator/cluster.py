"""Ray as the control plane: one embedded in this machine, or a cluster that exists.

The server's main process starts Ray and the shard actors and owns both: they end
with it. Its HTTP workers join by address and find the actors by name.
"""

import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aggregator import sockets
from aggregator.actor import Description, ShardActor
from aggregator.link import node_id
from aggregator.shard import ShardSettings
from persistence.errors import LockedError
from persistence.files import FolderLock

#: Shards keep their state themselves; Ray's object store holds next to nothing.
OBJECT_STORE_BYTES = 100 << 20
#: How long an existing cluster's address may take to answer.
REACH_TIMEOUT_S = 5.0
#: At most this long for a shard's last snapshot when the server stops.
CLOSE_TIMEOUT_S = 5.0


class Membership(msgspec.Struct, frozen=True):
    """What a process needs to join: Ray's address, the actors' namespace and number."""

    address: str
    namespace: str
    shards: int


class Cluster:
    """The main process' hold on Ray and the shards."""

    def __init__(self, address: str | None, namespace: str) -> None:
        """Starts Ray here, or joins the cluster at `address`; `environment` comes before."""
        if address is not None:
            _check_reachable(address)
        self._runtime_folder, self._runtime_lock = _make_runtime_folder(namespace)
        self._actors: list[Any] = []
        self._namespace = namespace
        _init(
            address=address or "local",
            namespace=namespace,
            log_to_driver=True,  # what shards have to say belongs in the server's log
            **({} if address else self._local_options()),
        )

    def _local_options(self) -> dict[str, Any]:
        return {
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(self._runtime_folder / "ray"),  # Ray opens it to everyone
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }

    def start_shards(self, shards: Sequence[ShardSettings]) -> list[Description]:
        """Places an actor a shard on this node, where the data is; returns when all have recovered.

        A shard whose data cannot be trusted is there and says so.
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
        level = logging.getLogger().getEffectiveLevel()
        self._actors = [
            actor_class.options(name=actor_name(shard.number), **options).remote(
                shard, str(self._runtime_folder), level
            )
            for shard in shards
        ]
        encoded = ray.get([actor.describe.remote() for actor in self._actors])
        return [msgspec.msgpack.decode(one, type=Description) for one in encoded]

    def membership(self) -> Membership:
        address = ray.get_runtime_context().gcs_address
        return Membership(address, self._namespace, len(self._actors))

    def stop(self) -> None:
        """Closes the shards, each with a last snapshot, and Ray if it was started here."""
        closing = [actor.close.remote() for actor in self._actors]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT_S)
        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()
        shutil.rmtree(self._runtime_folder, ignore_errors=True)
        self._runtime_lock.release()


def join(membership: Membership) -> list[Any]:
    """Joins the cluster from another process and returns the shards' actors, by number."""
    _init(address=membership.address, namespace=membership.namespace, log_to_driver=False)
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


def _init(**options: Any) -> None:
    ray.init(logging_level=logging.ERROR, **options)
