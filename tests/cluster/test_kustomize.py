"""Every overlay renders, applies without a warning, applies again without a change, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow.compile import Options, compile_usecase
from tests.cluster.conftest import KUSTOMIZE, OURS, OVERLAYS, ROOT, overlay_objects
from tests.cluster.kubectl import Kubectl, Object, documents, until
from tests.golden.refresh import CASES

EVERYWHERE = "validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings"


@pytest.fixture
def empty(cluster: Kubectl) -> Iterator[None]:
    """No installation of ours is there: these tests make and delete the namespaces themselves."""
    there = [name for name in OURS if cluster.get("namespace", name)]
    if there:
        pytest.fail(f"The namespace {there[0]} exists: use a cluster for tests, or delete it.", pytrace=False)
    try:
        yield
    finally:
        cluster.run("delete", "namespace", *OURS, "--ignore-not-found", "--timeout=170s")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_applies_and_goes_without_a_trace(cluster: Kubectl, empty: None, overlay: str) -> None:
    objects = overlay_objects(overlay)
    warnings = cluster.apply(*objects)
    assert not warnings
    again = cluster.run("apply", "--server-side", "-f", "-", given=documents(*objects))
    assert (again.returncode, again.stderr) == (0, "")
    # 0: applying once more would change nothing; 1: it would, and how.
    difference = until(lambda: settled(cluster, objects), "nothing but controllers changes objects", 30)
    assert difference == "none", difference
    cluster("delete", "--wait=true", "--timeout=150s", "-f", "-", given=documents(*objects), seconds=170)
    assert not any(cluster.get("namespace", name) for name in OURS)
    assert not cluster.list(EVERYWHERE, "app.kubernetes.io/part-of=fasttrack")


def settled(cluster: Kubectl, objects: list[Object]) -> str:
    """``none``, what differs, or nothing if a controller changed an object in between."""
    done = cluster.run("diff", "--server-side", "-f", "-", given=documents(*objects))
    if done.returncode == 0:
        return "none"
    return "" if "the object has been modified" in done.stderr else done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_has_a_namespace_is_in_one_of_ours(cluster: Kubectl, overlay: str) -> None:
    namespaced = set(cluster("api-resources", "--namespaced=true", "--no-headers", "--output=name").split())
    plural = _plurals(cluster)
    for each in overlay_objects(overlay):
        group = each["apiVersion"].rpartition("/")[0]
        resource = plural[(group, each["kind"])]
        inside = (f"{resource}.{group}" if group else resource) in namespaced
        assert (each["metadata"].get("namespace") in OURS) is inside, each["metadata"]


def _plurals(cluster: Kubectl) -> dict[tuple[str, str], str]:
    found = {}
    for line in cluster("api-resources", "--no-headers").splitlines():
        words = line.split()
        name, version, _, kind = words[0], words[-3], words[-2], words[-1]
        found[(version.rpartition("/")[0], kind)] = name
    return found


CONTAINERS = {"containers": [{"image": "IMAGE"}]}
IMAGES: dict[str, Any] = {
    "SparkApplication": ("sparkoperator.k8s.io/v1beta2", {"image": "IMAGE", "driver": {"image": "IMAGE"}}),
    "ScheduledSparkApplication": ("sparkoperator.k8s.io/v1beta2", {"template": {"image": "IMAGE"}}),
    "TrainJob": ("trainer.kubeflow.org/v1alpha1", {"trainer": {"image": "IMAGE"}}),
    "Experiment": (
        "kubeflow.org/v1beta1",
        {"trialTemplate": {"trialSpec": {"spec": {"trainer": {"image": "IMAGE"}}}}},
    ),
    "TrainingRuntime": (
        "trainer.kubeflow.org/v1alpha1",
        {"template": {"spec": {"replicatedJobs": [{"template": {"spec": {"template": {"spec": CONTAINERS}}}}]}}},
    ),
    "InferenceService": (
        "serving.kserve.io/v1beta1",
        {"predictor": {"containers": [{"image": "IMAGE"}]}, "explainer": {"containers": [{"image": "IMAGE"}]}},
    ),
    "ServingRuntime": ("serving.kserve.io/v1alpha1", {"containers": [{"image": "IMAGE"}]}),
    "Deployment": ("apps/v1", {"template": {"spec": {"containers": [{"image": "IMAGE"}]}}}),
    "Job": ("batch/v1", {"template": {"spec": {"initContainers": [{"image": "IMAGE"}]}}}),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_one_image_set_in_an_overlay_reaches_every_kind(cluster: Kubectl, tmp_path: Path, kind: str) -> None:
    old, new = "fasttrack/thing:0.1.0", "registry.example.com/team/thing:9.9.9"
    api, spec = IMAGES[kind]
    made = yaml.safe_dump({"apiVersion": api, "kind": kind, "metadata": {"name": "it"}, "spec": spec})
    (tmp_path / "it.yaml").write_text(made.replace("IMAGE", old))
    base = os.path.relpath(KUSTOMIZE / "base", tmp_path.resolve())
    # What `kustomize edit set image fasttrack/thing=registry.example.com/team/thing:9.9.9` writes.
    images = [{"name": "fasttrack/thing", "newName": "registry.example.com/team/thing", "newTag": "9.9.9"}]
    text = yaml.safe_dump({"resources": [base, "it.yaml"], "images": images})
    (tmp_path / "kustomization.yaml").write_text(text)
    out = cluster("kustomize", str(tmp_path))
    assert "fasttrack/thing" not in out
    assert out.count(new) == made.count("IMAGE")


def test_an_image_set_in_an_overlay_leaves_a_pipelines_version_as_it_is_named(cluster: Kubectl, tmp_path: Path) -> None:
    compile_usecase(ROOT / "examples/flights/usecase.yaml", tmp_path)
    images = [{"name": "fasttrack/train", "newName": "registry.example.com/team/train", "newTag": "9.9.9"}]
    base = os.path.relpath(KUSTOMIZE / "base", tmp_path.resolve())
    text = yaml.safe_dump({"resources": [base, "pipeline.yaml"], "images": images})
    (tmp_path / "kustomization.yaml").write_text(text)
    out = yaml.safe_load_all(cluster("kustomize", str(tmp_path)))
    (version,) = (each for each in out if each["kind"] == "PipelineVersion")
    assert version in list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))


# What of Strimzi's release matters here: where its account is, and where its bindings think it is.
STRIMZI = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: strimzi-cluster-operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: strimzi-cluster-operator-watched}
subjects: [{kind: ServiceAccount, name: strimzi-cluster-operator, namespace: myproject}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: strimzi-cluster-operator-watched}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: strimzi-cluster-operator}
subjects: [{kind: ServiceAccount, name: strimzi-cluster-operator, namespace: myproject}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: strimzi-cluster-operator-global}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: strimzi-cluster-operator}
spec:
  selector: {matchLabels: {name: strimzi-cluster-operator}}
  template:
    metadata: {labels: {name: strimzi-cluster-operator}}
    spec:
      serviceAccountName: strimzi-cluster-operator
      containers:
        - name: strimzi-cluster-operator
          image: quay.io/strimzi/operator:1.2.0
          env: [{name: STRIMZI_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]
"""


def test_strimzis_account_is_bound_where_it_is(cluster: Kubectl, tmp_path: Path) -> None:
    folder = shutil.copytree(KUSTOMIZE / "platform/strimzi", tmp_path / "strimzi")
    made = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (release,) = (each for each in made["resources"] if each.startswith("https://"))
    made["resources"][made["resources"].index(release)] = "release.yaml"
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(made))
    (folder / "release.yaml").write_text(STRIMZI)
    out = list(yaml.safe_load_all(cluster("kustomize", str(folder))))
    (account,) = (each["metadata"] for each in out if each["kind"] == "ServiceAccount")
    subjects = [subject for each in out for subject in each.get("subjects", ())]
    bound = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    assert subjects == [bound] * 5
    assert account["namespace"] in [each["metadata"]["name"] for each in out if each["kind"] == "Namespace"]
    (deployment,) = (each for each in out if each["kind"] == "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "STRIMZI_NAMESPACE", "value": "*"} in environment


@pytest.fixture
def beside(cluster: Kubectl) -> Iterator[dict[str, str]]:
    """Namespaces beside the room's: of Kafka, and of the graph."""
    names = {part: f"test-{part}-{uuid.uuid4().hex[:8]}" for part in ("streaming", "open")}
    cluster.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names.values()))
    try:
        yield names
    finally:
        cluster.run("delete", "namespace", *names.values(), "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize("case", CASES)
def test_what_compile_writes_is_taken_without_a_warning(
    room: Kubectl, beside: dict[str, str], tmp_path: Path, case: str
) -> None:
    path, options = CASES[case]
    chosen = replace(
        options.get("options") or Options(),
        kafka_namespace=beside["streaming"],
        kafka_secrets_copied=True,
        graph_namespace=beside["open"],
    )
    compile_usecase(ROOT / path, tmp_path, **{**options, "namespace": room.namespace, "options": chosen})
    done = Kubectl().run("apply", "--server-side", "--dry-run=server", "--filename", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) >= len(list(tmp_path.glob("*.yaml")))
