"""One object of each kind as the launchers make them, for tests of what operators make of those."""

from __future__ import annotations

from typing import Any

import yaml

from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.names import usecase_object
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job
from fasttrack.usecase import UseCase, canonical_text
from tests.cluster.conftest import KUSTOMIZE
from tests.cluster.kubectl import Kubectl, Object, until

DIGEST = "sha256:" + "0" * 64


def refer(room: Kubectl, flights: UseCase) -> None:
    """Put there what the objects refer to: the use case, and the runtime for GPUs."""
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
    """Makes them."""

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

    def serving(self, name: str = "flights", *, beside: bool = False, **options: Any) -> Object:
        service = inference_service(
            self.flights,
            registry="",
            namespace=self.namespace,
            version=1,
            digest=DIGEST,
            storage_uri="pvc://fasttrack-data/packages/flights/sha256-0",
            name=name if beside else "",
            **options,
        )
        service["metadata"]["name"] = name
        return service


def named(room: Kubectl, kind: str, name: str, seconds: float = 90) -> Object:
    return until(lambda: room.get(kind, name), f"{kind}/{name}", seconds)


def pods_of(room: Kubectl, labels: str, number: int) -> list[Object]:
    def enough() -> list[Object]:
        found = room.list("pods", labels)
        return found if len(found) >= number else []

    return until(enough, f"{number} pods with {labels}", 90)
