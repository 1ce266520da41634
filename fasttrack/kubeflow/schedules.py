"""Recurring runs of the training pipeline: KFP's ScheduledWorkflow."""

from __future__ import annotations

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

API = "kubeflow.org/v1beta1"

_FIELDS = "minute, hour, day, month, weekday"


def recurring_run(
    usecase: UseCase, *, namespace: str, schedule: str, pipeline: str, version: str, enabled: bool = True
) -> Object:
    """The training pipeline on a schedule; a run that is late because the one before still goes on is made once.

    Args:
        usecase: the use case.
        namespace: the namespace of the object.
        schedule: when, as cron writes it, in UTC; five fields.
        pipeline: name of the Pipeline object.
        version: name of the PipelineVersion object.
        enabled: let it start runs.

    Raises:
        ConfigurationError: the schedule isn't one.
    """
    return {
        "apiVersion": API,
        "kind": "ScheduledWorkflow",
        "metadata": pods.metadata(object_name(f"{usecase.name}-retrain", 42), namespace, "pipeline", usecase),
        "spec": {
            "enabled": enabled,
            "maxConcurrency": 1,
            "noCatchup": True,
            "maxHistory": 10,
            # KFP's schedules begin with the second.
            "trigger": {"cronSchedule": {"cron": f"0 {check_cron(schedule)}"}},
            "serviceAccount": pods.PIPELINE_ACCOUNT,
            "pipelineName": pipeline,
            "pipelineVersionName": version,
            "workflow": {"parameters": []},
        },
        # KFP's definition of the kind wants it from whoever makes the object.
        "status": {},
    }


def check_cron(schedule: str, where: str = "schedule") -> str:
    """A schedule of five fields, as the Spark operator wants it.

    Raises:
        ConfigurationError: it isn't one.
    """
    fields = schedule.split()
    if len(fields) != 5 or not all(set(field) <= set("0123456789*/,-") for field in fields):
        raise ConfigurationError(
            f"{schedule!r} is not a schedule.", where=where, fix=f"Write five fields ({_FIELDS}), such as '0 3 * * *'."
        )
    return " ".join(fields)
