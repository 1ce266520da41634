"""What our commands and service accounts have to be permitted to do, and whether they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fasttrack.errors import AuthorizationError, ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    EXPERIMENT,
    INFERENCE_SERVICE,
    POD,
    SPARK_APPLICATION,
    TRAIN_JOB,
    TRIAL,
    Kind,
)

SERVICE = Kind("v1", "Service")

_RUN = ("get", "list", "watch", "create", "patch", "delete")
_SEE = ("get", "list", "watch")
_APPLY = ("get", "list", "create", "patch")


@dataclass(frozen=True)
class Need:
    """Verbs on a kind, or on a subresource of it."""

    kind: Kind
    verbs: tuple[str, ...]
    subresource: str = ""

    @property
    def title(self) -> str:
        """``Pod/log``."""
        return f"{self.kind.kind}/{self.subresource}" if self.subresource else self.kind.kind


#: What `fasttrack submit` and the launchers need to follow what they started.
FOLLOW = (Need(POD, _SEE), Need(POD, ("get",), "log"), Need(EVENT, ("list",)))

#: What each service account needs in the namespace: its Role gives this and no more (manifests/kustomize/base).
ACCOUNTS: dict[str, tuple[Need, ...]] = {
    pods.PIPELINE_ACCOUNT: (
        Need(SPARK_APPLICATION, _RUN),
        Need(TRAIN_JOB, _RUN),
        Need(EXPERIMENT, _RUN),
        Need(TRIAL, ("list",)),
        Need(INFERENCE_SERVICE, _RUN),
        Need(CONFIG_MAP, ("list", "create", "patch", "delete")),
        Need(DEPLOYMENT, ("get", "list", "patch")),
        *FOLLOW,
    ),
    pods.SPARK_ACCOUNT: (
        Need(POD, ("get", "list", "watch", "create", "delete")),
        Need(SERVICE, ("get", "create", "delete")),
        Need(CONFIG_MAP, ("get", "create", "delete")),
    ),
}


def needs_of(kinds: Iterable[Kind]) -> list[Need]:
    """What somebody needs who plans and applies objects of `kinds`."""
    return [Need(kind, _APPLY) for kind in sorted(set(kinds))]


def check_mine(cluster: Cluster, needs: Iterable[Need], namespace: str) -> Iterator[Finding]:
    """Whether this account may do all that in a namespace; kinds that the cluster doesn't know are passed over."""
    lacking: list[tuple[Need, list[str]]] = []
    asked = 0
    for need in needs:
        if not cluster.serves(need.kind):
            continue
        asked += len(need.verbs)
        refused = [v for v in need.verbs if not cluster.allowed(v, need.kind, namespace, subresource=need.subresource)]
        if refused:
            lacking.append((need, refused))
    if not lacking:
        yield Finding("permissions", "ok", f"all {asked} that the commands need in {namespace!r}")
    for need, refused in lacking:
        yield Finding(
            "permissions",
            "mend",
            f"not permitted in {namespace!r}: {', '.join(refused)} {need.title}",
            f"Ask an administrator for: {_grant(cluster, need, refused, namespace)}",
            AuthorizationError,
        )


def check_accounts(cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """Whether the service accounts may do what the code that runs as them does; needs the right to ask that."""
    for account, needs in ACCOUNTS.items():
        title = f"account {account}"
        try:
            lacking = [
                (need, verb)
                for need in needs
                if cluster.serves(need.kind)
                for verb in need.verbs
                if not _may(cluster, account, namespace, need, verb)
            ]
        except AuthorizationError:
            yield Finding(title, "note", "could not be checked: that takes create on localsubjectaccessreviews")
            continue
        if lacking:
            kinds = dict.fromkeys(need.title for need, _ in lacking)
            words = "; ".join(f"{kind}: {', '.join(v for n, v in lacking if n.title == kind)}" for kind in kinds)
            fix = "Apply the Roles of the base: kubectl apply --server-side -k manifests/kustomize/overlays/dev."
            yield Finding(title, "mend", f"may not {words}", fix, ConfigurationError)
        else:
            yield Finding(title, "ok", f"has its {sum(len(n.verbs) for n in needs)} permissions")


def _may(cluster: Cluster, account: str, namespace: str, need: Need, verb: str) -> bool:
    about = {
        "verb": verb,
        "group": need.kind.group,
        "resource": cluster.resource(need.kind).plural,
        "subresource": need.subresource,
        "namespace": namespace,
    }
    body: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": namespace},
        "spec": {
            "resourceAttributes": about,
            "user": f"system:serviceaccount:{namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        },
    }
    path = f"/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
    return bool(cluster.request("POST", path, body=body, where=f"access review of {account}")["status"]["allowed"])


def _grant(cluster: Cluster, need: Need, verbs: list[str], namespace: str) -> str:
    """The command that makes a Role with what is lacking."""
    resource = cluster.resource(need.kind).plural
    full = f"{resource}.{need.kind.group}" if need.kind.group else resource
    full += f"/{need.subresource}" if need.subresource else ""
    name = f"fasttrack-{resource}" + (f"-{need.subresource}" if need.subresource else "")
    return f"kubectl -n {namespace} create role {name} --verb={','.join(verbs)} --resource={full}, and its RoleBinding."
