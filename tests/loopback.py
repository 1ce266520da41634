"""Loopback TCP for tests: free ports, and a way to a server that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from psycopg2.extensions import make_dsn, parse_dsn

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    return free_ports(1)[0]


class Cable:
    """A TCP way to a server that can be cut and mended: an outage that only one test sees.

    Args:
        host, port: of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._sockets: list[socket.socket] = []

    def mend(self) -> None:
        """Let connections through."""
        listener = socket.create_server((HOST, self.port))
        self._sockets = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _hang_up(each)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        _hang_up(end)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):  # the other side was first
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable_to(dsn: str, *, whole: bool = True) -> Iterator[tuple[Cable, str]]:
    """A cable to the PostgreSQL of `dsn`, and the DSN that goes through it.

    Args:
        dsn: of the server.
        whole: false for one that has yet to be mended.
    """
    parts = parse_dsn(dsn)
    cable = Cable(parts["host"], int(parts["port"]))
    if whole:
        cable.mend()
    try:
        yield cable, make_dsn(**{**parts, "host": HOST, "port": cable.port})
    finally:
        cable.cut()
