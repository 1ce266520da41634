"""Replay, drain, reconcile and validate with a real broker and schema registry."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_STORED, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from deltalake import write_deltalake

from fasttrack.errors import (
    ConflictError,
    DataLossError,
    DataQualityError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from fasttrack.ingest import broker as broker_module
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.job import Job
from fasttrack.ingest.publisher import Publisher
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.ingest.schemas import register
from fasttrack.ingest.validate import validate
from fasttrack.ingest.worker import Worker
from fasttrack.lake.tables import dead_letters_path, load, read, read_raw, versions
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.faults.drain_rig import landed
from tests.integration.drain_oracle import actual, check
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import event, message, usecase


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 600)
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def drained(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, UseCase]:
    """A lake that is only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_usecase, "ORDERS", 600)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        settings = replace(platform.settings(), lake=str(tmp_path_factory.mktemp("lake")))
        shop = usecase(f"shop-{uuid.uuid4().hex[:8]}")
        replay(shop, settings)
        drain(shop, settings, workers=1)
    return settings, shop


@pytest.fixture
def settings(platform: Platform, tmp_path: Path) -> Settings:
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop() -> UseCase:
    return usecase(f"shop-{uuid.uuid4().hex[:8]}")


def send(settings: Settings, case: UseCase, *events: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    schema_id = register(settings, case, "placed")
    for one in events:
        producer.produce(case.topic("placed"), message(one, schema_id), one["order_id"].encode(), 0)
    assert producer.flush(30) == 0


def test_everything_lands_once_and_adds_up(settings: Settings, shop: UseCase) -> None:
    sent = replay(shop, settings)
    report = drain(shop, settings, workers=2, batch_events=100)
    assert check(shop, settings) == sent.produced == sum(s.events for s in report.streams.values())
    for name, counts in report.streams.items():
        assert (counts.landed, counts.dead_letters) == (sent.streams[name].events, sent.streams[name].malformed)
        assert counts.duplicates == sent.streams[name].duplicates
    outcome = reconcile(shop, settings)
    assert outcome.balanced
    assert outcome.total.produced == sent.produced
    assert (outcome.gaps, outcome.repeats) == ([], [])

    again = drain(shop, settings)
    assert again.reused
    assert again.complete
    assert again.workers == 0
    assert versions(settings, shop) == {
        name: load(f"{settings.lake}/{shop.name}/raw/{name}").version() for name in shop.streams
    }


def test_order_by_key_is_kept(settings: Settings, shop: UseCase) -> None:
    replay(shop, settings)
    send(settings, shop, *[event(n, order_id="o1", event_id=f"placed-{9000 + n}", pieces=n) for n in range(1, 60)])
    drain(shop, settings, workers=1, batch_events=25)
    rows = read_raw(settings, shop, "placed").sort_by([(n, "ascending") for n in ("_partition", "_offset")]).to_pylist()
    ours = [row["pieces"] for row in rows if row["order_id"] == "o1" and row["event_id"] != "placed-1"]
    assert ours == list(range(1, 60))
    check(shop, settings)


def test_the_same_replay_is_not_sent_twice_and_another_is(settings: Settings, shop: UseCase) -> None:
    first = replay(shop, settings)
    again = replay(shop, settings)
    assert (again.reused, again.sent, again.produced, again.streams) == (True, 0, first.produced, first.streams)
    other = replay(shop, settings, seed=8)
    assert not other.reused
    report = drain(shop, settings, workers=1)
    check(shop, settings)
    # Every event of the second replay was there already.
    assert report.streams["placed"].landed == first.streams["placed"].events


def test_a_replay_that_was_cut_short_is_completed(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Publisher.send, []

    def cut(self: Publisher, topic: str, messages: list[dict[str, Any]]) -> None:
        calls.append(topic)
        if len(calls) > 3:
            raise KeyboardInterrupt
        real(self, topic, messages)

    monkeypatch.setattr("fasttrack.ingest.replay._BLOCK", 100)
    monkeypatch.setattr(Publisher, "send", cut)
    with pytest.raises(KeyboardInterrupt):
        replay(shop, settings)
    monkeypatch.setattr(Publisher, "send", real)
    report = replay(shop, settings)
    assert 0 < report.sent < report.produced
    assert replay(shop, settings).reused
    drain(shop, settings, workers=1)
    assert check(shop, settings) == report.produced


def test_a_cut_replay_that_somebody_wrote_into_begins_anew(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Publisher, topic: str, messages: list[dict[str, Any]]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Publisher, "send", cut)
    with pytest.raises(KeyboardInterrupt):
        replay(shop, settings)
    monkeypatch.undo()
    monkeypatch.setattr(ingest_usecase, "ORDERS", 600)
    send(settings, shop, event(7777))
    report = replay(shop, settings)
    assert report.sent == report.produced
    assert drain(shop, settings, workers=1).streams["placed"].landed == 601


def test_a_rate_is_kept_to(settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("fasttrack.ingest.replay.time", clock)
    report = replay(shop, settings, rate=500.0)
    assert clock.now == pytest.approx(report.produced / 500.0)


def test_a_topic_made_again_is_somebody_else(settings: Settings, shop: UseCase) -> None:
    first = replay(shop, settings)
    drain(shop, settings, workers=1)
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    broker, names = Broker(settings.kafka), [shop.topic(name) for name in shop.streams]
    old = broker.require(names)
    for future in admin.delete_topics(names).values():
        future.result(30)
    while broker.topics(names):
        pass
    second = replay(shop, settings)
    assert not second.reused
    new = broker.require(names)
    assert {t.id for t in new.values()}.isdisjoint(t.id for t in old.values())
    report = drain(shop, settings, workers=1)
    assert sum(s.events for s in report.streams.values()) == first.produced
    assert sum(s.landed for s in report.streams.values()) == 0
    outcome = reconcile(shop, settings)
    assert outcome.balanced
    assert outcome.total.produced == first.produced
    for name in shop.streams:
        offsets = [at for at, _ in actual(shop, settings, name, new[shop.topic(name)].id)]
        assert len(offsets) == len(set(offsets)) == report.streams[name].events


def test_offsets_that_are_gone_stop_it_loudly(settings: Settings, shop: UseCase) -> None:
    replay(shop, settings)
    drain(shop, settings, workers=1)
    send(settings, shop, *[event(n) for n in range(7000, 7050)])
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    high = Broker(settings.kafka).offsets(Broker(settings.kafka).require([shop.topic("placed")]))[
        shop.topic("placed"), 0
    ]
    for future in admin.delete_records([TopicPartition(shop.topic("placed"), 0, high.latest - 10)]).values():
        future.result(30)
    with pytest.raises(DataLossError, match="partition 0"):
        drain(shop, settings, workers=1)
    assert load(f"{settings.lake}/{shop.name}/raw/placed").version() >= 0


@pytest.mark.parametrize("astray", [10**9, OFFSET_STORED])
def test_a_client_that_lost_its_place_is_given_it_again(settings: Settings, shop: UseCase, astray: int) -> None:
    sent = replay(shop, settings)
    cluster, topics = Broker(settings.kafka).cluster_id(), Broker(settings.kafka).topics
    by_stream = {name: topics([shop.topic(name)])[shop.topic(name)] for name in shop.streams}
    assert landed(settings, shop) == 0
    worker = Worker(Job(shop, settings, cluster, by_stream, {}, f"astray-{shop.name}", 6.0, 10_000))
    opened = worker._open

    def misplace(at: tuple[str, int]) -> int:
        opened(at)
        # No such offset, for the broker nor in the group: the client then says what it says of lost events.
        return astray

    worker._open = misplace  # type: ignore[method-assign]
    running = threading.Thread(target=worker.run)
    running.start()
    deadline = time.monotonic() + 60
    while landed(settings, shop) < sent.produced and running.is_alive() and time.monotonic() < deadline:
        time.sleep(0.2)
    worker.stop.set()
    running.join()
    assert check(shop, settings) == sent.produced


def test_a_gap_and_a_repeat_are_named(drained: tuple[Settings, UseCase], settings: Settings) -> None:
    shop = drained[1]
    shutil.copytree(drained[0].lake, settings.lake)
    table = load(f"{settings.lake}/{shop.name}/raw/placed")
    row = table.to_pyarrow_table().sort_by("_offset").slice(40, 1)
    at = (row["_partition"][0].as_py(), row["_offset"][0].as_py())
    table.delete(f"_partition = {at[0]} and _offset = {at[1]}")
    lost = reconcile(shop, settings)
    assert not lost.balanced
    assert [(f.stream, f.partition, f.first, f.last) for f in lost.gaps] == [("placed", *at, at[1])]
    for _ in range(2):
        write_deltalake(table.table_uri, row, mode="append")
    twice = reconcile(shop, settings)
    assert not twice.balanced
    assert [(f.stream, f.partition, f.first, f.last) for f in twice.repeats] == [("placed", *at, at[1])]


def test_dead_letters_keep_their_bytes_and_their_reason(drained: tuple[Settings, UseCase]) -> None:
    settings, shop = drained
    dead = read(dead_letters_path(settings, shop)).to_pylist()
    reasons = {row["reason"] for row in dead}
    assert reasons == {"truncated JSON", "wrong type", "out of range", "not JSON", "unknown schema id", "invalid UTF-8"}
    assert all(row["detail"] and row["contract_version"] and row["value"] for row in dead)


def test_too_many_dead_letters_fail_the_validation(drained: tuple[Settings, UseCase]) -> None:
    settings, shop = drained
    assert validate(shop, settings).streams["placed"].fields["amount"].maximum == pytest.approx(299.5)
    strict = shop.model_copy(update={"quality": shop.quality.model_copy(update={"max_dead_letters": 0.001})})
    with pytest.raises(DataQualityError, match="dead letters"):
        validate(strict, settings)


def test_a_topic_with_other_partitions_is_a_conflict(drained: tuple[Settings, UseCase]) -> None:
    settings, shop = drained
    streams = dict(shop.streams) | {"placed": shop.streams["placed"].model_copy(update={"partitions": 5})}
    with pytest.raises(ConflictError, match="has 3 partitions"):
        replay(shop.model_copy(update={"streams": streams}), settings)


def test_a_drain_without_topics_says_so(settings: Settings, shop: UseCase) -> None:
    with pytest.raises(NotFoundError, match="replay"):
        drain(shop, settings, workers=1)


def test_an_unreachable_broker_is_named(settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "GREETING_SECONDS", 0.5)
    nowhere = replace(settings, kafka="127.0.0.1:9")
    for command in (drain, replay, reconcile):
        with pytest.raises(UnavailableError, match=r"Kafka broker does not answer \(Connection refused"):
            command(shop, nowhere)


def test_an_unreachable_registry_is_named(settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasttrack.ingest.schemas._PATIENCE_SECONDS", 0.5)
    with pytest.raises(UnavailableError, match="schema registry does not answer"):
        replay(shop, replace(settings, schema_registry="http://127.0.0.1:9"))


def test_a_lake_that_can_not_be_written_is_a_storage_error(drained: tuple[Settings, UseCase], tmp_path: Path) -> None:
    settings, shop = drained
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="storage refused"):
        drain(shop, replace(settings, lake=str(tmp_path / "file")))
