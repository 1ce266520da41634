"""What ails a pod, told from conditions, statuses and events as kubelet, scheduler and controllers write them."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrack.errors import ConfigurationError, StepError, UnavailableError
from fasttrack.kubeflow.cluster import diagnosis

GPU = (
    "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: "
    "2 No preemption victims found for incoming pod."
)
CPU = (
    "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
    "2 Insufficient cpu."
)
TAINT = "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: batch}. no new claims to deallocate"
AFFINITY = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
CLAIM = '0/2 nodes are available: persistentvolumeclaim "fasttrack-data" not found. not found'


def pod(**status: Any) -> dict[str, Any]:
    container = {"name": "node", "image": "r/fasttrack/trainer:1", "resources": {"limits": {"memory": "4Gi"}}}
    return {"metadata": {"name": "p-0"}, "spec": {"containers": [container]}, "status": {"phase": "Pending", **status}}


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    status = {"name": "node", "image": "r/fasttrack/trainer:1", "state": state, **more}
    return pod(containerStatuses=[status], phase="Running")


def waits(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}}, **more)


def ended(code: int, reason: str = "Error", message: str = "", at: str = "2026-11-23T10:00:00Z") -> dict[str, Any]:
    found = container({"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}})
    found["status"]["phase"] = "Failed"
    return found


def disrupted(reason: str) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}
    return pod(phase="Failed", conditions=[{**condition, "lastTransitionTime": "2026-11-23T09:59:00Z"}])


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        (unscheduled(GPU), "no-gpu", "pending for want of a GPU (nvidia.com/gpu)"),
        (unscheduled(CPU), "no-room", "pending for want of cpu"),
        (unscheduled(TAINT), "taint", "no node without the taint dedicated"),
        (unscheduled(AFFINITY), "selector", "no node is of the kind it asks for"),
        (unscheduled(CLAIM), "volume", "pending for want of its volume"),
        (unscheduled("no nodes available to schedule pods"), "no-room", "the cluster has no nodes"),
        (
            unscheduled("", "SchedulingGated") | {"spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}},
            "gated",
            "kueue",
        ),
        (waits("ErrImagePull", "manifest for r/x:1 not found: manifest unknown"), "image", "is not there"),
        (waits("ImagePullBackOff", "pull access denied, authorization failed"), "image", "refuses access"),
        (waits("ErrImagePull", "dial tcp: lookup r: no such host"), "image", "can't be reached"),
        (waits("ImagePullBackOff", 'Back-off pulling image "r/x:1"'), "image", "image can't be pulled"),
        (waits("InvalidImageName"), "image-name", "is no image name"),
        (
            waits("CreateContainerConfigError", 'secret "fasttrack-secrets" not found'),
            "settings",
            "Secret 'fasttrack-secrets'",
        ),
        (
            waits("CreateContainerConfigError", "couldn't find key A in Secret ns/fasttrack-secrets"),
            "settings",
            "no key 'A'",
        ),
        (
            waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            "security",
            "root",
        ),
        (waits("CrashLoopBackOff", lastState={"terminated": {"exitCode": 2}}), "crash", "exit code 2"),
        (
            waits("CrashLoopBackOff", lastState={"terminated": {"reason": "OOMKilled"}}),
            "out-of-memory",
            "want of memory",
        ),
        (ended(137, "OOMKilled"), "out-of-memory", "its limit is 4Gi"),
        (ended(137), "killed", "signal 9"),
        (ended(1, message="Traceback\nValueError: no rows"), "failed", "exit code 1: ValueError: no rows"),
        (
            pod(phase="Failed", reason="Evicted", message="low on memory"),
            "evicted",
            "evicted by its node: low on memory",
        ),
        (pod(phase="Failed", reason="NodeLost"), "node-lost", "node that is lost"),
        (pod(phase="Failed", reason="UnexpectedAdmissionError"), "node-full", "its device can't be had"),
        (pod(phase="Failed", reason="DeadlineExceeded"), "deadline", "longer than its deadline"),
        (disrupted("PreemptionByScheduler"), "preempted", "higher priority"),
        (disrupted("DeletionByTaintManager"), "node-lost", "tainted or lost"),
        (disrupted("EvictionByEvictionAPI"), "evicted", "drained"),
    ],
)
def test_each_trouble_is_told_apart_with_what_to_do(found: dict[str, Any], code: str, told: str) -> None:
    trouble = diagnosis.of_pod(found)
    assert trouble is not None
    assert trouble.code == code
    assert told in trouble.what
    assert trouble.fix


@pytest.mark.parametrize("phase", ["Succeeded", "Running"])
def test_a_pod_that_is_well_has_no_trouble(phase: str) -> None:
    assert diagnosis.of_pod(pod(phase=phase)) is None
    assert diagnosis.of_pod(container({"running": {}})) is None


def test_a_pod_that_is_being_made_has_no_trouble() -> None:
    assert diagnosis.of_pod(waits("ContainerCreating")) is None


def event(name: str, reason: str, message: str, kind: str = "Pod") -> dict[str, Any]:
    return {"type": "Warning", "reason": reason, "message": message, "involvedObject": {"name": name, "kind": kind}}


def test_a_volume_that_cannot_be_mounted_is_told_from_the_pods_own_events() -> None:
    missing = 'MountVolume.SetUp failed for volume "usecase" : configmap "flights-usecase" not found'
    events = [event("other", "FailedMount", "not ours"), event("p-0", "FailedMount", missing)]
    trouble = diagnosis.of_pod(pod(), events)
    assert trouble is not None
    assert (trouble.code, missing in trouble.what) == ("volume", True)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('pods "a" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4', "quota"),
        ('pods "a" is forbidden: failed quota: team: must specify requests.cpu for: init,wait', "quota"),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "pod-security"),
        ('admission webhook "v.kyverno.svc" denied the request: no latest tag', "webhook"),
        ('Internal error: failed calling webhook "x": connection refused', "webhook"),
        (
            'pods "a" is forbidden: error looking up service account ns/training: serviceaccount "x" not found',
            "account",
        ),
    ],
)
def test_why_no_pod_is_made_is_told_from_its_owners_events(message: str, code: str) -> None:
    events = [event("job-node-0", "FailedCreate", message, "Job"), event("elsewhere", "FailedCreate", message, "Job")]
    assert [found.code for found in diagnosis.of_events(events, "job-")] == [code]


def test_the_first_pod_to_fall_is_the_cause_and_those_asked_to_end_are_not() -> None:
    asked, late = ended(143, at="2026-11-23T09:00:00Z"), ended(1, at="2026-11-23T10:00:00Z")
    cause = diagnosis.cause([asked, late, ended(137, "OOMKilled", at="2026-11-23T09:58:00Z")])
    assert cause is not None and cause.code == "out-of-memory"
    cause = diagnosis.cause([late, disrupted("PreemptionByScheduler")])
    assert cause is not None and cause.code == "preempted"
    assert diagnosis.cause([pod(phase="Succeeded")]) is None


@pytest.mark.parametrize(
    ("found", "kind"),
    [(unscheduled(GPU), UnavailableError), (waits("ErrImagePull"), ConfigurationError), (ended(1), StepError)],
)
def test_a_trouble_becomes_the_error_that_its_cure_calls_for(found: dict[str, Any], kind: type[Exception]) -> None:
    trouble = diagnosis.of_pod(found)
    assert trouble is not None
    error = trouble.error("TrainJob a")
    assert type(error) is kind
    assert error.fix == trouble.fix
