"""A worker before it has its orders."""

import asyncio
import os
import signal
import socket
import time

from aggregator.lifeline import EXIT_ORPHANED
from api.worker_process import WorkerProcess


def test_ctrl_c_is_the_servers_from_the_first_and_its_end_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        worker = WorkerProcess(listening)
        try:
            assert worker._process.stdin is not None
            for _ in range(20):  # while Python starts
                os.kill(worker._process.pid, signal.SIGINT)
                time.sleep(0.01)
            worker._process.stdin.close()  # as when the server ends
            assert asyncio.run(worker.ended()) == EXIT_ORPHANED
        finally:
            worker.kill()
        assert not worker.is_running
