"""Ranges are proved as asked; offsets that hold no message in Kafka itself are not lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from deltalake import write_deltalake

from fasttrack.errors import ConfigurationError, DataLossError, NotFoundError
from fasttrack.ingest import buffer as buffer_module
from fasttrack.ingest import records
from fasttrack.ingest import worker as worker_module
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import Lake, drain
from fasttrack.ingest.holes import filled
from fasttrack.ingest.job import Job
from fasttrack.ingest.marks import marks
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.schemas import register
from fasttrack.ingest.spans import Stretch
from fasttrack.ingest.worker import Worker
from fasttrack.lake.tables import load, raw_path
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.integration.deadletter_shop import new_shop
from tests.unit.ingest_usecase import event, message

PARTITIONS = 1


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    yield replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    return new_shop(settings, partitions=PARTITIONS)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Transactions:
    """A producer that sends in transactions, each of which leaves an offset without a message."""

    def __init__(self, settings: Settings, shop: UseCase) -> None:
        self._topic, self._schema = shop.topic("placed"), register(settings, shop, "placed")
        self._producer = Producer({"bootstrap.servers": settings.kafka, "transactional.id": f"test-{shop.name}"})
        self._producer.init_transactions(30)
        self._admin = AdminClient({"bootstrap.servers": settings.kafka})

    def begin(self, *numbers: int) -> None:
        self._producer.begin_transaction()
        for number in numbers:
            self._producer.produce(self._topic, message(event(number), self._schema), f"o{number}".encode(), 0)
        assert self._producer.flush(30) == 0

    def commit(self, *numbers: int) -> None:
        self.begin(*numbers)
        self._producer.commit_transaction(30)
        self._ended()

    def abort(self, *numbers: int) -> None:
        if numbers:
            self.begin(*numbers)
        self._producer.abort_transaction(30)
        self._ended()

    def _ended(self) -> None:
        """The coordinator answers before the partition shows the transaction's end."""
        at = TopicPartition(self._topic, 0)

        def end(isolation: IsolationLevel) -> int:
            return int(
                self._admin.list_offsets({at: OffsetSpec.latest()}, isolation_level=isolation)[at].result(30).offset
            )

        deadline = time.monotonic() + 30
        while end(IsolationLevel.READ_COMMITTED) < end(IsolationLevel.READ_UNCOMMITTED):
            assert time.monotonic() < deadline, "the transaction does not end"
            time.sleep(0.05)


def test_transactions_leave_holes_that_are_neither_lost_nor_waited_for(settings: Settings, shop: UseCase) -> None:
    sender = Transactions(settings, shop)
    sender.commit(1, 2, 3)
    sender.abort(4, 5)
    sender.commit(6)
    # 3 messages and a mark, 2 withdrawn and a mark, 1 and a mark: the partition ends with a hole.
    drained = drain(shop, settings, workers=1).streams["placed"]
    assert (drained.landed, drained.events) == (4, 4)
    found = reconcile(shop, settings)
    counts = found.streams["placed"]
    assert (counts.produced, counts.landed, counts.holes, counts.missing) == (4, 4, 5, 0)
    assert found.balanced and found.offsets[shop.topic("placed")] == [(0, 9)]

    # What a transaction has not decided on yet is not there yet, and nobody waits for it.
    sender.begin(7, 8)
    assert drain(shop, settings, workers=1).reused
    assert reconcile(shop, settings).offsets[shop.topic("placed")] == [(0, 9)]
    sender.abort()
    drain(shop, settings, workers=1)
    assert reconcile(shop, settings).streams["placed"].holes == 8
    # Lost between holes is lost all the same.
    load(raw_path(settings, shop, "placed")).delete("_offset = 7")
    lost = reconcile(shop, settings)
    assert [(fault.first, fault.last) for fault in lost.gaps] == [(7, 7)]
    assert lost.total.missing == 1 and not lost.balanced


def test_a_topic_full_of_holes_is_asked_about_by_the_batch(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is a consumer of its own; one a hole would be ten messages a second."""
    sender = Transactions(settings, shop)
    for number in range(60):
        (sender.abort if number % 7 == 3 else sender.commit)(2 * number, 2 * number + 1)
    asked: list[int] = []

    def counted(*place: Any) -> bool:
        asked.append(len(place[-1]))
        return filled(*place)

    monkeypatch.setattr(worker_module, "filled", counted)
    broker, topic = Broker(settings.kafka), shop.topic("placed")
    end = broker.offsets(broker.require([topic]))[topic, 0].latest
    with working(settings, shop, {"placed": [end]}, 10_000):
        wait_for(lambda: drained_to(settings, shop) >= end)
    # One for the batch, and one for what stands behind the last message.
    assert len(asked) <= 2 and sum(asked) > 50
    counts = reconcile(shop, settings).streams["placed"]
    assert (counts.landed, counts.holes, counts.missing) == (102, end - 102, 0)


@contextmanager
def working(settings: Settings, shop: UseCase, ends: dict[str, list[int]], batch: int) -> Iterator[Worker]:
    """A drain's worker in a thread of this process; told to stop at the block's end, and waited for."""
    broker, topic = Broker(settings.kafka), shop.topic("placed")
    Lake(shop, settings, broker.cluster_id(), {}).ensure()
    topics = {"placed": broker.require([topic])[topic]}
    worker = Worker(Job(shop, settings, broker.cluster_id(), topics, ends, f"working-{shop.name}", 6.0, batch))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run)
        try:
            yield worker
        finally:
            worker.stop.set()
            running.result()


def drained_to(settings: Settings, shop: UseCase) -> int:
    broker = Broker(settings.kafka)
    topics = {"placed": broker.require([shop.topic("placed")])[shop.topic("placed")]}
    return marks(shop, settings, broker.cluster_id(), topics, {("placed", 0): 0})["placed", 0]


def test_messages_that_the_client_passed_over_are_read_again(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that loses messages on the way can't be had, so its answers are cut, here and there, once each."""
    Transactions(settings, shop).commit(*range(300))
    chance, cut = random.Random(7), [0]
    real = Worker._take

    def lossy(self: Worker, messages: list[Message]) -> None:
        if cut[0] < 6 and len(messages) > 10:
            cut[0] += 1
            at = chance.randrange(len(messages) - 5)
            messages = messages[:at] + messages[at + 3 :]
        real(self, messages)

    monkeypatch.setattr(Worker, "_take", lossy)
    # The transaction's end is an offset, too.
    with working(settings, shop, {"placed": [301]}, 100):
        wait_for(lambda: drained_to(settings, shop) >= 301)
    assert cut[0] >= 3
    counts = reconcile(shop, settings).streams["placed"]
    assert (counts.produced, counts.landed, counts.missing, counts.repeated) == (300, 300, 0, 0)


def test_what_stands_behind_the_last_message_is_passed_over_without_an_end_too(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Kafka has deleted all that is old, a mark before a transaction's end would look like a loss."""
    monkeypatch.setattr(buffer_module, "_MAX_AGE_SECONDS", 0.5)
    sender = Transactions(settings, shop)
    sender.commit(*range(5))
    with working(settings, shop, {}, 10_000) as worker:
        # Once with messages before it, and once alone.
        wait_for(lambda: any(buffer.position == 6 for buffer in list(worker._buffers.values())))
        sender.abort(5, 6)
        wait_for(lambda: any(buffer.position == 9 for buffer in list(worker._buffers.values())))
    assert drained_to(settings, shop) == 9
    at, admin = TopicPartition(shop.topic("placed"), 0, 9), AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_records([at])[at].result(30)
    assert drain(shop, settings, workers=1).reused
    assert reconcile(shop, settings).balanced


def test_what_kafka_deleted_of_a_partition_that_was_empty_when_drained_is_missed(
    settings: Settings, shop: UseCase
) -> None:
    assert drain(shop, settings, workers=1).reused
    Transactions(settings, shop).commit(*range(10))
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    for future in admin.delete_records([TopicPartition(shop.topic("placed"), 0, 5)]).values():
        future.result(30)
    with pytest.raises(DataLossError, match="needs offset 0, the broker has 5"):
        drain(shop, settings, workers=1)


def test_a_range_is_proved_alone_and_held_against_the_topic(settings: Settings, shop: UseCase) -> None:
    topic = shop.topic("placed")
    Transactions(settings, shop).commit(*range(10))
    drain(shop, settings, workers=1)
    load(raw_path(settings, shop, "placed")).delete("_offset in (2, 3, 8)")

    part = reconcile(shop, settings, ["placed"], [Stretch("placed", 0, 4, 7)])
    assert part.balanced and part.total.produced == 4 and part.offsets == {topic: [(4, 8)]}
    rest = reconcile(shop, settings, stretches=[Stretch(topic, 0, 3)])
    assert [(f.topic, f.partition, f.first, f.last) for f in rest.gaps] == [(topic, 0, 3, 3), (topic, 0, 8, 8)]
    assert set(rest.streams) == {"placed"}

    for stretch, said in (
        (Stretch("placed", 0, 5, 11), "holds offsets 0 to 10"),
        (Stretch("placed", 1, 0), "partitions 0 to 0"),
        (Stretch("paid", 0, 0, 0), "holds nothing"),
        (Stretch("lost", 0, 0), "no such topic"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            reconcile(shop, settings, stretches=[stretch])
    with pytest.raises(NotFoundError, match="no such stream"):
        reconcile(shop, settings, ["lost"])


def test_a_gap_and_a_repeat_longer_than_a_stretch_are_named_once(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    Transactions(settings, shop).commit(*range(12))
    drain(shop, settings, workers=1)
    table = load(raw_path(settings, shop, "placed"))
    write_deltalake(table.table_uri, table.to_pyarrow_table(filters=[("_offset", ">=", 8)]), mode="append")
    load(raw_path(settings, shop, "placed")).delete("_offset >= 2 and _offset < 7")
    whole = reconcile(shop, settings)
    monkeypatch.setattr(records, "STRETCH", 4)
    found = reconcile(shop, settings)
    assert found == whole
    assert [(fault.first, fault.last) for fault in found.gaps] == [(2, 6)]
    assert [(fault.first, fault.last) for fault in found.repeats] == [(8, 11)]
    assert (found.total.missing, found.total.repeated, found.total.holes) == (5, 4, 1)


def test_what_no_drain_has_come_to_waits_and_is_not_lost(settings: Settings, shop: UseCase) -> None:
    sender = Transactions(settings, shop)
    assert reconcile(shop, settings).balanced
    sender.commit(1, 2, 3)
    before = reconcile(shop, settings)
    assert (before.total.produced, before.total.waiting, before.total.missing) == (3, 3, 0)
    assert not before.balanced and not before.gaps
    drain(shop, settings, workers=1)
    sender.commit(4, 5)
    now = reconcile(shop, settings)
    assert (now.total.produced, now.total.landed, now.total.waiting, now.balanced) == (5, 3, 2, False)
    # A pipeline's proof ends where its drain did: producers go on.
    proof = reconcile(shop, settings, drained=True)
    assert (proof.total.produced, proof.total.landed, proof.total.waiting, proof.balanced) == (3, 3, 0, True)
    assert proof.offsets[shop.topic("placed")] == [(0, 4)]
    load(raw_path(settings, shop, "placed")).delete("_offset = 1")
    assert reconcile(shop, settings, drained=True).total.missing == 1


def test_a_topic_whose_beginning_was_deleted_is_drained_from_there(settings: Settings, shop: UseCase) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    sender = Transactions(settings, shop)
    sender.commit(*range(10))
    deleted = TopicPartition(shop.topic("placed"), 0, 4)
    admin.delete_records([deleted])[deleted].result(30)
    assert drain(shop, settings, workers=1).streams["placed"].landed == 6
    # Once it was begun, what Kafka deletes behind the drain is no loss either.
    deleted = TopicPartition(shop.topic("placed"), 0, 11)
    admin.delete_records([deleted])[deleted].result(30)
    sender.commit(10, 11)
    report = drain(shop, settings, workers=1)
    assert (report.streams["placed"].landed, report.complete) == (2, True)
    assert reconcile(shop, settings).balanced
    # But what it has not come to is one.
    sender.commit(12, 13)
    deleted = TopicPartition(shop.topic("placed"), 0, 15)
    admin.delete_records([deleted])[deleted].result(30)
    with pytest.raises(DataLossError, match="the lake needs offset 14"):
        drain(shop, settings, workers=1)
