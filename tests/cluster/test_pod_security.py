"""The real API server admits every pod of ours into a namespace that enforces `restricted`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import training_runtime
from fasttrack.usecase import UseCase
from tests.cluster.conftest import OURS, OVERLAYS, overlay_objects
from tests.cluster.kubectl import Kubectl, Object, Refused, until

TEMPLATES = ("Deployment", "StatefulSet", "DaemonSet", "Job")


def templates(overlay: str) -> list[Object]:
    """The objects of an overlay that make pods themselves."""
    return [each for each in overlay_objects(overlay) if each["kind"] in TEMPLATES]


def pod(name: str, spec: Object, labels: Object | None = None) -> Object:
    """A pod of a template; claims are named by StatefulSets, here they are only mounted."""
    made = copy.deepcopy(spec)
    mounted = {mount["name"] for each in made["containers"] for mount in each.get("volumeMounts", [])}
    known = {volume["name"] for volume in made.get("volumes", [])}
    made.setdefault("volumes", []).extend({"name": name, "emptyDir": {}} for name in sorted(mounted - known))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": made}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_of_an_overlay(room: Kubectl, overlay: str) -> None:
    found = [each for each in templates(overlay) if each["metadata"]["namespace"] == OURS[0]]
    assert {each["metadata"]["name"] for each in found} >= {"gateway", "migrations-0-1-0"}
    room.would_take(*(pod(each["metadata"]["name"], each["spec"]["template"]["spec"]) for each in found))


@pytest.mark.parametrize("gpus", [False, True])
def test_the_nodes_of_a_training(room: Kubectl, gpus: bool) -> None:
    runtime = training_runtime(image="fasttrack/trainer:0.1.0", namespace=room.namespace, gpus=gpus)
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
    room.would_take(pod("node", job["spec"]["template"]["spec"]))


@pytest.mark.parametrize("part", ["driver", "executor"])
def test_the_pods_of_a_spark_job(room: Kubectl, flights: UseCase, part: str) -> None:
    job = spark_application(flights, image="fasttrack/spark:0.1.0", namespace=room.namespace, name="job")
    template = copy.deepcopy(job["spec"][part]["template"])
    template["spec"]["containers"][0]["image"] = job["spec"]["image"]
    room.would_take(pod(part, template["spec"]))


def test_explainers(room: Kubectl, flights: UseCase) -> None:
    made = inference_service(
        flights, registry="", namespace=room.namespace, version=1, digest="sha256:" + "0" * 64, storage_uri="pvc://a/b"
    )
    keys = ("containers", "volumes", "securityContext", "serviceAccountName", "automountServiceAccountToken")
    room.would_take(pod("explainer", {key: made["spec"]["explainer"][key] for key in keys}))


def test_brokers_as_strimzi_is_told_to_make_them(room: Kubectl) -> None:
    pools = [each for each in overlay_objects("production") if each["kind"] == "KafkaNodePool"]
    assert {each["metadata"]["name"] for each in pools} == {"controllers", "brokers"}
    for pool in pools:
        template: dict[str, Any] = pool["spec"]["template"]
        security = template["kafkaContainer"]["securityContext"]
        container = {"name": "kafka", "image": "kafka", "securityContext": security}
        room.would_take(pod("it", {"securityContext": template["pod"]["securityContext"], "containers": [container]}))


@pytest.mark.parametrize(
    "more", [{"privileged": True}, {"runAsUser": 0, "runAsNonRoot": False}, {"capabilities": {"add": ["NET_ADMIN"]}}]
)
def test_a_pod_that_asks_for_more_is_refused(room: Kubectl, more: Object) -> None:
    gateway = next(each for each in templates("dev") if each["metadata"]["name"] == "gateway")
    made = pod("gateway", gateway["spec"]["template"]["spec"])
    made["spec"]["containers"][0]["securityContext"] = more
    with pytest.raises(Refused, match="violates PodSecurity"):
        room.would_take(made)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_namespaces_enforce_restricted_but_the_one_that_reads_the_nodes_logs(overlay: str) -> None:
    spaces = [each["metadata"] for each in overlay_objects(overlay) if each["kind"] == "Namespace"]
    assert {each["name"] for each in spaces} <= set(OURS)
    for each in spaces:
        level = "privileged" if each["name"] == "fasttrack-logs" else "restricted"
        assert each["labels"]["pod-security.kubernetes.io/enforce"] == level


@pytest.fixture
def logs(cluster: Kubectl) -> Iterator[Kubectl]:
    """The namespace of Filebeat, with the policy that fences it in."""
    wanted = [each for each in overlay_objects("production") if "logs" in each["metadata"].get("labels", {}).values()]
    if cluster.get("namespace", "fasttrack-logs"):
        pytest.fail("The namespace fasttrack-logs exists: use a cluster for tests, or delete it.", pytrace=False)
    cluster.apply(*(each for each in wanted if each["kind"] != "DaemonSet"))
    try:
        yield Kubectl("fasttrack-logs")
    finally:
        for each in wanted:
            if each["kind"].startswith("ValidatingAdmissionPolicy"):
                cluster.run("delete", each["kind"], each["metadata"]["name"])
        cluster.run("delete", "namespace", "fasttrack-logs", "--timeout=60s")


def test_filebeat_reads_the_nodes_logs_and_nothing_else_may_stand_beside_it(logs: Kubectl) -> None:
    daemon = next(each for each in templates("production") if each["metadata"]["name"] == "filebeat")
    right = pod("filebeat", daemon["spec"]["template"]["spec"])
    writing, elsewhere, privileged, adding = (copy.deepcopy(right) for _ in range(4))
    writing["spec"]["containers"][0]["volumeMounts"][-1]["readOnly"] = False
    elsewhere["spec"]["volumes"][-1]["hostPath"]["path"] = "/etc"
    privileged["spec"]["containers"][0]["securityContext"]["privileged"] = True
    privileged["spec"]["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")
    adding["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]
    # A policy takes some moments to be known to the API server.
    until(lambda: refused(logs, writing), "the policy is in force")
    for wrong in (writing, elsewhere, privileged, adding):
        assert "fasttrack-logs-pods" in refused(logs, wrong)
    assert refused(logs, right) == ""


def refused(kubectl: Kubectl, made: Object) -> str:
    """Why a pod is refused; empty if it is not."""
    try:
        kubectl.would_take(made)
    except Refused as error:
        return str(error)
    return ""
