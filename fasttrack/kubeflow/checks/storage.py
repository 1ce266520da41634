"""The claim that all pods share: it has to be one that many nodes may write at a time."""

from __future__ import annotations

from collections.abc import Iterator

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding, readable
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import PERSISTENT_VOLUME_CLAIM, Kind, Object

STORAGE_CLASS = Kind("storage.k8s.io/v1", "StorageClass")

_SHARED = "ReadWriteMany"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"
#: A StorageClass doesn't say which modes it can; these are the documented ones of the common provisioners.
_MANY = (
    *("nfs", "efs.csi.aws.com", "fsx.csi.aws.com", "filestore.csi.storage.gke.io", "file.csi.azure.com", "azure-file"),
    *("cephfs", "driver.longhorn.io", "glusterfs", "smb.csi", "beegfs", "lustre", "juicefs"),
)
_ONE = (
    *("ebs", "pd.csi.storage.gke.io", "disk.csi.azure.com", "cinder", "rbd"),
    *("local-path", "no-provisioner", "hostpath"),
)


def check_storage(cluster: Cluster, namespace: str, claim: str) -> Iterator[Finding]:
    """The claim, or if it isn't there yet, whether a storage class could make it."""
    yield from readable("storage", lambda: _claim(cluster, namespace, claim), why=f"whether the claim {claim} is there")


def _claim(cluster: Cluster, namespace: str, claim: str) -> Iterator[Finding]:
    found = cluster.find(PERSISTENT_VOLUME_CLAIM, claim, namespace)
    name = f"claim {claim}"
    if found is None:
        fix = "Apply the base first: kubectl apply --server-side -k manifests/kustomize/overlays/dev."
        yield Finding(name, "mend", f"there is none in {namespace!r}", fix, NotFoundError)
        yield from readable("storage classes", lambda: _classes(cluster), why="the storage classes")
        return
    modes, phase = found["spec"].get("accessModes", []), found.get("status", {}).get("phase", "Pending")
    if _SHARED not in modes:
        detail = f"it is {', '.join(modes)}: pods on a second node could not mount it"
        fix = f"Make it anew with accessModes [{_SHARED}] and a storage class that has that."
        yield Finding(name, "mend", detail, fix, ConfigurationError)
    elif phase == "Lost":
        yield Finding(name, "mend", "its volume is lost", "Restore it from a backup.", ConfigurationError)
    elif phase != "Bound":
        yield Finding(
            name, "note", f"{phase}: no volume yet", "It is bound when a pod first uses it; else see its events."
        )
        # An empty class means a volume that somebody makes by hand.
        if found["spec"].get("storageClassName") != "":
            yield from readable("storage classes", lambda: _classes(cluster, found), why="the storage classes")
    else:
        size = found.get("status", {}).get("capacity", {}).get("storage", "?")
        yield Finding(name, "ok", f"bound, {size}, {', '.join(modes)}")


def _classes(cluster: Cluster, claim: Object | None = None) -> Iterator[Finding]:
    classes = cluster.list(STORAGE_CLASS)
    named = (claim or {}).get("spec", {}).get("storageClassName")
    fix = "Install a provisioner of shared file systems (NFS, CephFS, EFS, Filestore), and name its class in the claim."
    if named:
        classes = [each for each in classes if each["metadata"]["name"] == named]
        if not classes:
            yield Finding(
                "storage classes", "mend", f"the claim wants {named!r}, which isn't there", fix, NotFoundError
            )
            return
    if not classes:
        yield Finding("storage classes", "mend", f"there is none, so nothing can be {_SHARED}", fix, NotFoundError)
        return
    for each in classes:
        words = each["provisioner"].lower()
        default = " (default)" if (each["metadata"].get("annotations") or {}).get(_DEFAULT) == "true" else ""
        title = f"storage class {each['metadata']['name']}"
        if any(word in words for word in _MANY):
            yield Finding(title, "ok", f"{each['provisioner']}{default}: made for {_SHARED}")
        elif any(word in words for word in _ONE):
            yield Finding(title, "note", f"{each['provisioner']}{default}: one node at a time, not {_SHARED}", fix)
        else:
            yield Finding(title, "note", f"{each['provisioner']}{default}: not known whether it can {_SHARED}", fix)
