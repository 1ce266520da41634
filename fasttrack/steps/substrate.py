"""Where the heavy work of a step is done: in this process, or by the operators of a cluster. The steps don't know."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from fasttrack.steps.frame import OWNER, Step

if TYPE_CHECKING:
    from fasttrack.registry.records import ModelVersion

#: Mounted into every pod that may talk to its API server.
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

# By name: the steps lie below the package that knows clusters, and must not import it.
_CLUSTER = "fasttrack.kubeflow.launchers"


class Substrate(Protocol):
    """The work of the steps that a cluster does with objects of its own; both sides give the same answers."""

    def features(self, at: Step, versions: dict[str, int]) -> dict[str, Any]:
        """Build and check the feature table, refresh the online store.

        Args:
            at: the step.
            versions: the Delta version to read of each stream.

        Returns:
            ``table`` (a `FeatureTable` as JSON values), ``quality`` and ``online``.

        Raises:
            DataQualityError: the table breaks a limit of the use case.
            UnavailableError: the online store does not answer, or the cluster has no room.
        """
        ...

    def fit(
        self, at: Step, features: str, architecture: str, parameters: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        """Fit a candidate and leave the model files in `folder`.

        Returns:
            ``scores`` and ``curve``.

        Raises:
            StepError: the fit failed.
        """
        ...

    def search(self, at: Step, features: str, round: int, storage: Path) -> dict[str, Any]:
        """Search for the best candidate.

        Args:
            at: the step.
            features: where the feature table lies.
            round: from 1.
            storage: a folder that keeps what later rounds can go on from.

        Returns:
            ``architecture``, ``parameters``, ``metric``, ``score`` and ``trials``.

        Raises:
            StepError: no trial came to an end.
        """
        ...

    def serve(self, at: Step, model: ModelVersion, usecase: str) -> dict[str, str]:
        """Serve a registered version and wait until its servers answer; what was served before goes on until then.

        Returns:
            ``predictor_url``, ``transformer_url`` and ``explainer_url``.

        Raises:
            UnavailableError: a server does not come up.
        """
        ...

    def sweep(self, run_id: str, usecase: str) -> list[str]:
        """End what steps of a run left behind because they were killed; returns what it was."""
        ...


def on_cluster() -> bool:
    """Whether this process is a step that a cluster runs: in a pod with an account, and not of a run that is local."""
    return OWNER not in os.environ and bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and TOKEN.is_file()


def substrate() -> Substrate:
    """The substrate of this process.

    Raises:
        ConfigurationError: this is a cluster, but the image lacks its client.
    """
    if on_cluster():
        return cast(Substrate, importlib.import_module(_CLUSTER).Launchers.here())
    from fasttrack.steps.here import Here

    return Here()
