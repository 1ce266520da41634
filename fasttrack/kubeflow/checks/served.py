"""Whether the cluster knows the kinds that we emit, in the versions that we emit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import Kind

_FOLDER = "manifests/kustomize/platform"


@dataclass(frozen=True)
class Operator:
    """Who brings a group of kinds.

    Attributes:
        name: its name.
        version: the release that FastTrack is tested with.
        folder: where its pinned manifests lie; empty for what clusters mostly have.
        part: what `fasttrack compile --leave-out` calls what needs it; empty where it can't be left out.
    """

    name: str
    version: str
    folder: str
    part: str = ""


#: The operators by API group.
OPERATORS = {
    "pipelines.kubeflow.org": Operator("Kubeflow Pipelines", "2.17.0", "pipelines"),
    "kubeflow.org": Operator("Katib", "0.19.0", "katib"),
    "trainer.kubeflow.org": Operator("Kubeflow Trainer", "2.3.0", "trainer"),
    "jobset.x-k8s.io": Operator("JobSet", "0.12.0", "trainer"),
    "sparkoperator.k8s.io": Operator("Spark operator", "2.5.1", "spark-operator"),
    "serving.kserve.io": Operator("KServe", "0.20.0", "kserve"),
    "kafka.strimzi.io": Operator("Strimzi", "1.2.0", "strimzi", "kafka"),
    "monitoring.coreos.com": Operator("Prometheus operator", "0.93.0", "prometheus", "monitoring"),
    "gateway.networking.k8s.io": Operator("Gateway API", "1.6.0", "", "route"),
    "keda.sh": Operator("KEDA", "2.21.0", ""),
}


def check_served(cluster: Cluster, kinds: Iterable[Kind]) -> Iterator[Finding]:
    """One finding a kind: served, served in another version only, or not there."""
    for kind in sorted(set(kinds)):
        yield _check(cluster, kind)


def _check(cluster: Cluster, kind: Kind) -> Finding:
    name = f"kind {kind.kind}"
    if cluster.serves(kind):
        return Finding(name, "ok", f"{kind.api_version} is served")
    operator = OPERATORS.get(kind.group)
    cure = f"Install what serves {kind.api_version}."
    if operator:
        cure = f"Install {operator.name} {operator.version}"
        cure += f": kubectl apply --server-side -k {_FOLDER}/{operator.folder}" if operator.folder else ""
        cure += f", or compile with --leave-out {operator.part}." if operator.part else "."
    others = [version for version in _versions(cluster, kind.group) if cluster.serves(Kind(version, kind.kind))]
    if others:
        detail = f"the cluster serves {kind.kind} as {', '.join(others)}; FastTrack emits {kind.api_version}"
        return Finding(name, "mend", detail, f"Another release is installed. {cure}", ConfigurationError)
    return Finding(name, "mend", f"the cluster doesn't know {kind}: its CRD is missing", cure, ConfigurationError)


def _versions(cluster: Cluster, group: str) -> list[str]:
    """The versions of a group that the cluster serves, ``group/version``."""
    if not group:
        return []
    try:
        found = cluster.request("GET", f"/apis/{group}", where=group)
    except NotFoundError:
        return []
    return [version["groupVersion"] for version in found["versions"]]
