"""The substrate of a cluster: each piece of work becomes an object of an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fasttrack.errors import FastTrackError
from fasttrack.kubeflow.cluster.kinds import CONFIG_MAP, EXPERIMENT, SPARK_APPLICATION, TRAIN_JOB
from fasttrack.kubeflow.launchers import publish, spark, train, tune
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.names import label_value
from fasttrack.kubeflow.pods import RUN_LABEL, USECASE_LABEL
from fasttrack.progress import note
from fasttrack.registry.records import ModelVersion
from fasttrack.steps.frame import Step

_LEFT = (SPARK_APPLICATION, TRAIN_JOB, EXPERIMENT, CONFIG_MAP)


class Launchers:
    """See `fasttrack.steps.substrate.Substrate`.

    Args:
        place: where the objects go.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @classmethod
    def here(cls) -> Launchers:
        """For the pod that this process runs in.

        Raises:
            ConfigurationError: it is in no pod.
        """
        return cls(Place.of_this_pod())

    def features(self, at: Step, versions: dict[str, int]) -> dict[str, Any]:
        """A SparkApplication."""
        return spark.features(self._place, at, versions)

    def fit(
        self, at: Step, features: str, architecture: str, parameters: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        """A TrainJob."""
        return train.fit(self._place, at, at.name, features, architecture, parameters, folder)

    def search(self, at: Step, features: str, round: int, storage: Path) -> dict[str, Any]:
        """An Experiment; Katib keeps its trials itself."""
        return tune.search(self._place, at, at.name, features, round)

    def serve(self, at: Step, model: ModelVersion, usecase: str) -> dict[str, str]:
        """An InferenceService."""
        return publish.serve(self._place, at, model, usecase)

    def sweep(self, run_id: str, usecase: str) -> list[str]:
        """Delete what steps of a run left because they were killed; what can't be deleted is told, not raised."""
        place, found = self._place, []
        labels = f"{RUN_LABEL}={label_value(run_id)},{USECASE_LABEL}={usecase}"
        for kind in _LEFT:
            # A ConfigMap goes at once, and waiting would take the right to read any one by name.
            wait = 0.0 if kind == CONFIG_MAP else place.limits.cleanup
            try:
                for obj in place.cluster.list(kind, place.namespace, labels=labels):
                    name = obj["metadata"]["name"]
                    place.cluster.delete(kind, name, place.namespace, wait=wait, foreground=False)
                    found.append(f"{kind.kind} {name}")
            except FastTrackError as error:
                note(f"What is left of run {run_id} could not be removed: {error}")
        return found
