"""The kustomize base, without kubectl: what refers to something refers to something that is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from fasttrack.kubeflow.compile import render
from fasttrack.settings import PREFIX, Settings
from fasttrack.usecase import load

ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests/kustomize/base"


def objects() -> dict[str, dict[str, Any]]:
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    found = [document for name in files for document in yaml.safe_load_all((BASE / name).read_text())]
    return {document["kind"]: document for document in found}


def test_every_file_of_the_base_is_used() -> None:
    listed = set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])
    assert {path.name for path in BASE.glob("*.yaml")} == listed | {"kustomization.yaml"}


def test_the_service_finds_the_deployments_pods() -> None:
    found = objects()
    template = found["Deployment"]["spec"]["template"]
    for selector in (found["Service"]["spec"]["selector"], found["Deployment"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= template["metadata"]["labels"].items()
    container = template["spec"]["containers"][0]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} <= ports
    assert template["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]


def test_the_pod_is_one_that_a_restricted_namespace_admits() -> None:
    found = objects()
    labels = found["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_the_probes_ask_routes_that_the_gateway_has() -> None:
    routes = (ROOT / "api_gateway/app.py").read_text()
    container = objects()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in routes


def test_settings_are_ones_that_the_library_knows() -> None:
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert set(objects()["ConfigMap"]["data"]) <= known


def test_the_steps_and_the_trials_read_settings_that_are_there() -> None:
    config = objects()["ConfigMap"]
    contents = render(load(ROOT / "examples/flights/usecase.yaml"))
    platform = list(yaml.safe_load_all(contents["kfp/training.yaml"]))[1]
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for source in executor["configMapAsEnv"]:
            assert source["configMapName"] == config["metadata"]["name"]
            assert {pair["configMapKey"] for pair in source["keyToEnv"]} <= set(config["data"])
    usecase = yaml.safe_load(contents["usecase.yaml"])
    trainer = yaml.safe_load(contents["experiment.yaml"])["spec"]["trialTemplate"]["trialSpec"]["spec"]["trainer"]
    there = {item["metadata"]["name"]: item["data"] for item in (config, usecase)}
    for variable in trainer["env"]:
        reference = variable["valueFrom"]["configMapKeyRef"]
        assert reference["key"] in there[reference["name"]]
