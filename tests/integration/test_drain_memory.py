"""A drain's memory is bounded: what is buffered is committed sooner, and what can't be written yet is not fetched."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer, TopicPartition

from fasttrack.ingest import worker as worker_module
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import Lake
from fasttrack.ingest.job import Job
from fasttrack.ingest.member import member
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.schemas import register
from fasttrack.ingest.worker import Worker
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.integration.deadletter_shop import new_shop
from tests.unit.ingest_usecase import event, message

PARTITIONS = 3
MIB = 2**20


@pytest.fixture
def settings(platform: Platform, tmp_path: Path) -> Settings:
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    return new_shop(settings, partitions=PARTITIONS)


def job(settings: Settings, shop: UseCase, batch_events: int) -> Job:
    """Drain what the topic holds now."""
    broker, topic = Broker(settings.kafka), shop.topic("placed")
    Lake(shop, settings, broker.cluster_id(), {}).ensure()
    topics = {"placed": broker.require([topic])[topic]}
    held = broker.offsets({topic: topics["placed"]})
    ends = {"placed": [held[topic, partition].latest for partition in range(PARTITIONS)]}
    return Job(shop, settings, broker.cluster_id(), topics, ends, f"memory-{shop.name}", 6.0, batch_events)


def test_messages_with_large_keys_are_committed_before_there_are_too_many(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, schema = Producer({"bootstrap.servers": settings.kafka}), register(settings, shop, "placed")
    size = len(message(event(1000), schema)) + 5000
    for number in range(1000, 3000):
        key = f"{number}".ljust(5000, "x").encode()
        producer.produce(shop.topic("placed"), message(event(number), schema), key, number % PARTITIONS)
    assert producer.flush(60) == 0
    bound = 500_000
    monkeypatch.setattr(worker_module, "_BUFFER_BYTES", bound)
    monkeypatch.setattr(worker_module, "_FETCH", 20)
    worker = Worker(job(settings, shop, batch_events=10**6))
    seen: list[int] = []
    real = worker._commit_due

    def watched() -> None:
        held = [text for buffer in worker._buffers.values() for text in (*buffer.values, *buffer.keys)]
        seen.append(sum(len(text or b"") for text in held))
        real()

    monkeypatch.setattr(worker, "_commit_due", watched)
    running = threading.Thread(target=worker.run)
    running.start()
    deadline = time.monotonic() + 120
    while sum(b.done for b in list(worker._buffers.values())) < PARTITIONS and time.monotonic() < deadline:
        assert running.is_alive()
        time.sleep(0.05)
    worker.stop.set()
    running.join()
    assert bound < max(seen) <= bound + 20 * size
    counts = reconcile(shop, settings).streams["placed"]
    # They are dead letters: the key is not the order's.
    assert counts.balanced and counts.dead_lettered == counts.produced == 2000


def test_a_worker_that_can_not_write_holds_the_broker_back(settings: Settings, shop: UseCase) -> None:
    producer, topic = Producer({"bootstrap.servers": settings.kafka}), shop.topic("placed")
    block = bytes(MIB // 2)
    for number in range(400):
        producer.produce(topic, block, None, number % PARTITIONS)
        producer.poll(0)
    assert producer.flush(60) == 0
    order = job(settings, shop, batch_events=1000)
    broker = Broker(settings.kafka)
    before = psutil.Process().memory_info().rss
    consumer = member(order, broker.access)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    try:
        most = 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            # Callbacks are served, as in a commit that takes its time, and nothing is taken.
            consumer.consume(1, 0.05) if most == 0 else time.sleep(0.05)
            most = max(most, psutil.Process().memory_info().rss - before)
    finally:
        consumer.close()
    # Of 200 MiB: 32 that are queued, and what was asked for before (4 MiB a partition), with room for the client's own.
    assert most < 80 * MIB
