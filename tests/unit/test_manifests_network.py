"""Default-deny cuts nothing off that a compiled pod needs: its own way out is open, and so is the other's way in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.compile import render
from fasttrack.usecase import load
from tests.golden.refresh import UGLY

KUSTOMIZE = Path(__file__).parents[2] / "manifests/kustomize"
Object = dict[str, Any]
Labels = dict[str, str]

KAFKA, PLAIN, REGISTRY, REDIS, POSTGRES = 9093, 9092, 8081, 6379, 5432
STEP = {"workflows.argoproj.io/workflow": "run"}
GATEWAY = {"app.kubernetes.io/name": "gateway"}
SERVER = {"serving.kserve.io/inferenceservice": "flights", "app.kubernetes.io/component": "serving"}
#: By port, the labels of who answers there: Strimzi's pods, or those of the overlay `dev`.
STORES = {
    "production": {KAFKA: {"strimzi.io/cluster": "kafka"}, REGISTRY: {"app.kubernetes.io/name": "schema-registry"}},
    "dev": {
        PLAIN: {"app.kubernetes.io/name": "kafka-bootstrap"},
        REGISTRY: {"app.kubernetes.io/name": "schema-registry"},
        REDIS: {"app.kubernetes.io/name": "redis"},
        POSTGRES: {"app.kubernetes.io/name": "postgres"},
    },
}
FILES = {
    "production": ("components/kafka/kafka.yaml", "components/schema-registry/schema-registry.yaml"),
    "dev": ("overlays/dev/network-policies.yaml", "components/schema-registry/schema-registry.yaml"),
}


def matches(selector: Object, labels: Labels) -> bool:
    """Whether a label selector chooses these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for each in selector.get("matchExpressions", ()):
        there = labels.get(each["key"])
        named = each.get("values", ())
        wanted &= {"Exists": there is not None, "In": there in named, "NotIn": there not in named}[each["operator"]]
    return wanted


@cache
def policies(overlay: str) -> tuple[Object, ...]:
    """The NetworkPolicies of base and overlay, and what Strimzi makes of a listener's peers."""
    found = [
        each
        for name in ("base/network-policies.yaml", *FILES[overlay])
        for each in yaml.safe_load_all((KUSTOMIZE / name).read_text())
    ]
    listeners = [one for each in found if each["kind"] == "Kafka" for one in each["spec"]["kafka"]["listeners"]]
    brokers = [
        {"from": each["networkPolicyPeers"], "ports": [{"port": each["port"]}]}
        for each in listeners
        if "networkPolicyPeers" in each
    ]
    made = {"podSelector": {"matchLabels": {"strimzi.io/cluster": "kafka"}}, "policyTypes": ["Ingress"]}
    return tuple(
        [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
        + [{**made, "ingress": brokers}][: len(brokers)]
    )


def open_way(overlay: str, source: Labels, target: Labels, port: int) -> bool:
    """Whether a pod may call another: policies only ever add, and the base denies everything else."""

    def allowed(direction: str, own: Labels, other: Labels) -> bool:
        word = {"egress": "to", "ingress": "from"}[direction]
        return any(
            any("podSelector" in peer and matches(peer["podSelector"], other) for peer in rule[word] if len(peer) == 1)
            and any(each["port"] == port for each in rule["ports"])
            for policy in policies(overlay)
            if matches(policy["podSelector"], own)
            for rule in policy.get(direction, ())
            if word in rule and "ports" in rule
        )

    return allowed("egress", source, target) and allowed("ingress", target, source)


def templates(found: Any) -> Iterator[Labels]:
    """The labels of every pod that an object makes, wherever it has a template or says what its pods are called."""
    if isinstance(found, dict):
        inner = found.get("spec") or {}
        # A patch of a template has no labels, and those of a ServingRuntime are its own.
        if "containers" in inner and "kind" not in found and (labels := found.get("metadata", {}).get("labels")):
            yield labels
        for key, each in found.items():
            if key in ("driver", "executor") and "labels" in each:
                yield each["labels"]
            yield from templates(each)
    elif isinstance(found, list):
        for each in found:
            yield from templates(each)


def compiled_pods() -> dict[str, Labels]:
    """By component, the labels of the pods of a use case that uses every option."""
    contents = render(load(Path(__file__).parents[1] / "golden/ugly.yaml"), namespace=pods.NAMESPACE, options=UGLY)
    objects = [each for name, text in contents.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {labels["app.kubernetes.io/component"]: labels for labels in templates(objects)}


#: What compiled pods of each component call by themselves, beside the names of others.
NEEDS = {
    "source": {KAFKA, PLAIN, REGISTRY},
    "drain": {KAFKA, PLAIN, REGISTRY},
    "features": {REDIS},
    "training": set[int](),
}


def test_every_compiled_pod_is_one_whose_needs_are_known() -> None:
    assert set(compiled_pods()) == set(NEEDS)


@pytest.mark.parametrize("overlay", FILES)
def test_every_compiled_pod_reaches_what_it_needs(overlay: str) -> None:
    made = compiled_pods()
    for component, ports in NEEDS.items():
        labels = made[component]
        assert any(matches(each["podSelector"], labels) for each in policies(overlay) if each.get("egress"))
        for port in ports & STORES[overlay].keys():
            assert open_way(overlay, labels, STORES[overlay][port], port), (component, port)


@pytest.mark.parametrize("overlay", FILES)
def test_steps_servers_and_gateway_reach_what_they_need(overlay: str) -> None:
    for name, labels, ports in (
        ("steps", STEP, {KAFKA, PLAIN, REGISTRY, REDIS, POSTGRES}),
        ("gateway", GATEWAY, {KAFKA, PLAIN, REGISTRY, REDIS, POSTGRES}),
        ("servers", SERVER, {REDIS}),
    ):
        for port in ports & STORES[overlay].keys():
            assert open_way(overlay, labels, STORES[overlay][port], port), (name, port)


@pytest.mark.parametrize("overlay", FILES)
def test_whom_nothing_names_reaches_nothing(overlay: str) -> None:
    stranger = {"app.kubernetes.io/name": "stranger"}
    for labels in (stranger, SERVER):
        for port in {KAFKA, PLAIN, REGISTRY} & STORES[overlay].keys():
            assert not open_way(overlay, labels, STORES[overlay][port], port)


def test_every_pod_may_ask_for_names() -> None:
    (names,) = (
        each
        for each in policies("dev")
        if each["podSelector"] == {}
        and any({"protocol": "UDP", "port": 53} in r["ports"] for r in each.get("egress", ()))
    )
    assert names["egress"][0]["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}


def test_a_connector_reaches_brokers_and_registry_with_a_name() -> None:
    connect = {"strimzi.io/kind": "KafkaConnect", "strimzi.io/cluster": "kafka-connect"}
    stores = STORES["production"]
    assert open_way("production", connect, stores[REGISTRY], REGISTRY)
    assert open_way("production", connect, stores[KAFKA], KAFKA)


def test_the_registry_reaches_the_brokers() -> None:
    for overlay, port in (("production", KAFKA), ("dev", PLAIN)):
        assert open_way(overlay, STORES[overlay][REGISTRY], STORES[overlay][port], port)


def test_no_broker_of_production_is_reached_without_tls() -> None:
    labels = STORES["production"][KAFKA]
    assert not any(open_way("production", each, labels, PLAIN) for each in (STEP, GATEWAY, *compiled_pods().values()))


def test_the_mesh_lets_in_the_accounts_of_those_whom_the_policies_let_in() -> None:
    documents = yaml.safe_load_all((KUSTOMIZE / "components/mesh/authorization.yaml").read_text())
    (registry,) = (each for each in documents if each["metadata"]["name"] == "schema-registry")
    principals = registry["spec"]["rules"][0]["from"][0]["source"]["principals"]
    accounts = {each.rpartition("/")[2] for each in principals}
    assert accounts >= {pods.PIPELINE_ACCOUNT, pods.INGEST_ACCOUNT, "gateway"}
