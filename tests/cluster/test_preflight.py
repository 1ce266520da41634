"""What refuses to apply for want of room, images, answers or storage: before anything is half applied."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from fasttrack.errors import (
    ConfigurationError,
    NotFoundError,
    UnavailableError,
)
from fasttrack.kubeflow.checks.storage import check_storage
from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.cluster.kinds import (
    POD,
    Kind,
    Object,
)
from fasttrack.kubeflow.plan import to_apply
from fasttrack.kubeflow.preflight import require_ready
from tests.cluster.plan_rig import FLIGHTS, Room, doctor, fasttrack, nothing_applied, quota, until

WEBHOOKS = Kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration")


def test_a_quota_that_a_run_exceeds_refuses_it_before_anything_is_applied(
    furnished: Room, objects: list[Object]
) -> None:
    with quota(furnished, requests_cpu="1", pods="3"):
        with pytest.raises(ConfigurationError) as caught:
            require_ready(furnished.cluster, objects)
        text = str(caught.value)
        assert "quota small: exceeded: requests.cpu: a run needs" in text and "pods: a run needs" in text
        assert nothing_applied(furnished)
        found = fasttrack("plan", str(FLIGHTS), "--namespace", furnished.name)
        assert found.code == 2 and "quota small" in found.out


def test_a_quota_on_objects_refuses_the_one_too_many(furnished: Room, objects: list[Object]) -> None:
    with quota(furnished, count__experiments_kubeflow_org="0"):
        with pytest.raises(ConfigurationError, match=r"count/experiments\.kubeflow\.org"):
            require_ready(furnished.cluster, objects)
        assert nothing_applied(furnished)


# ---------------------------------------------------------------- images


def test_an_image_that_fails_to_be_pulled_right_now_is_told(furnished: Room, objects: list[Object]) -> None:
    image = next(o for o in objects if o["kind"] == "SparkApplication")["spec"]["image"]
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "main", "image": image, "securityContext": security}
    # On a node that isn't there, no kubelet writes over what the test says in its place.
    spec = {"containers": [container], "nodeName": "fasttrack-absent"}
    furnished.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pulling"}, "spec": spec})
    try:
        waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}
        state = {
            "name": "main",
            "image": image,
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": waiting},
        }
        path = furnished.cluster.path(POD, furnished.name, "pulling") + "/status"
        body = {"status": {"containerStatuses": [state]}}
        furnished.cluster.request("PATCH", path, body=body, content="application/merge-patch+json", where="status")
        with pytest.raises(NotFoundError) as caught:
            require_ready(furnished.cluster, objects)
        assert image in str(caught.value) and "not found" in str(caught.value) and "--registry" in str(caught.value)
        assert nothing_applied(furnished)
    finally:
        furnished.cluster.delete(POD, "pulling", furnished.name, grace=0)


def test_a_registry_that_can_not_be_is_refused_without_a_cluster(tmp_path: Path) -> None:
    found = fasttrack("plan", str(FLIGHTS), "--registry", "https://Registry.example.com", config=tmp_path / "none")
    assert found.code == 2
    assert "can't be the name of an image" in " ".join(found.out.split()) + found.error


# ---------------------------------------------------------------- webhooks, storage, published versions


def test_a_webhook_that_does_not_answer_is_told(furnished: Room, objects: list[Object]) -> None:
    name = f"plan-{uuid.uuid4().hex[:8]}.fasttrack.test"
    hook = {
        "name": name,
        "clientConfig": {"url": "https://127.0.0.1:1/validate"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": furnished.name}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 2,
        "admissionReviewVersions": ["v1"],
    }
    meta = {"apiVersion": WEBHOOKS.api_version, "kind": WEBHOOKS.kind, "metadata": {"name": name}}
    furnished.cluster.create({**meta, "webhooks": [hook]})
    cluster = connect(patience=0.0)
    try:
        with pytest.raises(UnavailableError, match=f"{name} does not answer"):
            until(lambda: require_ready(cluster, objects) is None)
        assert nothing_applied(furnished)
        code, found = doctor(furnished)
        assert code == 1 and name in next(each["detail"] for each in found.values() if not each["ok"])
    finally:
        furnished.cluster.delete(WEBHOOKS, name)


def test_a_claim_of_one_node_is_not_enough(furnished: Room) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    meta = {"name": "single", "namespace": furnished.name}
    furnished.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})
    found = list(check_storage(furnished.cluster, furnished.name, "single"))
    assert not found[0].ok and "ReadWriteMany" in str(found[0].fix)


def test_a_published_version_is_never_replaced_by_the_stopped_one(furnished: Room, objects: list[Object]) -> None:
    compiled = next(each for each in objects if each["kind"] == "InferenceService")
    assert compiled in to_apply(furnished.cluster, [compiled])
    annotations = {k: v for k, v in compiled["metadata"]["annotations"].items() if not k.endswith("/stop")}
    served = {**compiled, "metadata": {**compiled["metadata"], "annotations": annotations}}
    furnished.cluster.apply(served)
    try:
        assert to_apply(furnished.cluster, [compiled, furnished.config("a")]) == [furnished.config("a")]
    finally:
        furnished.cluster.delete(
            Kind(compiled["apiVersion"], compiled["kind"]), compiled["metadata"]["name"], furnished.name
        )
