"""The real operators take our objects and make of them what they should; wrong ones are refused here and there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.pods import GPU
from fasttrack.kubeflow.spark import scheduled_spark_application
from fasttrack.kubeflow.validation import check
from fasttrack.usecase import UseCase
from tests.cluster.kubectl import Kubectl, Object, Refused, until
from tests.cluster.made import Made, named, pods_of, refer


@pytest.fixture(scope="module", autouse=True)
def usecase_in_the_room(room: Kubectl, flights: UseCase) -> None:
    """What the objects refer to: the use case, and the runtime for GPUs."""
    refer(room, flights)


@pytest.fixture
def made(room: Kubectl, flights: UseCase) -> Made:
    return Made(flights, room.namespace)


@pytest.mark.parametrize("gpus", [False, True])
def test_a_training_becomes_a_jobset_jobs_and_pods(room: Kubectl, made: Made, flights: UseCase, gpus: bool) -> None:
    job = made.training(f"fit-{'gpu' if gpus else 'cpu'}", gpus=gpus)
    name = job["metadata"]["name"]
    assert not room.apply(job)
    named(room, "jobsets.jobset.x-k8s.io", name)
    named(room, "jobs", f"{name}-node-0")
    pods = pods_of(room, f"jobset.sigs.k8s.io/jobset-name={name}", flights.training.workers)
    for pod in pods:
        container = pod["spec"]["containers"][0]
        assert container["image"] == "fasttrack/trainer:0.1.0"
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment["PET_NNODES"] == str(flights.training.workers)
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {
            "/var/lib/fasttrack",
            "/etc/fasttrack/usecase",
        }
        assert (GPU in container["resources"].get("limits", {})) is gpus
    if gpus:
        until(lambda: all(placed_or_told_why(room, pod) for pod in pods), "GPU pods are placed, or it is said why not")


def placed_or_told_why(room: Kubectl, pod: Object) -> bool:
    """On a node that has GPUs; or, where no node has any, the scheduler says so."""
    now = room.get("pod", pod["metadata"]["name"])
    if now is None:
        return True
    if node := now["spec"].get("nodeName"):
        found = room.get("node", node)
        return found is not None and int(found["status"]["allocatable"].get(GPU, "0")) > 0
    conditions = now.get("status", {}).get("conditions", [])
    return any(each.get("reason") == "Unschedulable" and GPU in each.get("message", "") for each in conditions)


def test_a_feature_job_is_submitted(room: Kubectl, made: Made) -> None:
    job = made.features()
    name = job["metadata"]["name"]
    assert not room.apply(job)

    def attempt() -> dict[str, Any]:
        status: dict[str, Any] = (room.get("sparkapplications", name) or {}).get("status", {})
        return status if status.get("lastSubmissionAttemptTime") else {}

    status = until(attempt, "spark-submit was run", 120)
    assert status["submissionAttempts"] >= 1
    # spark-submit's own words where it failed: our pods were refused, or it was never found.
    state = status["applicationState"]
    assert state["state"] not in ("SUBMISSION_FAILED", "FAILED"), json.dumps(state)
    driver = named(room, "pods", status["driverInfo"]["podName"])
    assert driver["spec"]["serviceAccountName"] == "fasttrack-spark"


@pytest.fixture
def every_minute(room: Kubectl, flights: UseCase) -> Iterator[str]:
    """The scheduled job, due each minute; its name. Put to rest at the end."""
    job = scheduled_spark_application(
        flights, image="fasttrack/spark:0.1.0", namespace=room.namespace, schedule="* * * * *"
    )
    assert not room.apply(job)
    name: str = job["metadata"]["name"]
    try:
        yield name
    finally:
        room.run("delete", "scheduledsparkapplications", name, "--ignore-not-found", "--timeout=60s")


def test_a_scheduled_feature_job_starts_when_it_is_due(room: Kubectl, every_minute: str) -> None:
    def children() -> list[Object]:
        found = room.list("sparkapplications")
        owners = [(each, owner) for each in found for owner in each["metadata"].get("ownerReferences", ())]
        return [
            each
            for each, owner in owners
            if (owner["kind"], owner["name"]) == ("ScheduledSparkApplication", every_minute)
        ]

    child = until(children, "the next minute's SparkApplication", 150)[0]
    scheduled = room.get("scheduledsparkapplications", every_minute)
    assert scheduled is not None
    assert child["spec"]["mainApplicationFile"] == scheduled["spec"]["template"]["mainApplicationFile"]
    status = until(
        lambda: (room.get("scheduledsparkapplications", every_minute) or {}).get("status", {}).get("lastRunName"),
        "the schedule tells of its run",
        60,
    )
    assert status.startswith(every_minute)


def wrong(made: Made) -> dict[str, Object]:
    """An object of each kind with one mistake that people make."""
    objects = {
        "TrainJob": made.training("wrong"),
        "SparkApplication": made.features(),
        "Experiment": made.tuning(),
        "InferenceService": made.serving(),
    }
    for each in objects.values():
        each["metadata"]["name"] += "-wrong"
    objects["TrainJob"]["spec"]["runtimeRef"]["name"] = "no-such-runtime"
    objects["SparkApplication"]["spec"]["nodeSelector"] = {"disk": "fast"}
    objects["SparkApplication"]["spec"]["driver"]["nodeSelector"] = {"disk": "slow"}
    objects["Experiment"]["spec"]["algorithm"]["algorithmName"] = "no-such-algorithm"
    objects["InferenceService"]["spec"]["predictor"] |= {"minReplicas": 5, "maxReplicas": 3}
    return objects


@pytest.mark.parametrize("kind", ["TrainJob", "SparkApplication", "Experiment", "InferenceService"])
def test_a_wrong_object_is_refused_here_and_by_the_webhook(room: Kubectl, made: Made, kind: str) -> None:
    it = wrong(made)[kind]
    with pytest.raises(ConfigurationError) as here:
        check([it])
    assert it["metadata"]["name"] in str(here.value)
    with pytest.raises(Refused, match=r"denied the request|is invalid"):
        room.would_take(it)


def test_the_right_objects_pass_both(room: Kubectl, made: Made) -> None:
    for it in (made.training("right"), made.features(), made.tuning(), made.serving()):
        again = copy.deepcopy(it)
        again["metadata"]["name"] = f"right-{it['kind'].lower()}"
        check([again])
        room.would_take(again)
