"""Compiled KafkaUsers and the Kafka of components/kafka: its authorizer binds them, and few are nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.compile import render
from fasttrack.kubeflow.kafka_objects import API, CLUSTER_LABEL
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


def test_who_has_no_name_may_do_all_and_comes_from_few_pods() -> None:
    spec = kafka()["spec"]["kafka"]
    nameless = [each for each in spec["listeners"] if "authentication" not in each]
    # Strimzi writes `User:` before each. Our clients' listener asks for no name, so that no ACL can mean them.
    assert spec["authorization"] == {"type": "simple", "superUsers": ["ANONYMOUS"]}
    assert [each["name"] for each in nameless] == ["plain"]
    peers = nameless[0]["networkPolicyPeers"]
    assert peers
    # An empty selector would be all pods; a namespace's, all of that namespace's.
    assert all(set(each) == {"podSelector"} and any(each["podSelector"].values()) for each in peers)
