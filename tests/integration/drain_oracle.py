"""The judge of a drain: reads Kafka and the lake by itself, and compares them offset by offset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, TopicPartition
from deltalake import DeltaTable

from fasttrack.ingest.checkers import row_checker
from fasttrack.ingest.rowcheck import Rejected
from fasttrack.ingest.schemas import known
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase


def messages(settings: Settings, topic: str, partition: int) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """Offset, key and value of every message of a partition; a transaction leaves offsets that have none."""
    ends = {"enable.partition.eof": True, "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = Consumer({"bootstrap.servers": settings.kafka, "group.id": "oracle", **ends})
    try:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        consumer.assign([TopicPartition(topic, partition, low)])
        at = low
        while True:
            for message in consumer.consume(1000, 1.0):
                error, offset = message.error(), message.offset()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF
                    return
                assert offset is not None and offset >= at
                at = offset + 1
                yield offset, message.key(), message.value()
    finally:
        consumer.close()


def expected(usecase: UseCase, settings: Settings, stream: str) -> dict[tuple[int, int], tuple[str, Any]]:
    """By partition and offset: ``landed`` with the event, ``duplicate`` with its id, or ``dead`` with key and value."""
    contract = usecase.streams[stream]
    checker, schemas = row_checker(contract), known(settings, usecase, stream)
    found: dict[tuple[int, int], tuple[str, Any]] = {}
    seen: set[str] = set()
    for partition in range(contract.partitions):
        for offset, key, value in messages(settings, usecase.topic(stream), partition):
            try:
                event = checker.check(value, key, schemas)
            except Rejected:
                found[partition, offset] = ("dead", (key, value))
                continue
            name = event[contract.event_id]
            found[partition, offset] = ("duplicate", name) if name in seen else ("landed", event)
            seen.add(name)
    return found


def actual(usecase: UseCase, settings: Settings, stream: str, topic_id: str | None = None) -> list[tuple[Any, Any]]:
    """The same from the lake, as a list, so that what stands there twice is seen twice."""
    root = f"{settings.lake}/{usecase.name}"
    fields = list(usecase.streams[stream].fields)

    def rows(path: str, column: str) -> list[dict[str, Any]]:
        table: pa.Table = DeltaTable(path).to_pyarrow_table()
        return [row for row in table.to_pylist() if topic_id in (None, row[column])]

    found: list[tuple[Any, Any]] = []
    for row in rows(f"{root}/raw/{stream}", "_topic_id"):
        found.append(((row["_partition"], row["_offset"]), ("landed", {name: row[name] for name in fields})))
    for row in rows(f"{root}/duplicates", "topic_id"):
        if row["stream"] == stream:
            found.append(((row["partition"], row["offset"]), ("duplicate", row["event_id"])))
    for row in rows(f"{root}/dead_letters", "topic_id"):
        if row["stream"] == stream:
            found.append(((row["partition"], row["offset"]), ("dead", (row["key"], row["value"]))))
    return found


def check(usecase: UseCase, settings: Settings) -> int:
    """Assert that every message is in the lake exactly once and as it was sent; how many there are."""
    total = 0
    for stream in usecase.streams:
        wanted, got = expected(usecase, settings, stream), actual(usecase, settings, stream)
        offsets = [at for at, _ in got]
        assert len(offsets) == len(set(offsets)), f"{stream}: written twice"
        lost, invented = sorted(set(wanted) - set(offsets)), sorted(set(offsets) - set(wanted))
        assert not lost, f"{stream}: lost {len(lost)}, the first at partition and offset {lost[:5]}"
        assert not invented, f"{stream}: never sent {len(invented)}, the first at partition and offset {invented[:5]}"
        assert dict(got) == wanted, f"{stream}: not as it was sent"
        total += len(wanted)
    return total
