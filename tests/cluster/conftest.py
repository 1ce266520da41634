"""A cluster for tests: the one that KUBECONFIG names."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fasttrack.kubeflow.compiled import compiled_objects
from fasttrack.usecase import UseCase, load
from tests.cluster import plan_rig
from tests.cluster.kubectl import HOW_TO_START, Kubectl, Object
from tests.cluster.plan_rig import Room

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "manifests/kustomize"
OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir() if path.is_dir())
CLUSTER_WIDE = ("ClusterRole", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
NOT_IN_A_ROOM = ("Gateway", "HTTPRoute", "Deployment", "Job")
#: The namespaces that the overlays make.
OURS = ("fasttrack", "fasttrack-logs", "fasttrack-redirect")


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Kubectl:
    """kubectl; every test fails at once, with what to do, where there is no cluster."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail(HOW_TO_START, pytrace=False)
    answer = Kubectl().run("version", "--output=json", seconds=60)
    if answer.returncode:
        pytest.fail(f"The cluster of KUBECONFIG does not answer: {answer.stderr.strip()}", pytrace=False)
    return Kubectl()


@pytest.fixture(scope="session")
def flights() -> UseCase:
    """The use case of the example."""
    return load(ROOT / "examples/flights/usecase.yaml")


@pytest.fixture(scope="module")
def room(cluster: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """A namespace of its own that holds what `base/` brings: accounts, settings, runtimes, all of it `restricted`."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    objects = rendered(cluster, tmp_path_factory.mktemp("room"), name)
    # Nothing that starts pods, and nothing that belongs to the whole cluster.
    wanted = [each for each in objects if each["kind"] not in (*NOT_IN_A_ROOM, *CLUSTER_WIDE)]
    volumes = [_volume(each) for each in wanted if each["kind"] == "PersistentVolumeClaim"]
    try:
        cluster.apply(*volumes, *wanted)
        yield Kubectl(name)
    finally:
        # Not waited for: its name is never used again.
        cluster.run("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        names = [each["metadata"]["name"] for each in volumes]
        cluster.run("delete", "persistentvolume", *names, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def furnished() -> Iterator[Room]:
    """A namespace with all that commands look for; tests put back what they take away."""
    with plan_rig.room() as made:
        made.furnish()
        yield made


@pytest.fixture(scope="module")
def objects(furnished: Room, flights: UseCase) -> list[Object]:
    """What is compiled of the example for that namespace."""
    return compiled_objects(flights, registry="registry.invalid", namespace=furnished.name)


def _volume(claim: Object) -> Object:
    """A volume for a claim, bound to it: not every cluster has a storage class with ReadWriteMany."""
    meta, spec = claim["metadata"], claim["spec"]
    name = f"{meta['namespace']}-{meta['name']}"
    spec |= {"storageClassName": "", "volumeName": name}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": spec["resources"]["requests"],
            "storageClassName": "",
            "claimRef": {"namespace": meta["namespace"], "name": meta["name"]},
            "hostPath": {"path": f"/tmp/{name}", "type": "DirectoryOrCreate"},
        },
    }


@functools.cache
def overlay_objects(overlay: str) -> list[Object]:
    """The objects of an overlay; not to be changed."""
    text = Kubectl()("kustomize", str(KUSTOMIZE / "overlays" / overlay))
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


def rendered(cluster: Kubectl, folder: Path, namespace: str, *, base: Path = KUSTOMIZE / "base") -> list[Object]:
    """The objects of a kustomization, in another namespace."""
    where = os.path.relpath(base, folder.resolve())
    text = yaml.safe_dump({"namespace": namespace, "resources": [where]})
    (folder / "kustomization.yaml").write_text(text)
    return [each for each in yaml.safe_load_all(cluster("kustomize", str(folder))) if each]
