"""Debezium in Strimzi's Kafka Connect as the reader of a table's changes, and what it can't do for a stream."""

from __future__ import annotations

import re

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.sources.slotname import slot_name
from fasttrack.kubeflow import kafka_objects, pods
from fasttrack.kubeflow.kafka_objects import CLUSTER_LABEL
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import PostgresReplicationSource, Source

CONNECTOR = "io.debezium.connector.postgresql.PostgresConnector"
_TRANSFORMS = "org.apache.kafka.connect.transforms"
# What the ingester gives with each change, and Debezium gives in another form or not at all.
_PSEUDO = ("_change", "_change_id", "_lsn", "_committed_at")
_OPERATIONS = {"insert": "c", "update": "u", "delete": "d"}
# Debezium takes tables and columns as lists of regular expressions.
_PLAIN = re.compile(r"[\w .-]+")
_OWN = "Set `connector: false`, so that FastTrack's own ingester reads the table."


def is_connector(source: Source) -> bool:
    """Whether a connector reads it on a cluster."""
    return isinstance(source, PostgresReplicationSource) and source.connector


def connector(usecase: UseCase, name: str, source: PostgresReplicationSource, namespace: str, connect: str) -> Object:
    """The KafkaConnector of a source.

    Args:
        usecase: the use case.
        name: the source's.
        source: its declaration.
        namespace: of the connector.
        connect: name of the Strimzi KafkaConnect.

    Raises:
        ConfigurationError: a connector can't give the stream's events, or would spoil their order.
    """
    _check(usecase, name, source)
    made = pods.metadata(object_name(f"{usecase.name}-source-{name}"), namespace, "source", usecase)
    made["labels"][CLUSTER_LABEL] = connect
    spec = {
        "class": CONNECTOR,
        # A slot has one reader.
        "tasksMax": 1,
        "autoRestart": {"enabled": True},
        "config": _debezium(usecase, name, source) | _transforms(usecase, source) | _converters(),
    }
    return {"apiVersion": kafka_objects.API, "kind": "KafkaConnector", "metadata": made, "spec": spec}


def _check(usecase: UseCase, name: str, source: PostgresReplicationSource) -> None:
    stream, where = usecase.streams[source.stream], f"sources.{name}"
    if stream.encoding == "avro":
        raise ConfigurationError(
            f"a connector can't write stream {source.stream!r}: Connect's Avro has no times of microseconds, which the "
            "contract's schema has.", where=f"{where}.connector", fix=f"{_OWN} Or let the stream be JSON.",
        )  # fmt: skip
    beside = (other for other, it in usecase.sources.items() if it.stream == source.stream and not is_connector(it))
    if (other := next(beside, None)) is not None:
        raise ConfigurationError(
            f"source {other!r} writes to stream {source.stream!r}, too: Connect puts a key into another partition than "
            "FastTrack does, so that its events would lose their order, and their duplicates would not be found.",
            where=f"{where}.connector", fix=f"{_OWN} Or give one of the two another stream.",
        )  # fmt: skip
    for key, text in [("table", source.table), *(("keys", column) for column in source.keys)]:
        if not _PLAIN.fullmatch(text):
            raise ConfigurationError(f"Debezium would not find {text!r}.", where=f"{where}.{key}", fix=_OWN)
    seen: dict[str, str] = {}
    for field, path in _paths(usecase, source).items():
        if path in _PSEUDO or "." in path or "," in f"{path}{field}" or ":" in f"{path}{field}":
            raise ConfigurationError(f"a connector can't give {path!r}.", where=f"{where}.fields.{field}", fix=_OWN)
        if (twin := seen.setdefault(path, field)) != field:
            raise ConfigurationError(
                f"a connector can give {path!r} only once, and {twin!r} has it.", where=f"{where}.fields.{field}",
                fix=_OWN,
            )  # fmt: skip
    for field, value in source.constants.items():
        if not isinstance(value, str):
            raise ConfigurationError(
                f"a connector can only give texts, not {value!r}.", where=f"{where}.constants.{field}", fix=_OWN
            )


def _paths(usecase: UseCase, source: PostgresReplicationSource) -> dict[str, str]:
    fields = usecase.streams[source.stream].fields
    return {field: source.fields.get(field, field) for field in fields if field not in source.constants}


def _debezium(usecase: UseCase, name: str, source: PostgresReplicationSource) -> dict[str, str]:
    table = source.table if "." in source.table else f"public.{source.table}"
    slot = source.slot or slot_name(usecase.name, name)
    skipped = [code for change, code in _OPERATIONS.items() if change not in source.changes]
    variable = source.connection_env
    # No heartbeats: they take the way of the events, whose fields they lack, and would stop the connector.
    return {
        "database.hostname": f"${{env:{variable}_HOST}}",
        "database.port": f"${{env:{variable}_PORT}}",
        "database.user": f"${{env:{variable}_USER}}",
        "database.password": f"${{env:{variable}_PASSWORD}}",
        "database.dbname": f"${{env:{variable}_NAME}}",
        "topic.prefix": f"{usecase.name}.{object_name(name)}",
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "publication.name": slot,
        "publication.autocreate.mode": "filtered",
        "table.include.list": table,
        "message.key.columns": f"{table}:{','.join(source.keys)}",
        "snapshot.mode": "initial" if source.snapshot else "no_data",
        "skipped.operations": ",".join([*skipped, "t"]),
        "tombstones.on.delete": "false",
        "decimal.handling.mode": "double",
        "time.precision.mode": "isostring",
    }


def _transforms(usecase: UseCase, source: PostgresReplicationSource) -> dict[str, str]:
    """From Debezium's envelope to the event: unwrapped, renamed, into the stream's topic, by the stream's key."""
    stream, paths = usecase.streams[source.stream], _paths(usecase, source)
    steps: dict[str, dict[str, str]] = {
        "unwrap": {
            "type": "io.debezium.transforms.ExtractNewRecordState",
            "delete.tombstone.handling.mode": "rewrite" if "delete" in source.changes else "drop",
        },
        "pick": {
            "type": f"{_TRANSFORMS}.ReplaceField$Value",
            "include": ",".join(sorted(set(paths.values()))),
            "renames": ",".join(f"{path}:{field}" for field, path in paths.items() if path != field),
        },
        **{
            f"constant{number}": {
                "type": f"{_TRANSFORMS}.InsertField$Value", "static.field": field, "static.value": str(value),
            }
            for number, (field, value) in enumerate(source.constants.items())
        },
        "key": {"type": f"{_TRANSFORMS}.ValueToKey", "fields": stream.key},
        "bare": {"type": f"{_TRANSFORMS}.ExtractField$Key", "field": stream.key},
        "route": {
            "type": f"{_TRANSFORMS}.RegexRouter", "regex": ".*", "replacement": usecase.topic(source.stream),
        },
    }  # fmt: skip
    config = {"transforms": ",".join(steps)}
    for step, settings in steps.items():
        config |= {f"transforms.{step}.{key}": value for key, value in settings.items() if value}
    return config


def _converters() -> dict[str, str]:
    """Values as JSON with the registry's header, as the drain wants them.

    The contract is registered by `fasttrack ingest` or `fasttrack replay`, never by a connector, and the id of its
    newest version is written. Not strict, and nothing is validated: strict would compare the contract with a schema
    made from the table's columns, which knows neither ranges nor patterns, and refuse all; the drain judges each event.
    """
    return {
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.confluent.connect.json.JsonSchemaConverter",
        "value.converter.schema.registry.url": "${env:FASTTRACK_SCHEMA_REGISTRY}",
        "value.converter.auto.register.schemas": "false",
        "value.converter.use.latest.version": "true",
        "value.converter.latest.compatibility.strict": "false",
        "value.converter.json.fail.invalid.schema": "false",
    }
