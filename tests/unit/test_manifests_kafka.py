"""Compiled KafkaUsers and the Kafka of components/kafka: its authorizer binds them, and nobody is without a name."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.compile import GATEWAY, Options, render
from fasttrack.kubeflow.kafka_access import GATEWAY_USER, VARIABLES
from fasttrack.kubeflow.kafka_objects import API, CLUSTER_LABEL, gateway_rights
from fasttrack.usecase import load

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "manifests/kustomize/components/kafka/kafka.yaml"
Object = dict[str, Any]


def kafka() -> Object:
    (found,) = (each for each in yaml.safe_load_all(COMPONENT.read_text()) if each["kind"] == "Kafka")
    return dict(found)


def compiled(path: str, kind: str) -> list[Object]:
    documents = yaml.safe_load_all(render(load(ROOT / path))["kafka.yaml"])
    return [each for each in documents if each["kind"] == kind]


@pytest.mark.parametrize("path", ["examples/flights/usecase.yaml", "tests/golden/ugly.yaml"])
def test_the_kafka_takes_the_users_that_are_compiled_for_it(path: str) -> None:
    broker, users = kafka(), compiled(path, "KafkaUser")
    assert users
    assert all(len(each["metadata"]["name"]) <= 64 for each in users), "the longest name of a certificate"
    listeners = [each.get("authentication", {}).get("type") for each in broker["spec"]["kafka"]["listeners"]]
    for user in users:
        # The user operator refuses ACLs of a Kafka without an authorizer, and a login that no listener asks for.
        assert user["spec"]["authorization"]["type"] == broker["spec"]["kafka"]["authorization"]["type"]
        assert user["spec"]["authentication"]["type"] in listeners
    for each in (*users, *compiled(path, "KafkaTopic")):
        assert each["metadata"]["labels"][CLUSTER_LABEL] == broker["metadata"]["name"]
        assert each["metadata"]["namespace"] == broker["metadata"]["namespace"] == pods.NAMESPACE
        assert each["apiVersion"] == broker["apiVersion"] == API
    assert {"topicOperator", "userOperator"} <= set(broker["spec"]["entityOperator"])


def test_nobody_comes_in_without_a_name_and_nobody_may_do_all() -> None:
    spec = kafka()["spec"]["kafka"]
    assert spec["authorization"] == {"type": "simple"}
    (listener,) = spec["listeners"]
    assert (listener["tls"], listener["authentication"]) == (True, {"type": "tls"})
    # An empty selector would be all pods, or all namespaces.
    assert listener["networkPolicyPeers"]
    assert all(selector for each in listener["networkPolicyPeers"] for selector in each.values())


def overlay(name: str, *components: Path) -> list[Object]:
    """The objects of an overlay, by kubectl; with more components, as a user would list them."""
    folder = ROOT / "manifests/kustomize/overlays" / name
    if not components:
        made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
        return list(yaml.safe_load_all(made.stdout))
    with tempfile.TemporaryDirectory() as mine:
        base, *listed = [os.path.relpath(each, os.path.realpath(mine)) for each in (folder, *components)]
        text = {"resources": [base], "components": listed}
        Path(mine, "kustomization.yaml").write_text(yaml.safe_dump(text))
        made = subprocess.run(["kubectl", "kustomize", mine], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(made.stdout))


def one(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("name", ["production", "staging"])
def test_gateway_and_registry_come_as_users_that_are_there(name: str) -> None:
    objects = overlay(name)
    assert one(objects, "ConfigMap", "fasttrack-settings")["data"]["FASTTRACK_KAFKA"] == "kafka-kafka-bootstrap:9093"
    users = {each["metadata"]["name"] for each in objects if each["kind"] == "KafkaUser"}
    for deployment in ("gateway", "schema-registry"):
        pod = one(objects, "Deployment", deployment)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        secrets = {each["secret"]["secretName"] for each in pod["volumes"] if each["name"].startswith("kafka-")}
        assert secrets - {"kafka-cluster-ca-cert"} <= users
        assert len(secrets) == 2
        assert {each["name"] for each in container["volumeMounts"]} >= {"kafka-ca", "kafka-user"}
    env = one(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert VARIABLES.items() <= {each["name"]: each.get("value") for each in env}.items()
    env = one(objects, "Deployment", "schema-registry")["spec"]["template"]["spec"]["containers"][0]["env"]
    names = [each["name"] for each in env]
    servers = names.index("SCHEMA_REGISTRY_KAFKASTORE_BOOTSTRAP_SERVERS")
    # Kubernetes only puts in what stands before.
    assert names.index("FASTTRACK_KAFKA") < servers
    assert env[servers]["value"] == "SSL://$(FASTTRACK_KAFKA)"


def test_the_broker_of_dev_has_no_tls_and_nobody_there_asks_for_it() -> None:
    objects = overlay("dev")
    env = one(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert not {each["name"] for each in env} & set(VARIABLES)
    assert one(objects, "ConfigMap", "fasttrack-settings")["data"]["FASTTRACK_KAFKA"].endswith(":9092")


def test_the_compiled_component_gives_the_gateway_its_rights() -> None:
    user = one(overlay("staging", ROOT / "tests/golden/ugly/gateway"), "KafkaUser", GATEWAY_USER)
    before = one(overlay("staging"), "KafkaUser", GATEWAY_USER)["spec"]["authorization"]["acls"]
    added = user["spec"]["authorization"]["acls"][len(before) :]
    assert user["spec"]["authorization"]["acls"] == before + added
    assert added == gateway_rights(load(ROOT / "tests/golden/ugly.yaml")) != []


def test_a_use_case_without_webhooks_asks_nothing_for_the_gateway() -> None:
    assert GATEWAY not in render(load(ROOT / "examples/flights/usecase.yaml"))
    assert GATEWAY not in render(load(ROOT / "tests/golden/ugly.yaml"), options=Options(leave_out=("kafka",)))
