"""What reads a use case's sources on a cluster: an ingester's Deployment each, or a Debezium connector."""

from __future__ import annotations

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.security import SUFFIXES
from fasttrack.kubeflow import ingest_pods, pods
from fasttrack.kubeflow.connectors import connector
from fasttrack.kubeflow.kafka_access import KafkaAccess
from fasttrack.kubeflow.names import LABEL, object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import (
    FilesSource,
    PostgresReplicationSource,
    RestSource,
    Source,
    StreamSource,
    WebhookSource,
)

_COMPONENT = "source"
_SOURCE_LABEL = "fasttrack.ai/source"
_RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
# What was sent is confirmed and recorded after SIGTERM.
_GRACE_SECONDS = 60
# Where another cluster's ca.crt, user.crt and user.key lie, for the variables that stand beside its address.
_FILES = "source-kafka"
_FILES_PATH = "/var/run/fasttrack/source"


def source_objects(
    usecase: UseCase,
    *,
    image: str,
    namespace: str,
    kafka: KafkaAccess | None,
    kafka_namespace: str,
    connect: str,
    monitored: bool,
) -> list[Object]:
    """The objects of all sources but webhooks, which the gateway takes in.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: the ingester's.
        namespace: of the ingesters.
        kafka: who the ingesters are for Kafka, if anybody.
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
            found.append(connector(usecase, name, source, kafka_namespace, connect))
        else:
            found.append(_deployment(usecase, name, source, image, namespace, kafka))
            readers = True
    if readers and monitored:
        found.append(ingest_pods.monitor(usecase, f"{usecase.name}-sources", namespace, _COMPONENT))
    return found


def _deployment(
    usecase: UseCase, name: str, source: Source, image: str, namespace: str, kafka: KafkaAccess | None
) -> Object:
    """One at a time: a second one would take the source over from the first."""
    if isinstance(source, FilesSource) and not source.path.startswith(("s3://", f"{pods.DATA_PATH}/")):
        raise ConfigurationError(
            f"a pod doesn't see the folder {source.path!r}.", where=f"sources.{name}.path",
            fix=f"Name s3://bucket/prefix or a folder below {pods.DATA_PATH}, or compile with --leave-out sources.",
        )  # fmt: skip
    title = object_name(f"{usecase.name}-source-{name}", LABEL)
    file = f"{pods.USECASE_PATH}/{pods.USECASE_FILE}"
    local = isinstance(source, FilesSource) and source.path.startswith(pods.DATA_PATH)
    pod = ingest_pods.pod(
        usecase,
        name="ingest",
        image=image,
        # A source may be called anything, also like an option.
        args=["ingest", "--usecase", file, *ingest_pods.FOREVER, "--", name],
        secrets=_secrets(source),
        resources=_RESOURCES,
        grace=_GRACE_SECONDS,
        kafka=kafka,
        data="read" if local else "",
    )
    if isinstance(source, StreamSource):
        _let_in_elsewhere(pod, source.connection_env, title)
    return ingest_pods.deployment(usecase, title, namespace, _COMPONENT, pod, {_SOURCE_LABEL: object_name(name)})


def _let_in_elsewhere(pod: Object, variable: str, secret: str) -> None:
    """What another Kafka asks for; whether it does is said by variables of the Secret that holds its address."""
    (container,) = pod["containers"]
    for suffix in SUFFIXES:
        found = pods.secret_variable(f"{variable}_{suffix}")
        found["valueFrom"]["secretKeyRef"]["optional"] = True
        container["env"].append(found)
    container["volumeMounts"].append(pods.mount(_FILES, _FILES_PATH, read_only=True))
    pod["volumes"].append({"name": _FILES, "secret": {"secretName": secret, "optional": True}})


def _secrets(source: Source) -> list[str]:
    """The variables that hold a source's secrets."""
    if isinstance(source, RestSource):
        return [source.token_env] if source.token_env else []
    if isinstance(source, FilesSource | WebhookSource):
        return []
    return [source.connection_env]
