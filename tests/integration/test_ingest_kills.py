"""Objects of S3, JSON lines and another topic into a real Kafka, with kill -9 in between: each record exactly once."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from pyarrow.fs import S3FileSystem

from fasttrack.ingest.broker import Broker
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.integration.source_oracle import ROOT, Ingester, Sent, once, sent, wait_for
from tests.object_store import BUCKET, object_store
from tests.unit.ingest_usecase import YAML

SEED = 20130103
ROWS = 4000
KILLS = 3
START = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return platform.settings()


def declare(folder: Path, **sources: dict[str, Any]) -> Path:
    """A use case with sources, as a file."""
    file = folder / "usecase.yaml"
    text = YAML.format(name=f"shop-{uuid.uuid4().hex[:8]}", partitions=3, source="tests.unit.ingest_usecase:events")
    file.write_text(text + "sources: " + json.dumps(sources) + "\n")
    return file


def killed_again_and_again(settings: Settings, file: Path, more: Callable[[], None]) -> None:
    """Ingest with kill -9 at random moments, `more` to come after each, and then to the end."""
    case, moments = load(file), random.Random(SEED)
    for _ in range(KILLS):
        before = {stream: held(settings, case, stream) for stream in case.streams}
        running = Ingester(settings, file)
        for stream in {source.stream for source in case.sources.values()}:
            wait_for(partial(grown, settings, case, stream, before[stream]), f"messages of {stream}", running)
        time.sleep(moments.uniform(0, 0.3))
        running.kill()
        more()
    code, out, err = Ingester(settings, file, until="end").finish()
    assert code == 0, err
    assert json.loads(out)["complete"]


def held(settings: Settings, case: UseCase, stream: str) -> int:
    """How many messages a stream's topic holds."""
    broker = Broker(settings.kafka)
    return sum(span.latest for span in broker.offsets(broker.topics([case.topic(stream)])).values())


def grown(settings: Settings, case: UseCase, stream: str, count: int) -> bool:
    return held(settings, case, stream) > count


def in_order(messages: list[Sent]) -> None:
    """Assert that a key's events follow each other as their numbers do."""
    events = sorted((m.key, m.partition, m.offset, int(m.event["event_id"].split("-")[1])) for m in messages)
    for _, of_key in groupby(events, lambda each: each[0]):
        numbers = [number for *_, number in of_key]
        assert numbers == sorted(numbers)


def order(n: int) -> dict[str, Any]:
    return {"event_id": f"placed-{n}", "order": f"o{n % 50}", "placed_at": START + timedelta(seconds=n),
            "pieces": n % 99 + 1, "amount": n % 997 / 2, "gift": n % 2 == 0}  # fmt: skip


def payment(n: int) -> dict[str, Any]:
    return {"event_id": f"paid-{n}", "order_id": f"o{n % 50}", "paid_at": "2020-01-01T10:00:00Z", "delay": n / 2}


def test_parquet_on_s3_and_json_lines(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = {"kind": "files", "settle": "0s", "poll": "100ms"}, iter(range(100))
    (tmp_path / "in").mkdir()
    orders, payments = [], []

    def more(store: S3FileSystem) -> None:
        number = next(files)
        span = range(number * ROWS, (number + 1) * ROWS)
        table = pa.Table.from_pylist([order(n) for n in span])
        pq.write_table(table, f"{BUCKET}/in/{number:02}.parquet", filesystem=store, row_group_size=1000)
        hidden = tmp_path / "in" / f".{number:02}.jsonl"
        hidden.write_text("".join(json.dumps(payment(n)) + "\n" for n in span))
        hidden.rename(hidden.with_name(f"{number:02}.jsonl"))
        orders.extend(f"orders:{number:02}.parquet:{row + 1}" for row in range(ROWS))
        payments.extend(f"payments:{number:02}.jsonl:{row + 1}" for row in range(ROWS))

    with object_store() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        file = declare(
            tmp_path,
            orders=folder
            | {"stream": "placed", "path": f"s3://{BUCKET}/in", "format": "parquet", "fields": {"order_id": "order"}},
            payments=folder | {"stream": "paid", "path": str(tmp_path / "in"), "format": "jsonl"},
        )
        for _ in range(3):
            more(server.files())
        killed_again_and_again(settings, file, partial(more, server.files()))
    case = load(file)
    once(placed := sent(settings, case, "placed"), orders)
    once(paid := sent(settings, case, "paid"), payments)
    in_order(placed)
    in_order(paid)
    assert {m.event["event_id"]: m.event["amount"] for m in placed} == {
        order(n)["event_id"]: order(n)["amount"] for n in range(len(orders))
    }


def test_another_topic(settings: Settings, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHERS", settings.kafka)
    file = declare(tmp_path, payments={"kind": "stream", "stream": "paid", "connection_env": "OTHERS", "topic": topic})
    producer, numbers = Producer({"bootstrap.servers": settings.kafka}), iter(range(10**6))

    def more() -> None:
        for _ in range(3 * ROWS):
            number = next(numbers)
            # A key has its partition, and its order there.
            producer.produce(topic, json.dumps(payment(number)), f"o{number % 50}", number % 50 % 2)
            producer.poll(0)
        assert producer.flush(60) == 0

    more()
    killed_again_and_again(settings, file, more)
    messages = sent(settings, load(file), "paid")
    wanted = [payment(n)["event_id"] for n in range(next(numbers))]
    assert sorted(m.event["event_id"] for m in messages) == sorted(wanted)
    assert len({m.source for m in messages}) == len(messages)
    in_order(messages)
