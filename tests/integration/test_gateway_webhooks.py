"""Webhooks into a real Kafka: what is answered with 202 is there, once, and the drain judges it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.lake.tables import dead_letters_path, read, read_raw
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.integration.source_oracle import sent, wait_for
from tests.unit.gateway_harness import Running, gateway, until
from tests.unit.ingest_usecase import YAML, event
from tests.unit.webhook_sender import SECRET, Sender

ROOT = Path(__file__).parents[2]
HOOK = {"kind": "webhook", "stream": "placed", "secret_env": "TEST_HOOK_SECRET", "max_bytes": 2_000_000}


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture(params=["json", "avro"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> UseCase:
    text = YAML.format(name=f"shop-{uuid.uuid4().hex[:8]}", partitions=3, source="tests.unit.ingest_usecase:events")
    text = text.replace("    event_id: event_id\n", f"    event_id: event_id\n    encoding: {request.param}\n")
    file = tmp_path / "usecases" / "shop.yaml"
    file.parent.mkdir()
    text += "serving: {rate_limit: {requests: 1000000, burst: 100000}}\n"
    file.write_text(text + f"sources: {json.dumps({'hook': HOOK})}\n")
    return load(file)


@pytest.fixture
def running(settings: Settings, case: UseCase, tmp_path: Path) -> Iterator[Running]:
    places = {"kafka": settings.kafka, "schema_registry": settings.schema_registry}
    with gateway(tmp_path, list, usecases=str(tmp_path / "usecases"), webhook_seconds=20.0, **places) as it:
        yield it


@pytest.fixture
def sender(running: Running, case: UseCase) -> Sender:
    return Sender(running.port, f"/v1/usecases/{case.name}/webhooks/hook")


def good(number: int, **changes: Any) -> dict[str, Any]:
    return event(number, **{"order_id": f"o{number % 7}"} | changes)


def landed(case: UseCase, settings: Settings) -> tuple[list[str], list[dict[str, Any]]]:
    """Drain; the event ids in the lake, and the dead letters."""
    Broker(settings.kafka).create({case.topic(name): stream.partitions for name, stream in case.streams.items()})
    drain(case, settings, workers=1)
    assert reconcile(case, settings).balanced
    path = dead_letters_path(settings, case)
    dead = read(path).to_pylist()
    return [row["event_id"] for row in read_raw(settings, case, "placed").to_pylist()], dead


def test_events_one_by_one_and_in_batches_land_once(case: UseCase, settings: Settings, sender: Sender) -> None:
    for number in range(5):
        status, _, answer = sender.send(f"one-{number}", good(number))
        assert (status, answer["events"], answer["redelivered"]) == (202, 1, False)
    # Large enough to be dealt with in a thread.
    status, _, answer = sender.send("many", [good(n) for n in range(5, 1000)])
    assert (status, answer["events"]) == (202, 995)
    assert sender.send("none", [])[2]["events"] == 0
    found = sent(settings, case, "placed")
    assert {m.source for m in found} == {f"hook:one-{n}" for n in range(5)} | {f"hook:many.{n}" for n in range(995)}
    ids, dead = landed(case, settings)
    assert sorted(ids) == sorted(f"placed-{n}" for n in range(1000)) and not dead
    rows = read_raw(settings, case, "placed").to_pylist()
    for key in {row["order_id"] for row in rows}:
        of_key = sorted((r["_partition"], r["_offset"], int(r["event_id"][7:])) for r in rows if r["order_id"] == key)
        assert len({partition for partition, *_ in of_key}) == 1
        assert [number for *_, number in of_key] == sorted(number for *_, number in of_key)


def test_a_redelivery_is_answered_without_sending_twice(case: UseCase, settings: Settings, sender: Sender) -> None:
    assert sender.send("msg", good(1))[2]["redelivered"] is False
    status, _, answer = sender.send("msg", good(1))
    assert (status, answer["events"], answer["redelivered"]) == (202, 1, True)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: sender.send("at-once", good(2)), range(8)))
    assert [status for status, *_ in answers] == [202] * 8
    assert sum(not answer["redelivered"] for *_, answer in answers) == 1
    # A sender that uses an id twice loses nothing.
    assert sender.send("msg", good(3))[2]["redelivered"] is False
    assert len(sent(settings, case, "placed")) == 3
    assert sorted(landed(case, settings)[0]) == ["placed-1", "placed-2", "placed-3"]


def test_what_breaks_the_contract_is_taken_in_and_becomes_a_dead_letter(
    case: UseCase, settings: Settings, sender: Sender
) -> None:
    keyless = {name: value for name, value in good(2).items() if name != "order_id"}
    bad = [keyless, good(3, pieces="many"), 17, "text", good(4, city="Atlantis"), good(5, serial=2**70), {}]
    status, _, answer = sender.send("mixed", [good(1), *bad, good(9)])
    assert (status, answer["events"]) == (202, 9)
    ids, dead = landed(case, settings)
    assert sorted(ids) == ["placed-1", "placed-9"]
    assert len(dead) == len(bad)
    raw = b" ".join(row["value"] for row in dead)
    assert b"17" in raw and b'"text"' in raw and str(2**70).encode() in raw


def test_what_is_refused_sends_nothing(case: UseCase, settings: Settings, sender: Sender, running: Running) -> None:
    assert sender.send("first", good(1))[0] == 202
    assert sender.send("broken", b'{"event_id": ')[0] == 400
    status, _, answer = sender.send("large", good(2, code="x" * 1_500_000))
    assert (status, answer["title"]) == (413, "Request Entity Too Large")
    # The producer goes on after it.
    assert sender.send("after", good(3))[0] == 202
    assert {m.source for m in sent(settings, case, "placed")} == {"hook:first", "hook:after"}
    until(lambda: running.app.parts.webhooks.held == 0)
    text = running.ask("GET", "/metrics").body.decode()
    labels = f'source="hook",usecase="{case.name}"'
    assert f"fasttrack_gateway_webhook_events_total{{{labels}}} 2.0" in text
    for outcome, count in (("accepted", 2), ("malformed", 1), ("too_large", 1)):
        assert f'fasttrack_gateway_webhooks_total{{outcome="{outcome}",{labels}}} {count}.0' in text


def test_a_topic_that_is_deleted_and_made_again_is_found_again(
    case: UseCase, settings: Settings, sender: Sender
) -> None:
    assert sender.send("first", good(1))[0] == 202
    topic = case.topic("placed")
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: not Broker(settings.kafka).topics([topic]), "the topic's end")
    Broker(settings.kafka).create({topic: 3})
    wait_for(lambda: sender.send("second", good(2))[0] == 202, "the new topic")
    assert [m.source for m in sent(settings, case, "placed")] == ["hook:second"]


class Fatal:
    """A producer with a fatal error, which librdkafka makes only by mistakes of a broker's."""

    def __init__(self, real: Producer) -> None:
        self.poll, self.flush, self.purge = real.poll, real.flush, real.purge

    def produce(self, *_: Any, **__: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "test", fatal=True))


def test_a_producer_with_a_fatal_error_is_replaced(
    case: UseCase, settings: Settings, sender: Sender, running: Running
) -> None:
    assert sender.send("first", good(1))[0] == 202
    deliveries = running.app.parts.webhooks._deliveries
    assert deliveries is not None
    deliveries._link.producer = Fatal(deliveries._link.producer)  # type: ignore[assignment]
    status, headers, _ = sender.send("second", good(2))
    assert (status, headers["retry-after"]) == (503, "5")
    assert sender.send("second", good(2))[0] == 202
    assert {m.source for m in sent(settings, case, "placed")} == {"hook:first", "hook:second"}
