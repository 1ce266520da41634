"""Whom tests ask as: accounts with the Roles of manifests/kustomize/base, by a token of theirs in a kubeconfig."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import yaml

from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import Object

BASE = Path(__file__).parents[2] / "manifests/kustomize/base"
RBAC = "rbac.authorization.k8s.io"


def of_base(pattern: str, namespace: str) -> Iterator[Object]:
    """The objects of the base's files, in another namespace; accounts that a binding names are that namespace's too."""
    for path in sorted(BASE.glob(pattern)):
        for obj in yaml.safe_load_all(path.read_text()):
            for subject in obj.get("subjects", []):
                subject["namespace"] = namespace
            if "namespace" in obj["metadata"]:
                obj["metadata"]["namespace"] = namespace
            yield obj


def as_account(cluster: Cluster, namespace: str, account: str, folder: Path) -> Path:
    """The path of a kubeconfig with a new token (TokenRequest) of a service account."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return kubeconfig(folder, cluster.request("POST", path, body=body, where="token")["status"]["token"])


def kubeconfig(folder: Path, token: str, server: str = "") -> Path:
    """The current kubeconfig with a token instead of its user, and maybe another server."""
    document = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    document["users"] = [{"name": each["name"], "user": {"token": token}} for each in document["users"]]
    if server:
        for each in document["clusters"]:
            each["cluster"] = {"server": server}
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
    path.write_text(yaml.safe_dump(document))
    return path
