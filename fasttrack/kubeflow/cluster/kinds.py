"""The kinds of objects that FastTrack handles on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: A Kubernetes object as plain values.
Object = dict[str, Any]


class Kind(NamedTuple):
    """A kind of object: ``Kind("batch/v1", "Job")``."""

    api_version: str
    kind: str

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api_version.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.kind} ({self.api_version})"


def kind_of(obj: Mapping[str, Any]) -> Kind:
    """The kind of an object."""
    return Kind(obj["apiVersion"], obj["kind"])


POD = Kind("v1", "Pod")
EVENT = Kind("v1", "Event")
NAMESPACE = Kind("v1", "Namespace")
CONFIG_MAP = Kind("v1", "ConfigMap")
SECRET = Kind("v1", "Secret")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount")
CUSTOM_RESOURCE_DEFINITION = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
DEPLOYMENT = Kind("apps/v1", "Deployment")
TRAIN_JOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob")
TRAINING_RUNTIME = Kind("trainer.kubeflow.org/v1alpha1", "TrainingRuntime")
SPARK_APPLICATION = Kind("sparkoperator.k8s.io/v1beta2", "SparkApplication")
EXPERIMENT = Kind("kubeflow.org/v1beta1", "Experiment")
TRIAL = Kind("kubeflow.org/v1beta1", "Trial")
INFERENCE_SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService")
