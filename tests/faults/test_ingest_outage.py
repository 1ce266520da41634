"""The broker dies while sources are ingested: it is waited for, and each record is there once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasttrack.ingest.sources.run import ingest
from fasttrack.local.platform import Platform
from fasttrack.usecase import load
from tests.integration.source_oracle import once, sent
from tests.integration.test_ingest_sources import declare, folder, in_order, write
from tests.local_homes import running_platform

ROWS = 30_000


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """A broker of our own, as it is killed; the platform starts it again."""
    with running_platform(["kafka", "schema_registry"]) as running:
        yield running


def test_the_broker_is_killed_while_records_are_sent(platform: Platform, tmp_path: Path) -> None:
    case = load(declare(tmp_path, orders=folder(tmp_path / "in")))
    identities = write(tmp_path / "in" / "a.csv", 0, ROWS)
    seen, killed = 0, []

    def progress(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > ROWS // 3 * (len(killed) + 1) and len(killed) < 2:
            (pid,) = (part.pid for part in platform.status() if part.name == "kafka" and part.pid)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    settings = platform.settings()
    report = ingest(case, settings, until="end", on_progress=progress)
    assert report.complete and len(set(killed)) == 2
    once(sent(settings, case, "placed"), identities)
    in_order(case, settings)
    assert ingest(case, settings, until="end").sources["orders"].read == 0
