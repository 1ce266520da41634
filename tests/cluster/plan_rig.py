"""What tests of plan, diff and doctor need: namespaces of their own, users with few permissions, the command line."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from fasttrack.cli import main
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.cluster.client import Cluster, connect
from fasttrack.kubeflow.cluster.kinds import CONFIG_MAP, EXPERIMENT, NAMESPACE, Kind, Object
from tests.cluster.identity import RBAC, as_account, of_base

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "examples/flights/usecase.yaml"
QUOTA = Kind("v1", "ResourceQuota")
ROLE = Kind(f"{RBAC}/v1", "Role")
_LABELS = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "katib.kubeflow.org/metrics-collector-injection": "enabled",
    "fasttrack.test/of": "plan",
}


@dataclass(frozen=True)
class Room:
    """A namespace of its own."""

    cluster: Cluster
    name: str

    def apply(self, obj: Object) -> Object:
        """Put an object into it."""
        return self.cluster.apply({**obj, "metadata": {**obj["metadata"], "namespace": self.name}})

    def config(self, name: str, data: dict[str, str] | None = None, **meta: Any) -> Object:
        """A ConfigMap of it, not applied."""
        head = {"name": name, "namespace": self.name, **meta}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": data or {}}

    def names(self, kind: Kind) -> set[str]:
        """The names of its objects of a kind."""
        return {each["metadata"]["name"] for each in self.cluster.list(kind, self.name)}

    def furnish(self) -> None:
        """All that the base brings, and what whoever looks after a namespace adds."""
        for obj in _furniture(self.name):
            self.cluster.apply(obj)


@contextmanager
def room(**labels: str) -> Iterator[Room]:
    """A namespace that enforces `restricted`, deleted at the end."""
    cluster = connect(patience=20.0)
    name = f"plan-{uuid.uuid4().hex[:8]}"
    meta = {"name": name, "labels": {**_LABELS, **labels}}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    try:
        # The namespace's controller makes it; pods of a namespace without one are refused.
        until(lambda: cluster.find(Kind("v1", "ServiceAccount"), "default", name))
        yield Room(cluster, name)
    finally:
        cluster.delete(NAMESPACE, name)


@contextmanager
def quota(at: Room, **hard: str) -> Iterator[None]:
    """A ResourceQuota whose use has been counted."""
    names = {key.replace("__", "/").replace("_", "."): value for key, value in hard.items()}
    at.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": names}})
    try:
        until(lambda: at.cluster.get(QUOTA, "small", at.name).get("status", {}).get("used"))
        yield
    finally:
        at.cluster.delete(QUOTA, "small", at.name, wait=60.0)


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `found` returns as soon as that is true."""
    ends = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.1)
    return answer


def _furniture(namespace: str) -> Iterator[Object]:
    def made(kind: str, name: str, api: str = "v1", **body: Any) -> Object:
        return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **body}

    for account in (pods.PIPELINE_ACCOUNT, pods.SPARK_ACCOUNT, pods.TRAINING_ACCOUNT, pods.SERVING_ACCOUNT):
        yield made("ServiceAccount", account)
    settings = {f"FASTTRACK_{word}": "x" for word in ("KAFKA", "LAKE", "PACKAGES", "RUNS")}
    yield made("ConfigMap", pods.SETTINGS, data=settings)
    yield made("Secret", pods.SECRETS, stringData={"FASTTRACK_POSTGRES": "x", "FASTTRACK_REDIS": "x"})
    yield made("Secret", pods.SIGNING_KEY, stringData={"signing.pem": "x"})
    yield made("Secret", pods.VERIFY_KEY, stringData={"verify.pem": "x"})
    # Strimzi makes it with its Kafka.
    yield made("Secret", "kafka-cluster-ca-cert", stringData={"ca.crt": "x"})
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    yield made("PersistentVolumeClaim", pods.DATA, spec=claim)
    yield from of_base("rbac-*.yaml", namespace)


def user(at: Room, name: str, rules: list[dict[str, Any]], folder: Path) -> Path:
    """A service account with `rules` in the namespace; the path of a kubeconfig with a token of it."""
    at.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    at.apply({"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": at.name}]
    reference = {"apiGroup": RBAC, "kind": "Role", "name": name}
    binding = {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": {"name": name}}
    at.apply({**binding, "subjects": subjects, "roleRef": reference})
    return as_account(at.cluster, at.name, name, folder)


@dataclass(frozen=True)
class Said:
    """What the command line said."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


def fasttrack(*words: str, config: Path | str = "") -> Said:
    """Run the command line as a user does, but in this process: its imports take seconds."""
    given = {"KUBECONFIG": str(config) or os.environ["KUBECONFIG"], "COLUMNS": "200"}
    out, error = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, given),
        # The client reads the variable once, when it is imported.
        patch("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", given["KUBECONFIG"]),
        patch.object(sys, "argv", ["fasttrack", *words]),
        redirect_stdout(out),
        redirect_stderr(error),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return Said(int(ended.value.code or 0), out.getvalue(), error.getvalue())


def nothing_applied(at: Room) -> bool:
    """Whether nothing of the example lies in a namespace."""
    return "flights-usecase" not in at.names(CONFIG_MAP) and not at.names(EXPERIMENT)


def doctor(at: Room, **more: Any) -> tuple[int, dict[str, Any]]:
    """The exit code of `fasttrack doctor --cluster`, and its findings by name."""
    where = ["--cluster", "--usecase", str(FLIGHTS), "--namespace", at.name, "--registry", "registry.invalid"]
    found = fasttrack("doctor", *where, "--json", **more)
    assert found.out, found.error
    return found.code, {each["name"]: each for each in found.json}
