"""Katib on the node: its services and collectors are pods there, its controller runs beside the API server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from fasttrack.kubeflow import pods
from tests.cluster import katib_rig
from tests.cluster.kubectl import Kubectl, Object, until
from tests.node import proxy, rig

_SPACE = Kubectl("kubeflow")
_NAME = "katib-db-manager"
_PORT = 6789


def config() -> Object:
    """Our settings, with images that stand in the node's store."""
    text = yaml.safe_dump(katib_rig.ours()).replace("ghcr.io/kubeflow/katib/", f"{rig.REGISTRY}/katib/")
    found: Object = yaml.safe_load(text)
    return found


@contextmanager
def running() -> Iterator[None]:
    """Katib with our settings until the block ends."""
    folder = katib_rig.home()
    if folder is None:
        raise SystemExit("Katib of this node is not run by ../shared/cluster: start it with --operators katib")
    _SPACE.run("delete", "pod", _NAME, "--ignore-not-found")
    _SPACE.apply(*_database_manager())
    until(lambda: rig.condition(_SPACE.get("pod", _NAME) or {}, "Ready"), "Katib's database manager is ready", 120)
    with proxy.to_services() as address, katib_rig.settings(folder, config(), {"HTTPS_PROXY": address}):
        yield


def _database_manager() -> list[Object]:
    """Katib's own, before the test's PostgreSQL."""
    (image,) = {each["image"] for each in config()["runtime"]["metricsCollectors"]}
    variables = {
        "DB_NAME": "postgres",
        "DB_USER": "fasttrack",
        "DB_PASSWORD": rig.PASSWORD,
        "KATIB_POSTGRESQL_DB_HOST": f"postgres.{rig.NAMESPACE}",
        "KATIB_POSTGRESQL_DB_DATABASE": "postgres",
    }
    labels = {"app.kubernetes.io/name": _NAME}
    container = {
        "name": _NAME,
        "image": image.replace("file-metrics-collector", _NAME),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "readinessProbe": {"grpc": {"port": _PORT}, "periodSeconds": 2},
        "securityContext": pods.container_security(),
    }
    spec = {"containers": [container], "securityContext": pods.pod_security(), "automountServiceAccountToken": False}
    service = {"selector": labels, "ports": [{"port": _PORT}]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _NAME, "labels": labels}, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": _NAME}, "spec": service},
    ]
