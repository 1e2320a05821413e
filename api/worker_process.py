"""The process of an HTTP worker, as the server sees it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import msgspec

from api.orders import READY, Orders


class WorkerProcess:
    """Starts at once: it loads what it serves with, and then waits for its orders.

    It ends when its standard input closes, which is when the server ends, however that does.
    """

    def __init__(self, listening: socket.socket) -> None:
        descriptor = listening.fileno()
        # Until it ignores Ctrl-C, which at a terminal reaches it, too.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "api.worker", str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[descriptor],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._pidfd: int | None = os.pidfd_open(self._process.pid)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def order(self, orders: Orders) -> None:
        """Has it serve; to be called once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended is found by `ended`
            self._process.stdin.write(msgspec.json.encode(orders) + b"\n")
            self._process.stdin.flush()

    async def ready(self) -> bool:
        """Returns once it takes requests, or with False once it ended before."""
        assert self._process.stdout is not None
        told = self._process.stdout.fileno()
        await _readable(told)
        return os.read(told, len(READY)) == READY

    async def ended(self) -> int:
        """Returns with its exit code once it has ended."""
        assert self._pidfd is not None
        await _readable(self._pidfd)
        return self._process.wait()

    def terminate(self) -> None:
        """Has it finish what it has, and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it if it has not ended; nothing else is to be called after."""
        if self._pidfd is None:
            return
        self._process.kill()
        self._process.wait()
        os.close(self._pidfd)
        self._pidfd = None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


async def _readable(descriptor: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
