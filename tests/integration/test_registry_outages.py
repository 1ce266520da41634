"""The registry when PostgreSQL hangs up, is away, comes back, or refuses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.errors import (
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    StorageError,
    UnavailableError,
)
from fasttrack.registry.store import Registry
from tests.integration.registry_database import digest, execute, opened, scratch_database


@pytest.fixture
def dsn(platform: Any) -> Iterator[str]:
    with scratch_database(platform.settings().postgres) as url:
        yield url


@pytest.fixture
def registry(dsn: str) -> Iterator[Registry]:
    with opened(dsn) as found:
        found.migrate()
        yield found


def test_unreachable_database_is_named_without_its_password(dsn: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = make_dsn(**{**parse_dsn(dsn), "host": "127.0.0.1", "port": str(port), "password": "s3cret"})
    with opened(url, patience=0.1) as registry, pytest.raises(UnavailableError) as caught:
        registry.list()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "fasttrack status" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@[::1/x", "no equals sign", "hots=x"])
def test_malformed_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="FASTTRACK_POSTGRES") as caught:
        Registry(url)
    assert "s3cret" not in str(caught.value)


def test_connections_that_the_server_closed_are_replaced(dsn: str, registry: Registry) -> None:
    registry.register_model("survivor", "/a", digest=digest(1))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: registry.get("survivor", 1), range(20)))
    # What a restart does to idle connections, without taking the server from the other tests.
    for _ in range(3):
        execute(
            dsn,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()",
        )
        assert registry.get("survivor", 1).digest == digest(1)


def test_connection_lost_in_a_transaction_rolls_it_back(dsn: str, registry: Registry) -> None:
    with pytest.raises(UnavailableError), registry._connections.transaction() as cursor:
        cursor.execute("INSERT INTO models (name) VALUES ('half')")
        execute(
            dsn,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()",
        )
        cursor.execute("SELECT 1")
    with registry._connections.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM models")
        assert cursor.fetchone() == (0,)


class Gate:
    """A TCP relay to PostgreSQL that can be shut and opened: an outage that only this test sees."""

    def __init__(self, dsn: str) -> None:
        parts = parse_dsn(dsn)
        self._target = (parts["host"], int(parts["port"]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.dsn = make_dsn(**{**parts, "host": "127.0.0.1", "port": str(self.port)})
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._sockets = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):  # the other side was first
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def test_outage_and_return(dsn: str, registry: Registry) -> None:
    registry.register_model("outage", "/a", digest=digest(1))
    gate = Gate(dsn)
    with opened(gate.dsn, patience=0.2) as through:
        gate.open()
        assert through.get("outage", 1).version == 1
        gate.shut()
        for _ in range(2):
            with pytest.raises(UnavailableError, match=str(gate.port)):
                through.get("outage", 1)
        gate.open()
        assert through.get("outage", 1).version == 1
        gate.shut()


def test_short_outage_is_waited_for(dsn: str, registry: Registry) -> None:
    gate = Gate(dsn)
    timer = threading.Timer(0.5, gate.open)
    with opened(gate.dsn, patience=30) as through:
        timer.start()
        assert through.list() == ()
    timer.join()
    gate.shut()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("53100", StorageError),  # disk_full
        ("25006", StorageError),  # read_only_sql_transaction
        ("40P01", ConflictError),  # deadlock_detected
        ("55P03", ConflictError),  # lock_not_available
        ("22003", InvalidRequestError),  # numeric_value_out_of_range
        ("57P01", UnavailableError),  # admin_shutdown
        ("XX000", StorageError),  # internal_error
    ],
)
def test_server_errors_become_ours_and_the_connection_stays_usable(
    registry: Registry, code: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="PostgreSQL at"), registry._connections.transaction() as cursor:
        cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'made by a test' USING ERRCODE = %s; END $$", (code,))
    assert registry.list() == ()
