"""The operators that manifests install are the releases that compiled objects are checked against."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from fasttrack.kubeflow.rules.pod_security import pod_problems
from fasttrack.kubeflow.schemas import PATH
from fasttrack.usecase.learning import Tuning
from tests.golden.runtimes import runtimes

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "manifests/kustomize"
PLATFORM = KUSTOMIZE / "platform"

#: Folder of platform/, and what the schemas call that operator.
CHECKED = {
    "katib": "katib",
    "kserve": "kserve",
    "pipelines": "kfp",
    "prometheus": "prometheus-operator",
    "spark-operator": "spark-operator",
    "strimzi": "strimzi",
    "trainer": "trainer",
}
#: Operators whose objects stand in manifests/ only: tests/cluster has the API server check those.
OTHERS = {"cert-manager": "v1.21.0", "cloudnative-pg": "v1.30.0"}
_PIN = re.compile(r"[?&]ref=([^&]+)$|/releases/download/([^/]+)/")


def kustomization(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PLATFORM / folder / "kustomization.yaml").read_text())
    return found


def remote(folder: str) -> list[str]:
    """What a folder of platform/ takes from elsewhere."""
    return [each for each in kustomization(folder)["resources"] if not (PLATFORM / folder / each).exists()]


def pins(folder: str) -> set[str]:
    """The releases that a folder of platform/ takes."""
    found = [_PIN.search(resource) for resource in remote(folder)]
    assert found
    assert all(found), folder
    return {match[1] or match[2] for match in found if match}


def test_every_operator_is_pinned_to_the_release_that_compile_knows() -> None:
    known = json.loads(PATH.read_text())["versions"]
    for folder, name in CHECKED.items():
        assert pins(folder) == {known[name]}, folder


def test_the_other_operators_are_pinned_too() -> None:
    assert {folder: pins(folder) for folder in OTHERS} == {folder: {pin} for folder, pin in OTHERS.items()}
    assert {path.name for path in PLATFORM.iterdir() if path.is_dir()} == {*CHECKED, *OTHERS}


def test_the_table_of_releases_says_the_same() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([\w.]+) \|", (PLATFORM / "README.md").read_text(), re.MULTILINE)
    assert {folder: {pin} for folder, pin in rows} == {folder: pins(folder) for folder in (*CHECKED, *OTHERS)}


def test_sources_are_https_and_of_the_projects_themselves() -> None:
    for folder in (*CHECKED, *OTHERS):
        for resource in remote(folder):
            assert resource.startswith("https://github.com/"), resource


def test_strimzis_operator_may_do_in_all_namespaces_what_it_is_told_to_watch() -> None:
    made = kustomization("strimzi")
    namespace = made["namespace"]
    own = list(yaml.safe_load_all((PLATFORM / "strimzi/cluster-bindings.yaml").read_text()))
    assert yaml.safe_load((PLATFORM / "strimzi/namespace.yaml").read_text())["metadata"]["name"] == namespace
    # What Strimzi's documentation ("Watching all namespaces") has one make.
    assert {each["roleRef"]["name"] for each in own} == {
        "strimzi-cluster-operator-watched", "strimzi-cluster-operator-namespaced", "strimzi-entity-operator",
    }  # fmt: skip
    subject = {"kind": "ServiceAccount", "name": "strimzi-cluster-operator", "namespace": namespace}
    assert all(each["kind"] == "ClusterRoleBinding" and each["subjects"] == [subject] for each in own)
    patches = {each["target"]["kind"]: yaml.safe_load(each["patch"]) for each in made["patches"]}
    environment = patches["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "STRIMZI_NAMESPACE", "value": "*", "valueFrom": None} in environment
    # Upstream's own bindings name the namespace `myproject`: tests/cluster/test_kustomize.py renders them.
    assert patches["(Cluster)?RoleBinding"] == [{"op": "replace", "path": "/subjects/0/namespace", "value": namespace}]


def test_katibs_settings_hold_what_experiments_name_at_the_release_that_is_installed() -> None:
    config = yaml.safe_load((PLATFORM / "katib/katib-config.yaml").read_text())
    parts = config["runtime"]
    images = [each["image"] for kind in parts.values() for each in kind]
    assert {image.partition(":")[2] for image in images} == pins("katib")
    fields = Tuning.model_fields
    named = {kind: {each["algorithmName"] for each in parts[kind]} for kind in ("suggestions", "earlyStoppings")}
    assert set(get_args(fields["algorithm"].annotation)) <= named["suggestions"]
    assert set(get_args(fields["early_stopping"].annotation)) - {"none"} == named["earlyStoppings"]
    assert {each["kind"] for each in parts["metricsCollectors"]} >= {"File"}
    assert config["init"]["controller"]["injectSecurityContext"] is True
    for each in parts["suggestions"]:
        made = {"securityContext": each["securityContext"]}
        assert not list(pod_problems({"containers": [made]}, "spec")), each["algorithmName"]


@pytest.mark.parametrize("path", runtimes(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_runtimes_are_the_ones_that_the_library_renders(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == runtimes()[path], "run: make golden"


def test_every_file_is_used() -> None:
    for kustomization in KUSTOMIZE.rglob("kustomization.yaml"):
        folder, text = kustomization.parent, kustomization.read_text()
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in ("kustomization.yaml", "README.md"):
                assert str(path.relative_to(folder)) in text, path
