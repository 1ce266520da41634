"""Real embedded parts for the integration tests: one platform a session."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from fasttrack.local import control
from fasttrack.local.platform import Platform

STORES = ("kafka", "postgres", "redis", "schema_registry")


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Kafka, PostgreSQL, Redis and the schema registry, in a home that is removed at the end."""
    # Not pytest's folder: as root, PostgreSQL's account may not pass through it.
    home = Path(tempfile.mkdtemp(prefix="fasttrack-test-"))
    running = Platform(home)
    try:
        running.start(STORES)
        yield running
    finally:
        running.stop()
        control.down(home, wipe=True)


@pytest.fixture
def topic(platform: Platform) -> str:
    """The name of a new topic with two partitions."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": platform.settings().kafka, "reconnect.backoff.max.ms": 100})
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(30)
    return name
