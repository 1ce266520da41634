"""The kustomize base, without kubectl: what refers to something refers to something that is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

import fasttrack
from api_gateway.options import GatewayOptions
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.checks.served import OPERATORS
from fasttrack.kubeflow.compile import Options, render
from fasttrack.settings import PREFIX, Settings
from fasttrack.usecase import load

ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests/kustomize/base"


def objects() -> list[dict[str, Any]]:
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [document for name in files for document in yaml.safe_load_all((BASE / name).read_text())]


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def gateway() -> dict[str, Any]:
    template: dict[str, Any] = one("Deployment", "gateway")["spec"]["template"]
    return template


def test_every_file_of_the_base_is_used() -> None:
    listed = set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])
    assert {path.name for path in BASE.glob("*.yaml")} == listed | {"kustomization.yaml"}


def test_what_selects_gateways_finds_them() -> None:
    labels = gateway()["metadata"]["labels"].items()
    assert one("Service", "gateway")["spec"]["selector"].items() <= labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert one(kind, "gateway")["spec"]["selector"]["matchLabels"].items() <= labels
    assert one("NetworkPolicy", "gateway")["spec"]["podSelector"]["matchLabels"].items() <= labels
    ports = {port["name"] for port in gateway()["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in one("Service", "gateway")["spec"]["ports"]} <= ports


def test_what_reads_sources_and_what_drains_may_talk_to_kafka_and_the_registry() -> None:
    case = load(ROOT / "tests/golden/ugly.yaml")
    contents = render(case, options=Options(continuous_drain=True))
    made = [each for name in ("sources.yaml", "drain.yaml") for each in yaml.safe_load_all(contents[name])]
    components = {
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in made
        if each["kind"] == "Deployment"
    }
    policy = one("NetworkPolicy", "ingest")["spec"]
    (chosen,) = policy["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == components == {"source", "drain"}
    assert {port["port"] for port in policy["egress"][0]["ports"]} == {8081, 9093}
    for file in ("kafka/kafka.yaml", "schema-registry/schema-registry.yaml"):
        text = (ROOT / "manifests/kustomize/components" / file).read_text()
        assert "matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [source, drain]}]" in text


def test_a_roll_out_never_has_a_gateway_too_few() -> None:
    deployment = one("Deployment", "gateway")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    # The autoscaler owns the number: an applied one would undo it.
    assert "replicas" not in deployment
    container = deployment["template"]["spec"]["containers"][0]
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"] + GatewayOptions().drain_seconds
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > wait


def test_only_v1_and_v2_are_published() -> None:
    route = one("HTTPRoute", "gateway")["spec"]
    paths = {match["path"]["value"] for rule in route["rules"] for match in rule["matches"]}
    assert paths == {"/v1", "/v2", "/v2/models"}
    # V2's own health routes are below /v2: that path alone is published, not what is below it.
    exact = {m["path"]["value"] for rule in route["rules"] for m in rule["matches"] if m["path"]["type"] == "Exact"}
    assert exact == {"/v2"}


def test_accounts_that_pods_name_are_there_and_only_launchers_have_a_token() -> None:
    accounts = {each["metadata"]["name"]: each for each in objects() if each["kind"] == "ServiceAccount"}
    with_token = {name for name, each in accounts.items() if each.get("automountServiceAccountToken", True)}
    assert with_token == {pods.PIPELINE_ACCOUNT, pods.SPARK_ACCOUNT}
    others = {pods.INGEST_ACCOUNT, pods.TRAINING_ACCOUNT, pods.SERVING_ACCOUNT}
    assert set(accounts) >= {*others, gateway()["spec"]["serviceAccountName"]}
    bound = {subject["name"] for each in objects() if each["kind"] == "RoleBinding" for subject in each["subjects"]}
    assert bound == with_token


def test_no_role_reads_secrets_at_large_or_grants_everything() -> None:
    for role in (each for each in objects() if each["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]


def test_the_migrations_are_of_this_release() -> None:
    job = one("Job", f"migrations-{fasttrack.__version__.replace('.', '-')}")
    images = yaml.safe_load((BASE / "kustomization.yaml").read_text())["images"]
    assert {image["newTag"] for image in images} == {fasttrack.__version__}
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] in {image["name"] for image in images}


def test_the_probes_ask_routes_that_the_gateway_has() -> None:
    routes = (ROOT / "api_gateway/app.py").read_text()
    container = gateway()["spec"]["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in routes


def test_settings_are_ones_that_the_library_knows() -> None:
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    assert set(one("ConfigMap", "fasttrack-settings")["data"]) <= known


def test_the_steps_and_the_trials_read_settings_that_are_there() -> None:
    config = one("ConfigMap", "fasttrack-settings")
    contents = render(load(ROOT / "examples/flights/usecase.yaml"))
    platform = list(yaml.safe_load_all(contents["kfp/training.yaml"]))[1]
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for source in executor["configMapAsEnv"]:
            assert source["configMapName"] == config["metadata"]["name"]
            named = {pair["configMapKey"] for pair in source["keyToEnv"]}
            # Limits have defaults; whoever wants others adds them.
            assert {name for name in named if not name.startswith("FASTTRACK_LIMIT_")} <= set(config["data"])
    usecase = yaml.safe_load(contents["usecase.yaml"])
    trainer = yaml.safe_load(contents["experiment.yaml"])["spec"]["trialTemplate"]["trialSpec"]["spec"]["trainer"]
    there = {item["metadata"]["name"]: item["data"] for item in (config, usecase)}
    for variable in trainer["env"]:
        reference = variable["valueFrom"]["configMapKeyRef"]
        assert reference["key"] in there[reference["name"]]


def test_the_hints_of_what_to_install_name_folders_and_releases_that_are_pinned() -> None:
    pinned = {path.parent.name: path.read_text() for path in (BASE.parent / "platform").glob("*/kustomization.yaml")}
    for operator in OPERATORS.values():
        if operator.folder and operator.name != "JobSet":
            assert operator.version in pinned[operator.folder], operator
