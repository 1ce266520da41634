"""What reads a use case's sources on a cluster: an ingester's Deployment each, or a Debezium connector."""

from __future__ import annotations

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.sources.slot import slot_name
from fasttrack.kubeflow import kafka_objects, monitoring, pods
from fasttrack.kubeflow.kafka_objects import CLUSTER_LABEL
from fasttrack.kubeflow.names import LABEL, object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import FilesSource, PostgresReplicationSource, RestSource, Source, WebhookSource

PORT = 9090
CONNECTOR = "io.debezium.connector.postgresql.PostgresConnector"
_COMPONENT = "source"
_SOURCE_LABEL = "fasttrack.ai/source"
_TRANSFORMS = "org.apache.kafka.connect.transforms"
# What the ingester gives with each change, and Debezium gives in another form or not at all.
_PSEUDO = ("_change", "_lsn", "_committed_at")
_OPERATIONS = {"insert": "c", "update": "u", "delete": "d"}


def source_objects(
    usecase: UseCase, *, image: str, namespace: str, kafka_namespace: str, connect: str, monitored: bool
) -> list[Object]:
    """The objects of all sources but webhooks, which the gateway takes in.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: the ingester's.
        namespace: of the ingesters.
        kafka_namespace: of the connectors.
        connect: name of the Strimzi KafkaConnect.
        monitored: make a PodMonitor, too.

    Raises:
        ConfigurationError: a source can't be read on a cluster as it is declared.
    """
    found: list[Object] = []
    readers = False
    for name, source in usecase.sources.items():
        if isinstance(source, WebhookSource):
            continue
        if isinstance(source, PostgresReplicationSource) and source.connector:
            found.append(_connector(usecase, name, source, kafka_namespace, connect))
        else:
            found.append(_deployment(usecase, name, source, image, namespace))
            readers = True
    if readers and monitored:
        found.append(_monitor(usecase, namespace))
    return found


def _deployment(usecase: UseCase, name: str, source: Source, image: str, namespace: str) -> Object:
    if isinstance(source, FilesSource) and not source.path.startswith(("s3://", f"{pods.DATA_PATH}/")):
        raise ConfigurationError(
            f"a pod doesn't see the folder {source.path!r}.", where=f"sources.{name}.path",
            fix=f"Name s3://bucket/prefix or a folder below {pods.DATA_PATH}, or compile with --leave-out sources.",
        )  # fmt: skip
    title = object_name(f"{usecase.name}-source-{name}", LABEL)
    made = pods.metadata(title, namespace, _COMPONENT, usecase)
    mine = {**made["labels"], _SOURCE_LABEL: object_name(name)}
    selector = {pods.USECASE_LABEL: usecase.name, _SOURCE_LABEL: mine[_SOURCE_LABEL]}
    spec = {
        # One at a time: a second one would take the source over from the first.
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": selector},
        "template": {"metadata": {"labels": mine}, "spec": _pod(usecase, name, source, image)},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**made, "labels": mine}, "spec": spec}


def _pod(usecase: UseCase, name: str, source: Source, image: str) -> Object:
    probe = {"httpGet": {"path": "/metrics", "port": "metrics"}}
    mounts = [
        pods.mount("usecase", pods.USECASE_PATH, read_only=True),
        pods.mount("tmp", "/tmp"),  # noqa: S108 - the pod's own
    ]
    volumes = [pods.usecase_volume(usecase), pods.scratch_volume(size="1Gi")]
    if isinstance(source, FilesSource) and source.path.startswith(pods.DATA_PATH):
        mounts.append(pods.mount("data", pods.DATA_PATH, read_only=True))
        volumes.append(pods.data_volume())
    container = {
        "name": "ingest",
        "image": image,
        "args": [
            "ingest",
            "--usecase",
            f"{pods.USECASE_PATH}/{pods.USECASE_FILE}",
            "--until",
            "forever",
            "--metrics-port",
            str(PORT),
            "--metrics-host",
            "0.0.0.0",  # noqa: S104 - the pod's own address, for Prometheus and the probes
            "--",
            name,
        ],
        "envFrom": pods.settings_from(),
        "env": [pods.secret_variable(variable) for variable in _secrets(source)],
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**probe, "periodSeconds": 15, "timeoutSeconds": 5},
        "readinessProbe": {**probe, "periodSeconds": 15, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": pods.container_security(),
        "volumeMounts": mounts,
    }
    return {
        "automountServiceAccountToken": False,
        # What was sent is confirmed and recorded after SIGTERM.
        "terminationGracePeriodSeconds": 60,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": volumes,
    }


def _secrets(source: Source) -> list[str]:
    """The variables that hold a source's secrets."""
    if isinstance(source, RestSource):
        return [source.token_env] if source.token_env else []
    if isinstance(source, FilesSource | WebhookSource):
        return []
    return [source.connection_env]


def _monitor(usecase: UseCase, namespace: str) -> Object:
    selector = {"matchLabels": {pods.USECASE_LABEL: usecase.name, "app.kubernetes.io/component": _COMPONENT}}
    endpoint = {"path": "/metrics", "interval": "15s", "scrapeTimeout": "10s", "port": "metrics"}
    made = pods.metadata(object_name(f"{usecase.name}-sources"), namespace, "monitoring", usecase)
    spec = {"selector": selector, "podMetricsEndpoints": [endpoint]}
    return {"apiVersion": monitoring.API, "kind": "PodMonitor", "metadata": made, "spec": spec}


def _connector(usecase: UseCase, name: str, source: PostgresReplicationSource, namespace: str, connect: str) -> Object:
    made = pods.metadata(object_name(f"{usecase.name}-source-{name}"), namespace, _COMPONENT, usecase)
    made["labels"][CLUSTER_LABEL] = connect
    spec = {
        "class": CONNECTOR,
        # A slot has one reader.
        "tasksMax": 1,
        "autoRestart": {"enabled": True},
        "config": _debezium(usecase, name, source) | _transforms(usecase, name, source),
    }
    return {"apiVersion": kafka_objects.API, "kind": "KafkaConnector", "metadata": made, "spec": spec}


def _debezium(usecase: UseCase, name: str, source: PostgresReplicationSource) -> dict[str, str]:
    table = source.table if "." in source.table else f"public.{source.table}"
    slot = source.slot or slot_name(usecase.name, name)
    skipped = [code for change, code in _OPERATIONS.items() if change not in source.changes]
    variable = source.connection_env
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
        # An idle table on a busy server: without these the slot would hold its log for ever.
        "heartbeat.interval.ms": "10000",
    }


def _transforms(usecase: UseCase, name: str, source: PostgresReplicationSource) -> dict[str, str]:
    """From Debezium's envelope to the event: unwrapped, renamed, into the stream's topic, by the stream's key."""
    stream = usecase.streams[source.stream]
    paths = {field: source.fields.get(field, field) for field in stream.fields if field not in source.constants}
    for field, path in paths.items():
        if path in _PSEUDO or "." in path or "," in f"{path}{field}" or ":" in f"{path}{field}":
            raise ConfigurationError(
                f"a connector can't give {path!r}.", where=f"sources.{name}.fields.{field}",
                fix="Set `connector: false`, so that FastTrack's own ingester reads the table.",
            )  # fmt: skip
    for field, value in source.constants.items():
        if not isinstance(value, str):
            raise ConfigurationError(
                f"a connector can only give texts, not {value!r}.", where=f"sources.{name}.constants.{field}",
                fix="Set `connector: false`, or make it a column of a view's table.",
            )  # fmt: skip
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
    # Values with the registry's header, as the drain wants them; the contract is registered by `fasttrack ingest` or
    # `fasttrack replay`, never by a connector.
    return config | {
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "io.confluent.connect.json.JsonSchemaConverter",
        "value.converter.schema.registry.url": "${env:FASTTRACK_SCHEMA_REGISTRY}",
        "value.converter.auto.register.schemas": "false",
        "value.converter.use.latest.version": "true",
    }
