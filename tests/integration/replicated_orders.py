"""A database with a table of orders, and the slot that its changes are read from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import connection as Connection

from fasttrack.errors import UnavailableError
from fasttrack.ingest.sources.replication import ReplicationReader
from fasttrack.ingest.sources.source import Position, Record
from fasttrack.usecase.sources import PostgresReplicationSource
from tests.integration.registry_database import scratch_database
from tests.integration.source_tables import ORDERS, URL, run, session
from tests.unit.gateway_harness import until
from tests.unit.ingest_usecase import usecase


@contextmanager
def replicated_orders(server: str, options: str = "") -> Iterator[str]:
    """The DSN of a new database, with `options`; its slots keep it from being dropped, so they go first."""
    with scratch_database(server, options) as url:
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


def begun(dsn: str, slot: str, **options: Any) -> ReplicationReader:
    """A reader whose slot is made, and recorded; no row was read yet."""
    source = reader(dsn, slot, **options)
    source.open(None)
    for phase in ("begin", "snapshot" if options.get("snapshot", True) else "stream"):
        batch = source.read(1)
        assert batch is not None and (batch.records, batch.position["phase"]) == ([], phase)
        source.committed(batch.position)
    return source


def reopened(dsn: str, slot: str, position: Position, **options: Any) -> ReplicationReader:
    """A reader that goes on, once the server has seen that the one before is gone."""
    source = reader(dsn, slot, **options)
    end = time.monotonic() + 60
    while True:
        try:
            source.open(position)
        except UnavailableError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return source


def upto(source: ReplicationReader, count: int, seconds: float = 60.0) -> tuple[list[Record], Position]:
    """The next records, at least so many, all acknowledged; and the position behind them."""
    found: list[Record] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        batch = source.read(0.2)
        if batch is None:
            continue
        found += batch.records
        source.committed(batch.position)
        if len(found) >= count:
            return found, batch.position
    raise AssertionError(f"only {len(found)} records came")
