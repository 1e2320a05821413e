"""One HTTP process. The server starts it as `python -m api.worker <socket's descriptor>`.

Its standard input is a line with what it needs to know, once there is something to serve,
and then its lifeline: when that closes, the server is gone and the worker ends. It says
"ready" on its standard output once it takes requests.
"""

import gc
import signal

gc.disable()  # what starts stays: a fifth of the start would go to looking for what may go
signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches all of a terminal, the server decides
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

import asyncio
import os
import socket
import sys
from typing import Any

import msgspec
from sanic import Sanic

from aggregator import cluster
from aggregator.cluster import Membership
from aggregator.lane import Lane, QueueLimits
from aggregator.lifeline import EXIT_ORPHANED
from aggregator.link import ShardLink, node_id
from aggregator.logs import configure
from aggregator.router import Router
from api.app import create_app
from api.orders import BACKLOG, READY, Orders
from api.settings import Settings
from api.swift import SwiftProtocol
from api.warm_up import warm_up

#: From Sanic's last start listener to its loop running for good, amply.
SETTLING_S = 0.05
#: Objects made, less those gone again, before the collector looks for cycles; Python's is 700.
GC_THRESHOLD = 20_000


def main() -> None:
    warm_up()
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(EXIT_ORPHANED)
    orders = msgspec.json.decode(line, type=Orders)
    settings = Settings.model_validate_json(orders.settings)
    configure(settings.log_level)
    app = create_app(settings)
    listening = socket.socket(fileno=int(sys.argv[1]))
    listening.setblocking(False)
    app.ctx.listening = listening

    @app.before_server_start
    async def join(app: Sanic[Any, Any]) -> None:
        app.ctx.router = make_router(settings, orders.membership)

    @app.after_server_start
    async def tune_garbage_collection(_: Sanic[Any, Any]) -> None:
        # What is there by now stays, and a request leaves next to nothing behind.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        gc.enable()

    @app.after_server_start
    async def prepare_to_stop(_: Sanic[Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Ray and the shards go with the server, and leaving them in order would hang.
        loop.add_reader(sys.stdin.fileno(), os._exit, EXIT_ORPHANED)
        # Sanic loses a stop that comes before its loop runs for good, just after this.
        loop.call_later(SETTLING_S, os.write, sys.stdout.fileno(), READY)

    @app.after_server_stop
    async def leave(app: Sanic[Any, Any]) -> None:
        await app.ctx.router.close()
        cluster.leave()

    app.run(
        sock=listening,
        single_process=True,
        motd=False,
        backlog=BACKLOG,
        protocol=SwiftProtocol,
    )


def make_router(settings: Settings, membership: Membership) -> Router:
    """Joins the cluster and opens a lane to each shard, on the running loop."""
    actors = cluster.join(membership)
    limits = QueueLimits(settings.queue_events_max, settings.queue_bytes_max)
    node = node_id()
    links = [
        ShardLink(shard, actor, node, settings.shard_timeout_s)
        for shard, actor in enumerate(actors)
    ]
    return Router([Lane(shard, link.send, limits) for shard, link in enumerate(links)])


if __name__ == "__main__":
    main()
