"""Deployments of what moves events all the time: the readers of sources, and the drain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from fasttrack.kubeflow import monitoring, pods
from fasttrack.kubeflow.kafka_access import KafkaAccess
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase, canonical_text

PORT = 9090
_DIGEST = "fasttrack.ai/usecase-digest"
#: The subcommand's arguments that all of them have.
FOREVER = (
    "--until",
    "forever",
    "--metrics-port",
    str(PORT),
    "--metrics-host",
    "0.0.0.0",  # noqa: S104 - the pod's own address, for Prometheus and the probes
)


def deployment(
    usecase: UseCase, name: str, namespace: str, component: str, pod: Object, more: Mapping[str, str] | None = None
) -> Object:
    """One pod at a time of `pod`.

    Args:
        usecase: the use case; its ConfigMap must be there.
        name: of the Deployment.
        namespace: its namespace.
        component: ``source`` or ``drain``; policies and monitors find the pods by it.
        pod: the pod's spec.
        more: labels that tell it from others of the component.
    """
    made = pods.metadata(name, namespace, component, usecase)
    mine = {**made["labels"], **(more or {})}
    chosen = {pods.USECASE_LABEL: usecase.name, **(more or {"app.kubernetes.io/component": component})}
    # Pods don't notice that the file which they have read at their start is another one now.
    digest = hashlib.sha256(canonical_text(usecase).encode()).hexdigest()[:12]
    template = {"metadata": {"labels": mine, "annotations": {_DIGEST: digest}}, "spec": pod}
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": chosen},
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**made, "labels": mine}, "spec": spec}


def pod(
    usecase: UseCase,
    *,
    name: str,
    image: str,
    args: Sequence[str],
    secrets: Sequence[str] = (),
    resources: Object,
    grace: int,
    kafka: KafkaAccess | None,
    data: str = "",
) -> Object:
    """The pod of one container, as a `restricted` namespace takes it; probes ask for its metrics.

    Args:
        usecase: the use case, mounted as a file.
        name: of the container.
        image: its image.
        args: its arguments; it listens at `PORT`.
        secrets: variables out of the Secret.
        resources: what it asks for, and its limits.
        grace: seconds between SIGTERM and SIGKILL.
        kafka: who it is for Kafka; None: nobody by name, on a listener without TLS.
        data: ``read`` or ``write``: how it sees the claim of the lake; empty: not at all.
    """
    probe = {"httpGet": {"path": "/metrics", "port": "metrics"}}
    mounts = [
        pods.mount("usecase", pods.USECASE_PATH, read_only=True),
        pods.mount("tmp", "/tmp"),  # noqa: S108 - the pod's own
    ]
    volumes = [pods.usecase_volume(usecase), pods.scratch_volume(size="1Gi")]
    if data:
        mounts.append(pods.mount("data", pods.DATA_PATH, read_only=data == "read"))
        volumes.append(pods.data_volume())
    env = [pods.secret_variable(variable) for variable in secrets]
    if kafka:
        mounts, volumes, env = mounts + kafka.mounts(), volumes + kafka.volumes(), env + kafka.env()
    container = {
        "name": name,
        "image": image,
        "args": list(args),
        "envFrom": pods.settings_from(),
        "env": env,
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**probe, "periodSeconds": 15, "timeoutSeconds": 5},
        "readinessProbe": {**probe, "periodSeconds": 15, "timeoutSeconds": 5},
        "resources": resources,
        "securityContext": pods.container_security(),
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": pods.INGEST_ACCOUNT,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": volumes,
    }


def monitor(usecase: UseCase, name: str, namespace: str, component: str) -> Object:
    """The PodMonitor of a component's pods."""
    selector = {"matchLabels": {pods.USECASE_LABEL: usecase.name, "app.kubernetes.io/component": component}}
    endpoint = {"path": "/metrics", "interval": "15s", "scrapeTimeout": "10s", "port": "metrics"}
    made = pods.metadata(object_name(name), namespace, "monitoring", usecase)
    # The drain's metrics don't say whose they are (`monitoring.USECASE_TARGET`).
    spec = {"selector": selector, "podMetricsEndpoints": [endpoint], "podTargetLabels": [pods.USECASE_LABEL]}
    return {"apiVersion": monitoring.API, "kind": "PodMonitor", "metadata": made, "spec": spec}
