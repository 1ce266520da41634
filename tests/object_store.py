"""An S3 server (moto) as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow.fs import S3FileSystem

from tests.relay import Road

BUCKET = "lake"
_UNCONDITIONAL = "TESTS_OBJECT_STORE_UNCONDITIONAL"
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class ObjectStore:
    """A running server with one empty bucket.

    Attributes:
        pid: its process.
        address: host and port.
    """

    def __init__(self, pid: int, address: tuple[str, int]) -> None:
        self.pid, self.address = pid, address

    def environment(self, road: Road | None = None) -> dict[str, str]:
        """What a client needs, directly or by a road."""
        host, port = road.address if road else self.address
        return _KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}

    def options(self) -> dict[str, str]:
        """The same, directly, for deltalake."""
        return self.environment() | {"allow_http": "true"}

    def files(self) -> S3FileSystem:
        """Its files, for whoever looks from outside."""
        return S3FileSystem(
            access_key=_KEYS["AWS_ACCESS_KEY_ID"], secret_key=_KEYS["AWS_SECRET_ACCESS_KEY"], scheme="http",
            region=_KEYS["AWS_REGION"], endpoint_override="{}:{}".format(*self.address), allow_bucket_creation=True,
        )  # fmt: skip

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Within the block it is there and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def object_store(allowed: int | None = None, conditional: bool = True) -> Iterator[ObjectStore]:
    """Run a server.

    Args:
        allowed: how many requests are taken from anybody; after those every one is denied.
        conditional: whether it honours ``If-None-Match``, which older stores ignore.
    """
    command = [sys.executable, "-m", "tests.object_store"]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment |= {} if allowed is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(allowed)}
    environment |= {} if conditional else {_UNCONDITIONAL: "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=root) as server:
        assert server.stdout is not None
        try:
            store = ObjectStore(server.pid, ("127.0.0.1", int(server.stdout.readline())))
            store.files().create_dir(BUCKET)
            yield store
        finally:
            server.kill()


def _one_put_at_a_time(app: Callable[..., Iterable[bytes]], conditional: bool) -> Callable[..., Iterable[bytes]]:
    """moto looks whether an object exists and makes it in two steps; S3 does so in one."""
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start)
        if not conditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with lock:
            return list(app(environ, start))

    return serve


def _main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        # One connection for many requests, as S3 has it.
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            return

    app = DomainDispatcherApplication(create_backend_app)
    conditional = _UNCONDITIONAL not in os.environ
    server = make_server("127.0.0.1", 0, _one_put_at_a_time(app, conditional), threaded=True, request_handler=Quiet)
    print(server.port, flush=True)
    # Its parent's end is its own.
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    _main()
