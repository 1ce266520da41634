"""A database with a table of orders, and the slot that its changes are read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.replication import ReplicationReader
from fasttrack.usecase.sources import PostgresReplicationSource
from tests.integration.registry_database import scratch_database
from tests.integration.source_tables import ORDERS, URL, run, session
from tests.unit.gateway_harness import until
from tests.unit.ingest_usecase import usecase


@contextmanager
def replicated_orders(server: str) -> Iterator[str]:
    """The database's DSN; its slots keep it from being dropped, so they go first."""
    with scratch_database(server) as url:
        with session(url) as shop:
            run(shop, ORDERS)
        yield url
        with session(url) as shop:
            drop_slots(shop)


def drop_slots(shop: Connection) -> None:
    """Drop the slots of the connection's database, also those that somebody reads."""
    ours = "FROM pg_replication_slots WHERE database = current_database()"
    run(shop, f"SELECT pg_terminate_backend(active_pid) {ours} AND active")
    until(lambda: not run(shop, f"SELECT 1 {ours} AND active"), 60)
    run(shop, f"SELECT pg_drop_replication_slot(slot_name) {ours}")


def reader(dsn: str, slot: str, **options: Any) -> ReplicationReader:
    """A reader of the orders that is not opened yet."""
    given = {
        "kind": "postgres_replication", "stream": "placed", "connection_env": URL, "table": "orders", "keys": ["id"],
        "slot": slot, "changes": ["insert", "update", "delete"], "fields": {"code": "note"}, **options,
    }  # fmt: skip
    source = PostgresReplicationSource.model_validate(given)
    return ReplicationReader(usecase(), "shop", source, {URL: dsn})
