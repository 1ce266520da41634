"""What Kafka deleted before the lake had it is no proof of anything: it is counted, named, and nothing is balanced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from fasttrack.errors import DataLossError
from fasttrack.ingest.broker import Broker, Offsets, Topic
from fasttrack.ingest.drain import drain
from fasttrack.ingest.partition import PartitionWriter, StreamContext, app_id
from fasttrack.ingest.reconcile import Reconciliation, reconcile
from fasttrack.ingest.scan import scan
from fasttrack.ingest.schemas import register
from fasttrack.ingest.spans import Stretch
from fasttrack.lake.append import Ledger
from fasttrack.lake.tables import raw_path
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.steps.validate import validate
from fasttrack.usecase import UseCase
from tests.faults.drain_rig import landed
from tests.integration.deadletter_shop import new_shop
from tests.unit.ingest_usecase import YAML, event, message

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield replace(platform.settings(), lake=str(tmp_path / "lake"), runs=str(tmp_path / "runs"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    return new_shop(settings, partitions=1)


def send(settings: Settings, shop: UseCase, *numbers: int) -> list[bytes]:
    producer, schema = Producer({"bootstrap.servers": settings.kafka}), register(settings, shop, "placed")
    values = [message(event(number), schema) for number in numbers]
    for number, value in zip(numbers, values, strict=True):
        producer.produce(shop.topic("placed"), value, f"o{number}".encode(), 0)
    assert producer.flush(30) == 0
    return values


def delete_before(settings: Settings, shop: UseCase, offset: int) -> None:
    """What retention does, at once."""
    at, admin = TopicPartition(shop.topic("placed"), 0, offset), AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_records([at])[at].result(30)


def named(found: Reconciliation) -> list[tuple[str, int, int, int]]:
    return [(fault.stream, fault.partition, fault.first, fault.last) for fault in found.deleted]


def test_events_that_kafka_deleted_before_the_lake_had_them_are_named(settings: Settings, shop: UseCase) -> None:
    send(settings, shop, *range(10))
    delete_before(settings, shop, 2)
    drain(shop, settings, workers=1)
    delete_before(settings, shop, 10)
    # What the lake had is nobody's loss, and what no drain had begun was not promised.
    assert reconcile(shop, settings).balanced

    send(settings, shop, *range(10, 26))
    delete_before(settings, shop, 20)
    now, proof = reconcile(shop, settings), reconcile(shop, settings, drained=True)
    for found in (now, proof):
        assert not found.balanced and named(found) == [("placed", 0, 10, 19)]
        assert found.total.deleted == found.streams["placed"].deleted == 10
        assert (found.total.missing, found.streams["paid"].balanced) == (0, True)
    assert (now.total.produced, now.total.waiting, proof.total.produced) == (6, 6, 0)
    # A range is proved alone.
    assert reconcile(shop, settings, stretches=[Stretch("placed", 0, 20, 25)]).total.deleted == 0
    # The drain says the same, and the topic may be empty by now.
    delete_before(settings, shop, 26)
    with pytest.raises(DataLossError, match="the lake needs offset 10"):
        drain(shop, settings, workers=1)
    assert named(reconcile(shop, settings)) == [("placed", 0, 10, 25)]


def test_command_and_pipeline_tell_what_was_deleted_and_what_to_do(
    settings: Settings, shop: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, shop, *range(4))
    drain(shop, settings, workers=1)
    send(settings, shop, *range(4, 9))
    delete_before(settings, shop, 9)
    text = YAML.format(name=shop.name, partitions=1, source="tests.unit.ingest_usecase:events")
    (file := tmp_path / "usecase.yaml").write_text(text)
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)

    command = [sys.executable, "-m", "fasttrack", "reconcile", "-u", str(file)]
    environment = {**os.environ, "COLUMNS": "200"}
    shown, plain = (
        subprocess.run([*command, *more], capture_output=True, text=True, env=environment, cwd=ROOT)
        for more in ([], ["--json"])
    )
    assert shown.returncode == plain.returncode == 5
    assert f"{shop.topic('placed')}, partition 0, offsets 4 to 8: deleted by Kafka before" in shown.stderr
    assert "drain into a new lake" in shown.stderr
    told = json.loads(plain.stdout)
    assert (told["balanced"], told["total"]["deleted"], told["streams"]["paid"]["deleted"]) == (False, 5, 0)
    assert [(fault["first"], fault["last"]) for fault in told["deleted"]] == [(4, 8)]

    with pytest.raises(DataLossError, match=r"5 offset\(s\) were deleted by Kafka") as raised:
        validate(text, "run", "{}")
    assert raised.value.where == f"{shop.topic('placed')}[0] 4..8 deleted"
    assert "new lake" in str(raised.value.fix)


def test_a_table_that_lags_lacks_nothing_and_one_that_was_cut_off_does(settings: Settings, shop: UseCase) -> None:
    assert landed(settings, shop) == 0
    values = send(settings, shop, *range(10))
    keys: list[bytes | None] = [f"o{number}".encode() for number in range(10)]
    broker = Broker(settings.kafka)
    topic, cluster = broker.require([shop.topic("placed")])[shop.topic("placed")], broker.cluster_id()
    writer = PartitionWriter(StreamContext(shop, settings, "placed"), cluster, topic, 0)
    writer.write(np.arange(5), [*values[:5]], keys[:5], last=False)
    # No duplicates and no dead letters, so those tables' marks stay behind; nothing is missing for that.
    for upto in (3, 5):
        delete_before(settings, shop, upto)
        assert writer.mark == 0 and reconcile(shop, settings).total.deleted == 0
    # A kill between the commits of a batch: the raw table has decided on 5 and 6, the dead letters' never came.
    Ledger(raw_path(settings, shop, "placed"), app_id(cluster, topic, 0)).append(None, 7)
    assert reconcile(shop, settings).total.deleted == 0
    delete_before(settings, shop, 6)
    assert named(reconcile(shop, settings)) == [("placed", 0, 5, 5)]
    delete_before(settings, shop, 9)
    assert named(reconcile(shop, settings)) == [("placed", 0, 5, 8)]


def test_what_is_deleted_while_it_is_looked_for_is_named_and_no_silent_broker(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, shop, *range(10))
    real = Broker.offsets

    def overtaken(self: Broker, topics: Mapping[str, Topic]) -> dict[tuple[str, int], Offsets]:
        found = real(self, topics)
        delete_before(settings, shop, 6)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Broker, "offsets", overtaken)
        with pytest.raises(DataLossError, match="Kafka deleted offsets 0 to 5 before they were read") as raised:
            reconcile(shop, settings)
    assert raised.value.where == f"topic {shop.topic('placed')}, partition 0"
    assert "start again" in str(raised.value.fix)
    assert reconcile(shop, settings).total.waiting == 4
    with pytest.raises(DataLossError, match="Kafka deleted offsets 2 to 3 before"):
        list(scan(Broker(settings.kafka), shop.topic("placed"), 0, 2, 3))


def test_a_partition_that_was_never_drained_has_no_promise(settings: Settings, shop: UseCase) -> None:
    send(settings, shop, *range(5))
    delete_before(settings, shop, 3)
    found = reconcile(shop, settings)
    assert (found.total.deleted, found.total.waiting) == (0, 2)
    delete_before(settings, shop, 5)
    assert reconcile(shop, settings).balanced
