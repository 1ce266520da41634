"""A proxy on this machine before the cluster's Services: controllers that run here call them by name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.cluster.kubectl import Kubectl


class _Connect(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        """``CONNECT <service>.<namespace>:<port>``."""
        host, _, port = self.path.rpartition(":")
        name, namespace = host.split(".")[:2]
        found = Kubectl(namespace).get("service", name)
        if found is None:
            self.send_error(502, f"no Service {host}")
            return
        try:
            above = socket.create_connection((found["spec"]["clusterIP"], int(port)), timeout=10)
        except OSError as error:
            self.send_error(502, str(error))
            return
        above.settimeout(None)
        self.send_response(200)
        self.end_headers()
        with above:
            threading.Thread(target=_copy, args=(self.rfile.read1, above), daemon=True).start()
            _copy(above.recv, self.connection)

    def log_message(self, format: str, *words: object) -> None:
        """Nothing: refusals are in the controller's log."""


def _copy(read: Callable[[int], bytes], target: socket.socket) -> None:
    try:
        while data := read(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def to_services() -> Iterator[str]:
    """The proxy's URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Connect) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
