"""The real operators take our objects and make of them what they should; wrong ones are refused here and there."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.names import usecase_object
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job
from fasttrack.kubeflow.validation import check
from fasttrack.usecase import UseCase, canonical_text
from tests.cluster.conftest import KUSTOMIZE
from tests.cluster.kubectl import Kubectl, Object, Refused, until

GPU = "nvidia.com/gpu"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module", autouse=True)
def usecase_in_the_room(room: Kubectl, flights: UseCase) -> None:
    """What the objects refer to: the use case, and the runtime for GPUs."""
    runtime = yaml.safe_load((KUSTOMIZE / "components/gpu/training-runtime.yaml").read_text())
    runtime["metadata"]["namespace"] = room.namespace
    usecase = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": usecase_object(flights)},
        "data": {"usecase.yaml": canonical_text(flights)},
    }
    until(lambda: not room.apply(usecase, runtime), "what the objects refer to")


class Made:
    """One object of each kind, as the launchers make them."""

    def __init__(self, flights: UseCase, namespace: str) -> None:
        self.flights, self.namespace = flights, namespace

    def training(self, name: str = "fit", *, gpus: bool = False) -> Object:
        return train_job(
            self.flights,
            image="fasttrack/trainer:0.1.0",
            namespace=self.namespace,
            name=name,
            features="/var/lib/fasttrack/lake/flights/features/1",
            architecture="mlp",
            parameters={"hidden": 64},
            out="/var/lib/fasttrack/runs/1",
            gpus=gpus,
        )

    def features(self) -> Object:
        return spark_application(
            self.flights, image="fasttrack/spark:0.1.0", namespace=self.namespace, name="flights-features"
        )

    def tuning(self) -> Object:
        return experiment(self.flights, image="fasttrack/trainer:0.1.0", namespace=self.namespace)

    def serving(self) -> Object:
        return inference_service(
            self.flights,
            registry="",
            namespace=self.namespace,
            version=1,
            digest=DIGEST,
            storage_uri="pvc://fasttrack-data/packages/flights/sha256-0",
        )


@pytest.fixture
def made(room: Kubectl, flights: UseCase) -> Made:
    return Made(flights, room.namespace)


def named(room: Kubectl, kind: str, name: str, seconds: float = 90) -> Object:
    return until(lambda: room.get(kind, name), f"{kind}/{name}", seconds)


def pods_of(room: Kubectl, labels: str, number: int) -> list[Object]:
    def enough() -> list[Object]:
        found = room.list("pods", labels)
        return found if len(found) >= number else []

    return until(enough, f"{number} pods with {labels}", 90)


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


def test_a_search_starts_trials(room: Kubectl, made: Made) -> None:
    search = made.tuning()
    name = search["metadata"]["name"]
    assert not room.apply(search)
    suggestion = named(room, "suggestions.kubeflow.org", name)
    assert suggestion["spec"]["algorithm"]["algorithmName"] == search["spec"]["algorithm"]["algorithmName"]
    created = until(lambda: (room.get("experiments.kubeflow.org", name) or {}).get("status"), "Katib takes it", 60)
    assert created["conditions"][0]["type"] == "Created"


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
