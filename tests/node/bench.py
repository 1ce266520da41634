"""The namespace of the test with its stores and keys, and what its parts share."""

from __future__ import annotations

from pathlib import Path

from fasttrack.kubeflow import pods
from fasttrack.registry.store import Registry
from fasttrack.usecase import UseCase, canonical_text
from tests.node import rig
from tests.node.rig import NAMESPACE, Object
from tests.unit.gateway_harness import TestIssuer

# The node has two cores, half of one taken by the system: pods ask for less here than they do on a cluster.
SMALL = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}


class Bench:
    """The namespace with its stores, keys and what was made for the test."""

    def __init__(self, folder: Path) -> None:
        # Imported late: it loads torch.
        from tests.integration import serving_package

        self.folder = folder
        self.issuer = TestIssuer(folder)
        self.raw_row = serving_package.raw_row
        self.built = serving_package.build(folder / "model")

    def prepare(self) -> None:
        """Namespace, accounts, claims, settings and stores."""
        rig.apply(rig.base("Namespace"))
        found = rig.get("namespace", NAMESPACE)
        assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        rig.apply(rig.base("ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim", "NetworkPolicy"))
        rig.apply(rig.stores(self.issuer.path.read_text(), self.built.verify_key.read_bytes()))
        for name in ("postgres", "redis", "files"):
            rig.until(f"pod {name} ready", lambda name=name: rig.condition(rig.get("pod", name), "Ready"))

    def registry(self) -> Registry:
        """The registry, by the address of PostgreSQL's pod."""
        address = rig.address("postgres")
        return Registry(f"postgresql://fasttrack:{rig.PASSWORD}@{address}:5432/postgres", patience=30)


def usecase_map(usecase: UseCase) -> Object:
    """The ConfigMap that holds a use case."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{usecase.name}-usecase", "namespace": NAMESPACE},
        "data": {pods.USECASE_FILE: canonical_text(usecase)},
    }
