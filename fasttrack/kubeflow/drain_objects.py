"""A drain that never ends, for a lake that is minutes behind the topics and not a pipeline run."""

from __future__ import annotations

from fasttrack.kubeflow import ingest_pods, pods
from fasttrack.kubeflow.kafka_access import KafkaAccess
from fasttrack.kubeflow.names import LABEL, object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

_COMPONENT = "drain"
# Two workers that drain millions of events hold a gigabyte together (docs/reference/bench.md).
_RESOURCES = {"requests": {"cpu": "1", "memory": "1536Mi"}, "limits": {"memory": "4Gi"}}
# Workers commit what they hold within a minute, or are killed; their parent ends after that.
_GRACE_SECONDS = 90


def drain_objects(
    usecase: UseCase, *, image: str, namespace: str, kafka: KafkaAccess | None, monitored: bool
) -> list[Object]:
    """The Deployment of `fasttrack drain --until forever`; the drain of a run joins its group and ends before it.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: the drain's.
        namespace: the namespace.
        kafka: who it is for Kafka, if anybody.
        monitored: make a PodMonitor, too.
    """
    file = f"{pods.USECASE_PATH}/{pods.USECASE_FILE}"
    pod = ingest_pods.pod(
        usecase,
        name="drain",
        image=image,
        args=["drain", "--usecase", file, *ingest_pods.FOREVER],
        resources=_RESOURCES,
        grace=_GRACE_SECONDS,
        kafka=kafka,
        data="write",
    )
    title = object_name(f"{usecase.name}-drain", LABEL)
    found = [ingest_pods.deployment(usecase, title, namespace, _COMPONENT, pod)]
    if monitored:
        found.append(ingest_pods.monitor(usecase, f"{usecase.name}-drain", namespace, _COMPONENT))
    return found
