"""Redis for gateway tests: a Redis that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fasttrack.local import redis
from tests.loopback import free_port
from tests.unit.gateway_harness import until


class RedisServer:
    """A Redis of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its connection URL."""
        return f"redis://127.0.0.1:{self.port}/1"

    def start(self) -> None:
        """Start it empty, and wait until it answers."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([str(redis.program()), *arguments], stdout=subprocess.DEVNULL)

        def answers() -> bool:
            with suppress(OSError):
                return redis.answers(self.port)
            return False

        until(answers)

    def kill(self) -> None:
        """End it without a goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send_signal(self, number: int) -> None:
        """Such as SIGSTOP and SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A Redis that ends with the block."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        with suppress(AssertionError):
            server.send_signal(signal.SIGCONT)
        server.kill()
