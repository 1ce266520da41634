"""The schema registry as Confluent's own client sees it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from fasttrack.local.platform import Platform


@pytest.fixture
def client(platform: Platform) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": platform.settings().schema_registry})


@pytest.fixture
def subject() -> Iterator[str]:
    return f"subject-{uuid.uuid4().hex[:8]}-value"


def contract(**properties: object) -> Schema:
    text = {"type": "object", "properties": properties, "required": ["id"], "additionalProperties": False}
    return Schema(json.dumps(text), "JSON")


OLD = contract(id={"type": "string"})
WITH_NULLABLE = contract(id={"type": "string"}, gate={"type": ["string", "null"]})
OTHER_TYPE = contract(id={"type": "integer"})


def code_of(raised: pytest.ExceptionInfo[SchemaRegistryError]) -> tuple[int, int]:
    return raised.value.http_status_code, raised.value.error_code


def test_register_is_idempotent_and_ids_are_shared(client: SchemaRegistryClient, subject: str) -> None:
    number = client.register_schema(subject, OLD)
    assert client.register_schema(subject, contract(id={"type": "string"})) == number
    assert client.register_schema(f"other-{subject}", OLD) == number
    assert client.get_versions(subject) == [1]
    assert json.loads(client.get_schema(number).schema_str or "") == json.loads(OLD.schema_str or "")
    assert {subject, f"other-{subject}"} <= set(client.get_subjects())
    assert client.lookup_schema(subject, OLD).version == 1


def test_nullable_fields_may_be_added_and_types_not_changed(client: SchemaRegistryClient, subject: str) -> None:
    first = client.register_schema(subject, OLD)
    assert client.test_compatibility(subject, WITH_NULLABLE)
    second = client.register_schema(subject, WITH_NULLABLE)
    assert second != first
    assert client.get_latest_version(subject).version == 2
    assert not client.test_compatibility(subject, OTHER_TYPE)
    with pytest.raises(SchemaRegistryError, match="/id: type string is no longer allowed") as refused:
        client.register_schema(subject, OTHER_TYPE)
    assert code_of(refused) == (409, 409)
    client.set_compatibility(subject, "NONE")
    assert client.register_schema(subject, OTHER_TYPE) not in (first, second)


def test_avro_follows_its_resolution_rules(client: SchemaRegistryClient, subject: str) -> None:
    def record(*fields: dict[str, object]) -> Schema:
        return Schema(json.dumps({"type": "record", "name": "event", "fields": list(fields)}), "AVRO")

    number: dict[str, object] = {"name": "n", "type": "int"}
    wider: dict[str, object] = {"name": "n", "type": "long"}
    client.register_schema(subject, record(number))
    client.register_schema(subject, record(wider, {"name": "s", "type": ["null", "string"], "default": None}))
    with pytest.raises(SchemaRegistryError, match="has no default") as refused:
        client.register_schema(subject, record(wider, {"name": "new", "type": "string"}))
    assert code_of(refused) == (409, 409)


def test_errors_have_confluents_codes(client: SchemaRegistryClient, subject: str) -> None:
    with pytest.raises(SchemaRegistryError) as unknown_subject:
        client.get_latest_version(subject)
    with pytest.raises(SchemaRegistryError) as unknown_id:
        client.get_schema(999_999)
    with pytest.raises(SchemaRegistryError) as invalid:
        client.register_schema(subject, Schema('{"type": "no such type"}', "JSON"))
    client.register_schema(subject, OLD)
    with pytest.raises(SchemaRegistryError) as unknown_version:
        client.get_version(subject, 9)
    with pytest.raises(SchemaRegistryError) as unknown_schema:
        client.lookup_schema(subject, WITH_NULLABLE)
    with pytest.raises(SchemaRegistryError) as no_level:
        client.set_compatibility(subject, "SOMETIMES")
    assert [code_of(e) for e in (unknown_subject, unknown_id, invalid, unknown_version, unknown_schema, no_level)] == [
        (404, 40401), (404, 40403), (422, 42201), (404, 40402), (404, 40403), (422, 42203),
    ]  # fmt: skip


def test_deleted_subjects_keep_their_ids_readable(client: SchemaRegistryClient, subject: str) -> None:
    number = client.register_schema(subject, OLD)
    assert client.delete_subject(subject) == [1]
    assert subject not in client.get_subjects()
    assert client.get_schema(number).schema_type == "JSON"
    assert client.delete_subject(subject, permanent=True) is not None


def test_confluents_json_serializer_works_with_it(client: SchemaRegistryClient, subject: str) -> None:
    topic = subject.removesuffix("-value")
    context = SerializationContext(topic, MessageField.VALUE)
    data = JSONSerializer(OLD.schema_str or "", client)({"id": "x"}, context)
    assert data is not None
    assert data[0] == 0
    assert int.from_bytes(data[1:5], "big") == client.get_latest_version(subject).schema_id
    assert JSONDeserializer(OLD.schema_str or "", schema_registry_client=client)(data, context) == {"id": "x"}


def test_schemas_outlive_a_restart(platform: Platform, client: SchemaRegistryClient, subject: str) -> None:
    number = client.register_schema(subject, OLD)
    client.set_compatibility(subject, "FULL")
    processes = platform._processes
    assert processes is not None
    run = processes.get("schema_registry")
    processes.stop(["schema_registry"])
    processes.start(run.part)
    fresh = SchemaRegistryClient({"url": platform.settings().schema_registry})
    assert fresh.register_schema(subject, OLD) == number
    assert fresh.get_compatibility(subject) == "FULL"
    assert fresh.register_schema(f"next-{subject}", WITH_NULLABLE) > number
