"""Redis and PostgreSQL for gateway tests: a Redis that can be killed, a PostgreSQL that can be cut off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.local import redis
from tests.unit.gateway_harness import until


class RedisServer:
    """A Redis of the test's own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
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


class Cable:
    """A TCP way to a server that can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[socket.socket] = []
        self._whole = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections, and every new one."""
        self._whole = False
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let new connections through."""
        self._whole = True

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable_to(dsn: str) -> Iterator[tuple[Cable, str]]:
    """A cable to the PostgreSQL of `dsn`, and the DSN that goes through it."""
    parts = parse_dsn(dsn)
    cable = Cable(parts["host"], int(parts["port"]))
    try:
        yield cable, make_dsn(**{**parts, "host": "127.0.0.1", "port": cable.port})
    finally:
        cable.close()
