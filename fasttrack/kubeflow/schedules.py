"""Recurring runs of the training pipeline."""

from __future__ import annotations

import hashlib

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase, canonical_text

_FIELDS = "minute, hour, day, month, weekday"
_DIGITS = 10


def recurring_run(usecase: UseCase, *, schedule: str, version: str) -> Object:
    """The training pipeline on a schedule, as KFP's API takes it (V2beta1RecurringRun).

    `fasttrack submit` adds the pipeline and the experiment. No ScheduledWorkflow: one that KFP's API didn't make
    can't name them by their ids, and its controller starts nothing (docs/decisions/0009).

    Args:
        usecase: the use case.
        schedule: when, as cron writes it, in UTC; five fields. A run that is late because the one before still goes on
            is made once.
        version: name of the PipelineVersion object.

    Raises:
        ConfigurationError: the schedule isn't one.
    """
    cron = check_cron(schedule, "--retrain")
    text = canonical_text(usecase)
    digest = hashlib.sha256(f"{cron}\0{version}\0{text}".encode()).hexdigest()[:_DIGITS]
    return {
        # What is scheduled can't be changed in KFP: the name tells it.
        "display_name": f"{retraining(usecase)}{digest}",
        "description": f"Train, judge and publish a model of the use case {usecase.name}.",
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
        "service_account": pods.PIPELINE_ACCOUNT,
        # KFP's schedules begin with the second.
        "trigger": {"cron_schedule": {"cron": f"0 {cron}"}},
        # Without a name, a run is called as KFP calls it.
        "runtime_config": {"parameters": {"usecase": text, "run_id": ""}},
    }


def retraining(usecase: UseCase) -> str:
    """What the names of a use case's recurring runs begin with."""
    return f"{usecase.name}-retrain-"


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
