"""Avro streams and evolving contracts with a real broker and schema registry."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from fasttrack.errors import ConflictError
from fasttrack.ingest.avro import avro_schema
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.damage import AVRO_KINDS
from fasttrack.ingest.drain import drain
from fasttrack.ingest.encode import conform, keys, values
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.ingest.schemas import known, register
from fasttrack.lake.tables import dead_letters_path, read, read_raw
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.integration.drain_oracle import check
from tests.unit import ingest_usecase
from tests.unit.typed_events import event


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 400)
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


def shop(name: str, encoding: str, changes: dict[str, str] | None = None) -> UseCase:
    """The shop with all streams in an encoding, and parts of its text replaced."""
    text = ingest_usecase.YAML.format(name=name, partitions=2, source="tests.unit.ingest_usecase:events")
    for old, new in {
        "    event_id: event_id\n": f"    event_id: event_id\n    encoding: {encoding}\n",
        **(changes or {}),
    }.items():
        assert old in text
        text = text.replace(old, new)
    return parse(text)


@pytest.fixture
def name() -> str:
    return f"shop-{uuid.uuid4().hex[:8]}"


def send(settings: Settings, case: UseCase, *events: dict[str, Any]) -> None:
    """Send events of stream ``placed`` as the replay encodes them."""
    stream, schema_id = case.streams["placed"], register(settings, case, "placed")
    Broker(settings.kafka).create({case.topic(n): s.partitions for n, s in case.streams.items()})
    fields = {n: pa.array([one.get(n) for one in events]) for n in stream.fields}
    table = conform(stream, pa.table(fields), "test")
    producer = Producer({"bootstrap.servers": settings.kafka})
    for value, key in zip(values(stream, table, schema_id).to_pylist(), keys(stream, table).to_pylist(), strict=True):
        producer.produce(case.topic("placed"), value, key, 0)
    assert producer.flush(30) == 0


def numbered(number: int, **changes: Any) -> dict[str, Any]:
    return event(event_id=f"placed-{number}", order_id=f"o{number}", **changes)


def test_an_avro_stream_is_replayed_drained_and_reconciled(settings: Settings, name: str) -> None:
    case = shop(name, "avro")
    sent = replay(case, settings)
    report = drain(case, settings, workers=1, batch_events=150)
    assert check(case, settings) == sent.produced == sum(s.events for s in report.streams.values())
    for stream, counts in report.streams.items():
        assert (counts.landed, counts.dead_letters) == (sent.streams[stream].events, sent.streams[stream].malformed)
        assert counts.duplicates == sent.streams[stream].duplicates
    assert reconcile(case, settings).balanced
    dead = read(dead_letters_path(settings, case)).to_pylist()
    named = {"truncated": "truncated Avro", "wrong schema id": "unknown schema id"}
    assert {row["reason"] for row in dead} == {named.get(kind, kind) for kind in AVRO_KINDS}
    assert replay(case, settings).reused


def test_what_avros_own_serializer_sends_is_drained(settings: Settings, name: str) -> None:
    case = shop(name, "avro")
    send(settings, case, numbered(1))
    client = SchemaRegistryClient({"url": settings.schema_registry})
    schema = json.dumps(avro_schema(case.streams["placed"]))
    serializer = AvroSerializer(client, schema)
    value = serializer(numbered(2), SerializationContext(case.topic("placed"), MessageField.VALUE))
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(case.topic("placed"), value, b"o2", 0)
    assert producer.flush(30) == 0
    assert len(known(settings, case, "placed")) == 1
    assert drain(case, settings, workers=1).streams["placed"].landed == 2
    check(case, settings)


#: A contract's next version: one nullable field more, and one that was required may be null.
EVOLVED = {
    "      gift: {type: boolean}\n": "      gift: {type: boolean, nullable: true}\n"
    "      coupon: {type: string, nullable: true, max_length: 8}\n"
}


@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_messages_of_two_versions_are_drained_together(settings: Settings, name: str, encoding: str) -> None:
    old, new = shop(name, encoding), shop(name, encoding, EVOLVED)
    send(settings, old, *(numbered(n) for n in range(50)))
    send(settings, new, *(numbered(n, coupon=f"c{n}", gift=None) for n in range(50, 100)))
    send(settings, new, numbered(100, coupon="much too long"))
    assert len(known(settings, new, "placed")) == 2
    report = drain(new, settings, workers=1).streams["placed"]
    assert (report.landed, report.dead_letters) == (100, 1)
    rows = {row["event_id"]: (row["coupon"], row["gift"]) for row in read_raw(settings, new, "placed").to_pylist()}
    expected = {f"placed-{n}": (None, True) if n < 50 else (f"c{n}", None) for n in range(100)}
    assert rows == expected
    check(new, settings)
    # The older contract's producer goes on: its version is there.
    assert register(settings, old, "placed") in known(settings, new, "placed")


@pytest.mark.parametrize("encoding", ["json", "avro"])
def test_a_lake_grows_with_its_contract(settings: Settings, name: str, encoding: str) -> None:
    old, new = shop(name, encoding), shop(name, encoding, EVOLVED)
    send(settings, old, numbered(1))
    drain(old, settings, workers=1)
    send(settings, new, numbered(2, coupon="c2"))
    drain(new, settings, workers=1)
    rows = {row["event_id"]: row["coupon"] for row in read_raw(settings, new, "placed").to_pylist()}
    assert rows == {"placed-1": None, "placed-2": "c2"}


@pytest.mark.parametrize("encoding", ["json", "avro"])
@pytest.mark.parametrize(
    "changes",
    [
        {"      gift: {type: boolean}\n": ""},
        {"      gift: {type: boolean}\n": "      gift: {type: string}\n"},
        {"      gift: {type: boolean}\n": "      gift: {type: boolean}\n      coupon: {type: string}\n"},
        {"serial: {type: integer, nullable: true}": "serial: {type: integer}"},
        {"serial: {type: integer, nullable: true}": "serial: {type: timestamp, nullable: true}"},
    ],
    ids=["removed", "other type", "new and required", "no longer null", "number to moment"],
)
def test_an_incompatible_change_is_refused_with_its_cure(
    settings: Settings, name: str, encoding: str, changes: dict[str, str]
) -> None:
    old, new = shop(name, encoding), shop(name, encoding, changes)
    number = register(settings, old, "placed")
    with pytest.raises(ConflictError) as caught:
        register(settings, new, "placed")
    assert "adding nullable fields" in caught.value.fix
    assert known(settings, new, "placed").keys() == {number}


def test_another_encoding_needs_another_topic(settings: Settings, name: str) -> None:
    register(settings, shop(name, "json"), "placed")
    with pytest.raises(ConflictError, match="no Avro record"):
        register(settings, shop(name, "avro"), "placed")
