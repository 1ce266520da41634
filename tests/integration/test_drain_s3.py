"""A drain into S3, with a real broker: the same judge, the same readers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.features.job import build
from fasttrack.ingest.deadletters import Wanted
from fasttrack.ingest.drain import drain
from fasttrack.ingest.listing import search
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.ingest.validate import validate
from fasttrack.lake.tables import versions
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from tests.integration.drain_oracle import check
from tests.object_store import BUCKET, object_store
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import usecase


@pytest.fixture
def settings(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 600)
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with object_store() as store:
        # The judge asks the environment only.
        for name, value in (store.environment() | {"AWS_ALLOW_HTTP": "true"}).items():
            monkeypatch.setenv(name, value)
        yield replace(platform.settings(), lake=f"s3://{BUCKET}/of/all")


def test_everything_lands_once_and_every_reader_finds_it(settings: Settings) -> None:
    shop = usecase(f"shop-{uuid.uuid4().hex[:8]}")
    sent = replay(shop, settings)
    report = drain(shop, settings, workers=2, batch_events=200)
    assert report.complete
    assert check(shop, settings) == sent.produced == sum(s.events for s in report.streams.values())
    assert validate(shop, settings).streams["placed"].fields["amount"].maximum == pytest.approx(299.5)
    # A second drain builds its index of event ids from the tables: what comes again is a duplicate.
    replay(shop, settings, seed=8)
    again = drain(shop, settings, workers=1)
    assert again.streams["placed"].landed == 0
    check(shop, settings)
    outcome = reconcile(shop, settings)
    assert outcome.balanced
    assert outcome.total.dead_lettered == search(shop, settings, Wanted()).matched > 0
    assert versions(settings, shop).keys() == shop.streams.keys()
    with pytest.raises(ConfigurationError, match="a lake in a folder"):
        build(shop, settings)
