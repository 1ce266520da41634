"""The Katib Experiment of a use case: the search space that Optuna walks here, with a TrainJob as trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name, usecase_object
from fasttrack.kubeflow.pods import Object
from fasttrack.kubeflow.trainjob import resources, runtime_name
from fasttrack.tuning import katib
from fasttrack.usecase import UseCase

#: Where the trial's entry point lies in the image of TrainJobs.
TRIAL = "/opt/fasttrack/katib/trial.py"

# Katib adds 9 characters for a trial and JobSet up to 15 for a pod; a label holds 63.
NAME_LIMIT = 39
_TEMPLATE = Path(__file__).with_name("experiment.yaml")


def experiment(
    usecase: UseCase,
    *,
    image: str,
    namespace: str,
    name: str | None = None,
    features: str | None = None,
    gpus: bool = False,
    run_id: str = "",
    suspend: bool = False,
) -> Object:
    """The Experiment: fixed parts from ``experiment.yaml`` beside this file, the others from the use case.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: image of the trials.
        namespace: the namespace of the object; the TrainingRuntimes must be there.
        name: name of the object; by default ``<use case>-tune``.
        features: where the feature table lies on the shared volume; by default each trial takes the newest.
        gpus: run the trials on nodes with GPUs.
        run_id: name of the run that this belongs to.
        suspend: let the trials wait: Katib makes them, but no pod starts.
    """
    made: dict[str, Any] = yaml.safe_load(_TEMPLATE.read_text(encoding="utf-8"))
    named = object_name(name or f"{usecase.name}-tune", NAME_LIMIT)
    made["metadata"] = pods.metadata(named, namespace, "tuning", usecase, run_id)
    tuning, spec = usecase.tuning, made["spec"]
    template = spec["trialTemplate"]
    spec["objective"] = katib.objective(usecase)
    spec["algorithm"] = katib.algorithm(usecase)
    if stopping := katib.early_stopping(usecase):
        spec["earlyStopping"] = stopping
        # Katib 0.19 asks for no further trial until it has the score of a stopped one, and gets none once it has
        # deleted its TrainJob (kubeflow/katib#1377).
        template["retain"] = True
    spec["maxTrialCount"] = max(tuning.trials, len(usecase.models))
    spec["maxFailedTrialCount"] = min(spec["maxFailedTrialCount"], spec["maxTrialCount"])
    spec["parallelTrialCount"] = min(tuning.parallel_trials, spec["maxTrialCount"])
    spec["parameters"] = katib.parameters(usecase)
    names = [parameter["name"] for parameter in spec["parameters"]]
    template["trialParameters"] = [{"name": name, "reference": name} for name in names]
    flags = [f"--metrics={spec['metricsCollectorSpec']['source']['fileSystemPath']['path']}"]
    if features is not None:
        flags.append(f"--features={features}")
    trial = template["trialSpec"]["spec"]
    if suspend:
        trial["suspend"] = True
    trial["runtimeRef"]["name"] = runtime_name(gpus)
    trial["trainer"] |= {
        "image": image,
        "command": ["python", TRIAL],
        "args": [*flags, *(f"--set={name}=${{trialParameters.{name}}}" for name in names)],
        "env": [_variable("FASTTRACK_USECASE", usecase_object(usecase), pods.USECASE_FILE)],
        "resourcesPerNode": resources(gpus),
    }
    return made


def _variable(name: str, config_map: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map, "key": key}}}
