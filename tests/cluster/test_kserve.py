"""KServe makes of our services and graphs what gateway, policies and the publish step count on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from fasttrack.kubeflow.graph import inference_graph
from fasttrack.kubeflow.inference import Canary
from fasttrack.kubeflow.pods import GPU
from fasttrack.kubeflow.scaling import Scaling
from fasttrack.serving.flags import parse
from fasttrack.usecase import UseCase
from tests.cluster.kubectl import Kubectl, Object, until
from tests.cluster.made import DIGEST, Made, named, pods_of, refer


@pytest.fixture(scope="module", autouse=True)
def usecase_in_the_room(room: Kubectl, flights: UseCase) -> None:
    """What the objects refer to."""
    refer(room, flights)


@pytest.fixture
def made(room: Kubectl, flights: UseCase) -> Made:
    return Made(flights, room.namespace)


def test_a_service_becomes_deployments_services_scalers_and_routes(room: Kubectl, made: Made) -> None:
    service = made.serving()
    name = service["metadata"]["name"]
    assert not room.apply(service)
    for component in ("predictor", "explainer"):
        whole = f"{name}-{component}"
        deployment = named(room, "deployments", whole)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        # What network policies and the mesh go by.
        assert labels["serving.kserve.io/inferenceservice"] == name
        assert labels["app.kubernetes.io/component"] == "serving"
        named(room, "services", whole)
        named(room, "hpa", whole)
        # Pods are there: the namespace's `restricted` has admitted what KServe made of ours.
        pods_of(room, f"serving.kserve.io/inferenceservice={name},component={component}", 1)
    # KServe makes routes when the pods are ready: on simulated nodes at once, on others when they have our images.
    for whole in (name, f"{name}-predictor", f"{name}-explainer"):
        named(room, "httproutes.gateway.networking.k8s.io", whole)


def test_with_keda_a_service_gets_scaled_objects_and_no_hpa(room: Kubectl, made: Made) -> None:
    assert not room.apply(made.serving("flights-keda", scaling=Scaling(1, 3, "keda")))
    for component, kinds in (("predictor", ["cpu", "prometheus"]), ("explainer", ["cpu"])):
        found = named(room, "scaledobjects.keda.sh", f"flights-keda-{component}")["spec"]
        assert found["scaleTargetRef"]["name"] == f"flights-keda-{component}"
        assert sorted(each["type"] for each in found["triggers"]) == kinds
    assert found["maxReplicaCount"] == 1, "the explainer gets half"
    assert not [each for each in room.list("hpa") if each["metadata"]["name"].startswith("flights-keda")]


def test_with_gpus_the_predictor_asks_for_one_and_tolerates_its_nodes(room: Kubectl, made: Made) -> None:
    assert not room.apply(made.serving("flights-gpu", gpus=True))
    pod = named(room, "deployments", "flights-gpu-predictor")["spec"]["template"]["spec"]
    containers = {each["name"]: each for each in pod["containers"]}
    assert containers["kserve-container"]["resources"]["limits"][GPU] == "1"
    assert {"name": "FASTTRACK_DEVICE", "value": "cuda"} in containers["kserve-container"]["env"]
    assert GPU not in containers["transformer-container"]["resources"]["limits"]
    assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    explainer = named(room, "deployments", "flights-gpu-explainer")["spec"]["template"]["spec"]
    assert GPU not in json.dumps(explainer["containers"])


def test_in_one_process_kserve_makes_one_container_that_looks_entities_up(room: Kubectl, flights: UseCase) -> None:
    serving = flights.serving.model_copy(update={"in_process": True})
    whole = Made(flights.model_copy(update={"serving": serving}), room.namespace)
    assert not room.apply(whole.serving("flights-one"))
    pod = named(room, "deployments", "flights-one-predictor")["spec"]["template"]["spec"]
    (container,) = [each for each in pod["containers"] if "container" in each["name"]]
    assert container["name"] == "kserve-container"
    assert container["image"].rsplit("/", 1)[-1].startswith("transformer")
    # KServe puts the model's arguments behind the runtime's, and what comes later counts.
    options = parse("transformer", container["args"])
    assert (options.predictor_protocol, options.http_port, options.digest) == ("in-process", 8080, DIGEST)
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert any(options.usecase.startswith(mount) for mount in mounts)
    names = [each["name"] for each in container["env"]]
    assert {"FASTTRACK_BIND", "FASTTRACK_VERIFY_KEY", "FASTTRACK_REDIS"} <= set(names)
    assert len(set(names)) == len(names)
    # The package is mounted when a pod is made.
    (made, *_) = pods_of(room, "serving.kserve.io/inferenceservice=flights-one,component=predictor", 1)
    (container,) = [each for each in made["spec"]["containers"] if each["name"] == "kserve-container"]
    assert "/mnt/models" in {each["mountPath"] for each in container["volumeMounts"]}


def test_a_canary_gets_a_deployment_of_its_own_beside_the_one_that_is_served(room: Kubectl, made: Made) -> None:
    other = "sha256:" + "1" * 64
    beside = Canary(2, other, "pvc://fasttrack-data/packages/flights/sha256-1", 10)
    assert not room.apply(made.serving("flights-two", canary=beside))

    def predictors() -> list[Object]:
        found = room.list("deployments", "serving.kserve.io/inferenceservice=flights-two")
        chosen = [each for each in found if not each["metadata"]["name"].endswith("-explainer")]
        return chosen if len(chosen) == 2 else []

    digests = {}
    for each in until(predictors, "Deployments of both versions", 90):
        text = json.dumps(each["spec"]["template"]["spec"]["containers"])
        digests[each["metadata"]["name"]] = [digest for digest in (DIGEST, other) if digest in text]
    # The publish step waits for the one of this name, and lets the other be.
    assert digests == {"flights-two-predictor": [DIGEST], "flights-two-v2-predictor": [other]}


@pytest.fixture
def open_space(cluster: Kubectl, room: Kubectl) -> Iterator[Kubectl]:
    """A namespace that enforces nothing: KServe's router names no seccomp profile."""
    name = f"{room.namespace}-graph"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield Kubectl(name)
    finally:
        cluster.run("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def test_a_graph_becomes_a_router(room: Kubectl, open_space: Kubectl, flights: UseCase) -> None:
    graph = inference_graph(flights, namespace=open_space.namespace, service_namespace=room.namespace)
    name = graph["metadata"]["name"]
    assert not open_space.apply(graph)
    deployment = named(open_space, "deployments", name)
    (router,) = deployment["spec"]["template"]["spec"]["containers"]
    routes = json.dumps([*router.get("args", ()), *router.get("command", ())])
    for step in graph["spec"]["nodes"]["root"]["steps"]:
        assert step["serviceUrl"] in routes
    named(open_space, "services", name)


def test_a_challenger_as_a_service_of_its_own_serves_the_use_case_s_name(room: Kubectl, made: Made) -> None:
    assert not room.apply(made.serving("flights-v2", beside=True))
    for component in ("predictor", "explainer"):
        named(room, "services", f"flights-v2-{component}")
    containers = named(room, "deployments", "flights-v2-predictor")["spec"]["template"]["spec"]["containers"]
    for container in containers:
        # Gateways ask /v2/models/flights; of several, the last is what counts.
        names = [word for word in container["args"] if word.startswith("--model_name=")]
        assert names[-1] == "--model_name=flights", container["name"]
