"""The namespace: there, not on its way out, and with the labels that our objects need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fasttrack.errors import AuthorizationError, ConfigurationError, ConflictError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import EXPERIMENT, NAMESPACE, POD, Kind
from fasttrack.kubeflow.names import is_dns_1035

_ENFORCE = "pod-security.kubernetes.io/enforce"
_COLLECTOR = "katib.kubeflow.org/metrics-collector-injection"
# What anybody may list who may do anything at all in a namespace, if it is there.
_ANY = POD


def check_namespace(cluster: Cluster, name: str, kinds: Iterable[Kind]) -> Iterator[Finding]:
    """Whether a namespace is there and can take objects of `kinds`."""
    if not is_dns_1035(name):
        yield Finding(
            "namespace",
            "mend",
            f"{name!r} can't be the name of a namespace",
            "Use at most 63 lower-case letters, digits and hyphens, with a letter first and no hyphen at the end.",
            ConfigurationError,
        )
        return
    try:
        found = cluster.find(NAMESPACE, name)
    except AuthorizationError:
        yield _unseen(cluster, name)
        return
    if found is None:
        fix = f"kubectl create namespace {name}, or kubectl apply --server-side -k manifests/kustomize/overlays/dev."
        yield Finding("namespace", "mend", f"there is no namespace {name!r}", fix, NotFoundError)
        return
    if found["metadata"].get("deletionTimestamp"):
        fix = "Wait until it is gone and create it again; `kubectl get namespace -o yaml` tells what holds it."
        yield Finding("namespace", "mend", f"{name!r} is being deleted", fix, ConflictError)
        return
    yield Finding("namespace", "ok", f"{name!r} is there")
    yield from _labels(found, set(kinds))


def _unseen(cluster: Cluster, name: str) -> Finding:
    """Who may not read namespaces can still tell one that is there: the cluster lets them do something in it."""
    if cluster.allowed("list", _ANY, name):
        detail = f"there is access to {name!r}; its labels could not be checked: not permitted to read it"
        return Finding("namespace", "note", detail)
    return Finding(
        "namespace",
        "mend",
        f"there is no access to the namespace {name!r}, if there is one",
        "Name another with --namespace, or ask an administrator for a RoleBinding in it.",
        AuthorizationError,
    )


def _labels(namespace: Mapping[str, Any], kinds: set[Kind]) -> Iterator[Finding]:
    name, labels = namespace["metadata"]["name"], namespace["metadata"].get("labels") or {}
    level = labels.get(_ENFORCE)
    if level == "restricted":
        yield Finding("pod security", "ok", "restricted is enforced")
    else:
        detail = f"{level or 'nothing'} is enforced; FastTrack's pods keep to restricted"
        yield Finding(
            "pod security", "note", detail, f"kubectl label namespace {name} --overwrite {_ENFORCE}=restricted"
        )
    if EXPERIMENT in kinds and labels.get(_COLLECTOR) != "enabled":
        yield Finding(
            "katib label",
            "mend",
            f"Katib's metrics collector isn't put into pods of {name!r}: trials would end without a metric",
            f"kubectl label namespace {name} {_COLLECTOR}=enabled",
            ConfigurationError,
        )
