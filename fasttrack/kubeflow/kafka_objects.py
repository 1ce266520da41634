"""The use case's streams on Strimzi's Kafka: one KafkaTopic a stream, and a user for each side of it."""

from __future__ import annotations

import json
import re

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.kafka_access import GATEWAY_USER, user_name
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

API = "kafka.strimzi.io/v1"
#: Strimzi's label that names the Kafka cluster.
CLUSTER_LABEL = "strimzi.io/cluster"

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MILLISECONDS_A_DAY = 86_400_000


def kafka_topics(
    usecase: UseCase, *, namespace: str, cluster: str, replicas: int = 3, retention_days: int = 30
) -> list[Object]:
    """One KafkaTopic a stream.

    Args:
        usecase: the use case.
        namespace: where Strimzi's topic operator looks.
        cluster: name of the Kafka cluster.
        replicas: copies of each partition; all but one must have a write before it counts.
        retention_days: how long events stay after they were drained.

    Raises:
        ConfigurationError: Kafka can't have a topic of that name, or two streams share one.
    """
    seen: dict[str, str] = {}
    made = [_topic(usecase, stream, seen, namespace, cluster, replicas, retention_days) for stream in usecase.streams]
    return [*made, _checkpoints(usecase, namespace, cluster, replicas)] if _has_ingesters(usecase) else made


def _has_ingesters(usecase: UseCase) -> bool:
    return any(source.kind != "webhook" for source in usecase.sources.values())


def _checkpoints(usecase: UseCase, namespace: str, cluster: str, replicas: int) -> Object:
    """Where ingesters record how far their sources are."""
    topic = f"{usecase.name}.sources"
    made = pods.metadata(object_name(topic), namespace, "ingest", usecase)
    made["labels"][CLUSTER_LABEL] = cluster
    config = {"cleanup.policy": "compact", "min.insync.replicas": max(1, replicas - 1)}
    spec = {"topicName": topic, "partitions": 1, "replicas": replicas, "config": config}
    return {"apiVersion": API, "kind": "KafkaTopic", "metadata": made, "spec": spec}


def _topic(
    usecase: UseCase,
    stream: str,
    seen: dict[str, str],
    namespace: str,
    cluster: str,
    replicas: int,
    days: int,
) -> Object:
    topic = usecase.topic(stream)
    where = f"streams.{stream}.topic"
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ConfigurationError(
            f"{topic!r} can't be a Kafka topic.",
            where=where,
            fix="Give a topic of letters, digits, '.', '_' and '-', at most 249 characters.",
        )
    # Kafka's metrics know no difference between '.' and '_', so Kafka refuses the second of two such topics.
    if (twin := seen.setdefault(topic.replace(".", "_"), stream)) != stream:
        raise ConfigurationError(
            f"{topic!r} is also the topic of stream {twin!r}, or Kafka can't tell the two apart.",
            where=where,
            fix="Give each stream a topic of its own.",
        )
    made = pods.metadata(object_name(topic), namespace, "ingest", usecase)
    made["labels"][CLUSTER_LABEL] = cluster
    config = {
        "cleanup.policy": "delete",
        "min.insync.replicas": max(1, replicas - 1),
        "retention.ms": days * _MILLISECONDS_A_DAY,
        "max.message.bytes": max(1_048_588, usecase.streams[stream].max_bytes + 1024),
    }
    spec = {
        "topicName": topic,
        "partitions": usecase.streams[stream].partitions,
        "replicas": replicas,
        "config": config,
    }
    return {"apiVersion": API, "kind": "KafkaTopic", "metadata": made, "spec": spec}


def kafka_users(usecase: UseCase, *, namespace: str, cluster: str) -> list[Object]:
    """Who may do what with the topics: producers write, the drain reads, ingesters do both. None makes one."""
    topics = [usecase.topic(stream) for stream in usecase.streams]
    write = [_allow("topic", topic, ["Write", "Describe"]) for topic in topics]
    read = [_allow("topic", topic, ["Read", "Describe", "DescribeConfigs"]) for topic in topics]
    group = _allow("group", f"fasttrack.{usecase.name}.", ["Read", "Describe"], prefix=True)
    # Who reads partitions by offset joins no group, but the client looks for the coordinator of the one it is given.
    nobody = _allow("group", "fasttrack-", ["Describe"], prefix=True)
    idempotent = _allow("cluster", "", ["IdempotentWrite"])
    made = [
        _user(usecase, "producer", [*write, idempotent], namespace, cluster),
        _user(usecase, "drain", [*read, group, nobody], namespace, cluster),
    ]
    if _has_ingesters(usecase):
        # It reads what it sent itself, to know it again after a crash.
        places = [*topics, f"{usecase.name}.sources"]
        acls = [_allow("topic", topic, ["Read", "Write", "Describe", "DescribeConfigs"]) for topic in places]
        made.append(_user(usecase, "ingest", [*acls, nobody, idempotent], namespace, cluster))
    return made


def gateway_rights(usecase: UseCase) -> list[Object]:
    """The ACLs that the gateway's KafkaUser needs for the use case's webhooks; none without any."""
    streams = {source.stream for source in usecase.sources.values() if source.kind == "webhook"}
    return [_allow("topic", topic, ["Write", "Describe"]) for topic in sorted(map(usecase.topic, streams))]


def gateway_component(usecase: UseCase) -> Object | None:
    """A kustomize Component that gives the gateway's KafkaUser those rights; None if it needs none."""
    added = [{"op": "add", "path": "/spec/authorization/acls/-", "value": each} for each in gateway_rights(usecase)]
    if not added:
        return None
    patch = {"target": {"kind": "KafkaUser", "name": GATEWAY_USER}, "patch": json.dumps(added, indent=2) + "\n"}
    return {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "patches": [patch]}


def _user(usecase: UseCase, role: str, acls: list[Object], namespace: str, cluster: str) -> Object:
    made = pods.metadata(user_name(usecase, role), namespace, "ingest", usecase)
    made["labels"][CLUSTER_LABEL] = cluster
    spec = {"authentication": {"type": "tls"}, "authorization": {"type": "simple", "acls": acls}}
    return {"apiVersion": API, "kind": "KafkaUser", "metadata": made, "spec": spec}


def _allow(kind: str, name: str, operations: list[str], *, prefix: bool = False) -> Object:
    resource = {"type": kind}
    if name:
        resource |= {"name": name, "patternType": "prefix" if prefix else "literal"}
    return {"type": "allow", "resource": resource, "operations": operations, "host": "*"}
