"""The registry's tables: made once, by whoever is first, and refused where they are not what they should be."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from fasttrack.errors import (
    ConfigurationError,
    IntegrityError,
)
from fasttrack.registry import migrations
from fasttrack.registry.store import Registry
from tests.integration.registry_database import digest, execute, opened


def test_migrating_is_complete_and_idempotent(dsn: str) -> None:
    with opened(dsn) as registry:
        names = [migration.name for migration in migrations.available()]
        assert list(registry.migrate()) == names
        assert names == sorted(names)
        assert registry.migrate() == ()
        registry.register_model("kept", "/a", digest=digest(1))
        assert registry.migrate() == ()
        assert registry.get("kept", 1).digest == digest(1)


def test_eight_migrate_an_empty_database_at_once(dsn: str) -> None:
    barrier = threading.Barrier(8)

    def migrate(_: int) -> tuple[str, ...]:
        with opened(dsn) as registry:
            barrier.wait()
            return registry.migrate()

    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(migrate, range(8)))
    assert sorted(applied) == [()] * 7 + [tuple(migration.name for migration in migrations.available())]


def test_failed_migration_leaves_the_database_as_it_was(dsn: str) -> None:
    good, broken = migrations.available()[0], migrations.Migration(2, "0002_broken.sql", "CREATE TABLE x (", "0")
    with (
        closing(psycopg2.connect(dsn)) as connection,
        pytest.raises(psycopg2.errors.SyntaxError),
        connection,
        connection.cursor() as cursor,
    ):
        migrations.apply(cursor, (good, broken))
    with opened(dsn) as registry:
        with pytest.raises(ConfigurationError, match="migrate"):
            registry.ping()
        assert len(registry.migrate()) == len(migrations.available())


def test_changed_migration_is_refused(dsn: str, registry: Registry) -> None:
    execute(dsn, "UPDATE schema_migrations SET sha256 = 'other' WHERE number = 2")
    with pytest.raises(IntegrityError, match="was changed after it had been applied"):
        registry.migrate()


def test_database_of_a_newer_version_is_refused(dsn: str, registry: Registry) -> None:
    execute(dsn, "INSERT INTO schema_migrations (number, name, sha256) VALUES (9999, '9999_new.sql', 'x')")
    with pytest.raises(ConfigurationError, match=r"9999_new\.sql.*Upgrade"):
        registry.migrate()


def test_missing_tables_say_what_to_do(dsn: str) -> None:
    with opened(dsn) as registry, pytest.raises(ConfigurationError, match="migrate"):
        registry.list()
