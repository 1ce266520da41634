"""The registry when PostgreSQL hangs up, is away, comes back, or refuses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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
from tests.integration.registry_database import digest, execute, opened
from tests.loopback import cable_to, free_port


def test_unreachable_database_is_named_without_its_password(dsn: str) -> None:
    port = free_port()
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


def test_outage_and_return(dsn: str, registry: Registry) -> None:
    registry.register_model("outage", "/a", digest=digest(1))
    with cable_to(dsn) as (cable, url), opened(url, patience=0.2) as through:
        assert through.get("outage", 1).version == 1
        cable.cut()
        for _ in range(2):
            with pytest.raises(UnavailableError, match=str(cable.port)):
                through.get("outage", 1)
        cable.mend()
        assert through.get("outage", 1).version == 1


def test_short_outage_is_waited_for(dsn: str, registry: Registry) -> None:
    with cable_to(dsn, whole=False) as (cable, url), opened(url, patience=30) as through:
        timer = threading.Timer(0.5, cable.mend)
        timer.start()
        assert through.list() == ()
        timer.join()


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
