"""The Katib Experiment of a use case: the search space that Optuna walks here, with a TrainJob as trial."""

from __future__ import annotations

import hashlib
from typing import Any

import yaml

from fasttrack.kubeflow.definitions import checkout
from fasttrack.tuning import katib
from fasttrack.usecase import UseCase

#: Where the trial's entry point lies in the image of the tune step.
TRIAL = "/opt/fasttrack/katib/trial.py"

# Katib adds 9 characters for a trial and JobSet up to 15 for a pod; a label holds 63.
_NAME_LIMIT = 39


def experiment(usecase: UseCase, *, image: str, namespace: str) -> dict[str, Any]:
    """The Experiment: fixed parts from ``katib/experiment.yaml``, the others from the use case.

    Args:
        usecase: the use case.
        image: image of the tune step.
        namespace: the namespace of the object.

    Raises:
        ConfigurationError: there is no checkout with the template.
    """
    made: dict[str, Any] = yaml.safe_load((checkout() / "katib" / "experiment.yaml").read_text(encoding="utf-8"))
    made["metadata"] = {"name": short_name(f"{usecase.name}-tune"), "namespace": namespace}
    tuning, spec = usecase.tuning, made["spec"]
    spec["objective"] = katib.objective(usecase)
    spec["algorithm"] = katib.algorithm(usecase)
    if stopping := katib.early_stopping(usecase):
        spec["earlyStopping"] = stopping
    spec["maxTrialCount"] = max(tuning.trials, len(usecase.models))
    spec["parallelTrialCount"] = min(tuning.parallel_trials, tuning.trials)
    spec["parameters"] = katib.parameters(usecase)
    names = [parameter["name"] for parameter in spec["parameters"]]
    template = spec["trialTemplate"]
    template["trialParameters"] = [{"name": name, "reference": name} for name in names]
    metrics = spec["metricsCollectorSpec"]["source"]["fileSystemPath"]["path"]
    template["trialSpec"]["spec"]["trainer"] |= {
        "image": image,
        "command": ["python", TRIAL],
        "args": [f"--metrics={metrics}", *(f"--set={name}=${{trialParameters.{name}}}" for name in names)],
        "env": [
            _variable("FASTTRACK_USECASE", usecase_object(usecase), "usecase.yaml"),
            _variable("FASTTRACK_LAKE", "fasttrack-settings", "FASTTRACK_LAKE"),
        ],
    }
    return made


def short_name(text: str, limit: int = _NAME_LIMIT) -> str:
    """`text` as a name of at most `limit` characters; a cut one ends in a digest, so that two don't collide."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 7].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def usecase_object(usecase: UseCase) -> str:
    """Name of the ConfigMap that holds the use case."""
    return f"{usecase.name}-usecase"


def _variable(name: str, config_map: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map, "key": key}}}
