"""A database and a registry of its own for a test, on the platform's PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.registry.store import Registry


@contextmanager
def scratch_database(dsn: str, options: str = "") -> Iterator[str]:
    """Create an empty database (with `options` of CREATE DATABASE) on the server of `dsn`; drop it at the end."""
    name = f"test_{uuid.uuid4().hex}"
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), sql.SQL(options)))
            try:
                yield make_dsn(**{**parse_dsn(dsn), "dbname": name})
            finally:
                cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def opened(dsn: str, **options: Any) -> Iterator[Registry]:
    """A registry that is closed at the end."""
    registry = Registry(dsn, **options)
    try:
        yield registry
    finally:
        registry.close()


def execute(dsn: str, statement: str) -> None:
    """Run one statement, past the registry."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def digest(number: int) -> str:
    """A well-formed digest, another for each number."""
    return f"sha256:{number:064x}"
