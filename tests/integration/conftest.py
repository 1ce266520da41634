"""Real embedded parts for the integration tests: one platform a session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from fasttrack.local.platform import Platform
from fasttrack.registry.store import Registry
from tests.integration import rollout_world
from tests.integration.registry_database import opened, scratch_database
from tests.local_homes import running_platform

STORES = ("kafka", "postgres", "redis", "schema_registry")


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Kafka, PostgreSQL, Redis and the schema registry, in a home that is removed at the end."""
    with running_platform(STORES) as running:
        yield running


@pytest.fixture
def topic(platform: Platform) -> str:
    """The name of a new topic with two partitions."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": platform.settings().kafka, "reconnect.backoff.max.ms": 100})
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(30)
    return name


@pytest.fixture
def dsn(platform: Platform) -> Iterator[str]:
    """An empty database of the test's own."""
    with scratch_database(platform.settings().postgres) as url:
        yield url


@pytest.fixture
def registry(dsn: str) -> Iterator[Registry]:
    """A registry without models, in the database `dsn`."""
    with opened(dsn) as found:
        found.migrate()
        yield found


@pytest.fixture
def world(dsn: str, tmp_path: Path) -> Iterator[rollout_world.World]:
    """A champion and a challenger that a rollout could start with."""
    with rollout_world.world(dsn, tmp_path) as found:
        yield found
