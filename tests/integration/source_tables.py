"""Tables that are written while a source reads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.postgres import PostgresReader
from fasttrack.ingest.sources.source import Record, Source
from fasttrack.usecase.sources import PostgresSource
from tests.unit.ingest_usecase import usecase

URL = "SHOP_DATABASE"
ORDERS = """
CREATE TABLE orders (
  id bigint PRIMARY KEY, amount numeric(12, 2) NOT NULL, placed_at timestamptz NOT NULL, gift boolean NOT NULL,
  note text, updated_at timestamptz NOT NULL DEFAULT now())
"""


@contextmanager
def session(dsn: str, *, autocommit: bool = True) -> Iterator[Connection]:
    """A connection of the application that owns the tables."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = autocommit
    try:
        yield connection
    finally:
        connection.close()


def run(connection: Connection, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """One statement, and its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def place(connection: Connection, low: int, high: int) -> None:
    """Orders `low` to `high`, not included."""
    run(
        connection,
        "INSERT INTO orders SELECT n, n / 4.0, '2024-05-01 12:00+02'::timestamptz + n * interval '1 s', n %% 2 = 0, "
        "'order ' || n FROM generate_series(%s, %s - 1) n",
        (low, high),
    )


def take(source: Source, enough: Callable[[list[Record]], bool], seconds: float = 60.0) -> list[Record]:
    """Read and acknowledge until there is enough; what more is there within a moment comes along."""
    found: list[Record] = []
    end = time.monotonic() + seconds
    while not enough(found):
        assert time.monotonic() < end, f"only {len(found)} records came: {[r.fields for r in found[-3:]]}"
        batch = source.read(0.2)
        if batch is not None:
            found += batch.records
            source.committed(batch.position)
    return found


@contextmanager
def working(*tasks: Callable[[threading.Event], None]) -> Iterator[None]:
    """Threads that write until the block ends (they get the event that says so); their errors are raised then."""
    done, failures = threading.Event(), list[BaseException]()

    def guarded(task: Callable[[threading.Event], None]) -> None:
        try:
            task(done)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    if failures:
        raise failures[0]


def reader(dsn: str, **options: Any) -> PostgresReader:
    """Reads ``orders`` by ``updated_at`` and ``id``, unless `options` say otherwise."""
    given = {
        "kind": "postgres", "stream": "placed", "connection_env": URL, "table": "orders", "cursor": "updated_at",
        "keys": ["id"], "poll": "100ms", **options,
    }  # fmt: skip
    return PostgresReader(usecase(), "shop", PostgresSource.model_validate(given), {URL: dsn})


def ids(records: list[Any]) -> list[int]:
    """Their ids, in the order in which they came."""
    return [record.fields["id"] for record in records]
