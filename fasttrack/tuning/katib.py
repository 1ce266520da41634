"""The search space in Katib's words: plain dicts for the spec of an Experiment (kubeflow.org/v1beta1)."""

from __future__ import annotations

from typing import Any

from fasttrack.training.direction import HIGHER_IS_BETTER
from fasttrack.tuning.space import ARCHITECTURE, Dimension, architectures, dimensions, space
from fasttrack.usecase import UseCase
from fasttrack.usecase.learning import Candidate, ChoiceParameter, FloatParameter, IntParameter

# As many finished trials as Optuna's median pruner waits for here.
MIN_TRIALS = 3


def parameters(scope: UseCase | Candidate) -> list[dict[str, Any]]:
    """``spec.parameters`` of an Experiment over a whole use case, or over one candidate.

    Over a use case: the architecture, then every candidate's dimensions under its prefix; Katib assigns all of them in
    each trial, and `fasttrack.tuning.space.select` keeps those of the chosen candidate. Over one candidate: its own
    hyperparameters under their own names.
    """
    if isinstance(scope, Candidate):
        return [_parameter(dimension, dimension.parameter) for dimension in dimensions(scope)]
    usecase = scope
    choice = {"name": ARCHITECTURE, "parameterType": "categorical", "feasibleSpace": {"list": architectures(usecase)}}
    return [choice, *(_parameter(dimension, dimension.name) for dimension in space(usecase))]


def _parameter(dimension: Dimension, name: str) -> dict[str, Any]:
    match dimension.range:
        case FloatParameter(low=low, high=high, log=log):
            distribution = "logUniform" if log else "uniform"
            kind, feasible = "double", {"min": str(low), "max": str(high), "distribution": distribution}
        case IntParameter(low=low, high=high, step=step):
            kind, feasible = "int", {"min": str(low), "max": str(high), "step": str(step)}
        case ChoiceParameter(choices=choices):
            # Not "discrete": that would make numbers of the texts and lose the order of what isn't one.
            return {
                "name": name,
                "parameterType": "categorical",
                "feasibleSpace": {"list": [str(choice) for choice in choices]},
            }
    return {"name": name, "parameterType": kind, "feasibleSpace": feasible}


def objective(usecase: UseCase) -> dict[str, Any]:
    """``spec.objective``."""
    metric = usecase.tuning.metric
    return {"type": "maximize" if HIGHER_IS_BETTER[metric] else "minimize", "objectiveMetricName": metric}


def algorithm(usecase: UseCase) -> dict[str, Any]:
    """``spec.algorithm``."""
    settings = [{"name": "random_state", "value": str(usecase.tuning.seed)}]
    return {"algorithmName": usecase.tuning.algorithm, "algorithmSettings": settings}


def early_stopping(usecase: UseCase) -> dict[str, Any] | None:
    """``spec.earlyStopping``, or None when the use case wants none."""
    if usecase.tuning.early_stopping == "none":
        return None
    settings = [{"name": "min_trials_required", "value": str(MIN_TRIALS)}, {"name": "start_step", "value": "1"}]
    return {"algorithmName": "medianstop", "algorithmSettings": settings}
