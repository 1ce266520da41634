"""Kubeflow's own API models, where they are installed: they drop or refuse what they don't know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any

from fasttrack.kubeflow.rules.core import Object, dig
from fasttrack.kubeflow.schemas.structural import Problem

#: Kind, module and model. The Spark operator's models lag its CRD by a release, so its schema alone decides.
_MODELS = {
    "Experiment": ("kubeflow_katib_api.models", "V1beta1Experiment"),
    "TrainJob": ("kubeflow_trainer_api.models", "TrainerV1alpha1TrainJob"),
    "TrainingRuntime": ("kubeflow_trainer_api.models", "TrainerV1alpha1TrainingRuntime"),
}


def problems(document: Object) -> Iterator[Problem]:
    """What the model of the object's kind doesn't know, and what is wrong to it."""
    yield from _of_kind(document, str(document.get("kind")), "")
    trial = dig(document, "spec", "trialTemplate", "trialSpec")
    if isinstance(trial, dict) and trial.get("kind") == "TrainJob":
        yield from _of_kind(trial, "TrainJob", "spec.trialTemplate.trialSpec.")


def _of_kind(document: Object, kind: str, prefix: str) -> Iterator[Problem]:
    if kind not in _MODELS or (model := _model(kind)) is None:
        return
    from pydantic import ValidationError

    try:
        known = model.from_dict(document).to_dict()
    except ValidationError as error:
        for found in error.errors():
            path = ".".join(str(part) for part in found["loc"])
            yield Problem(f"{prefix}{path}", f"{found['msg']}.")
        return
    for path in _dropped(document.get("spec"), known.get("spec"), f"{prefix}spec"):
        yield Problem(path, "unknown field.")


@lru_cache(maxsize=8)
def _model(kind: str) -> Any:
    module, name = _MODELS[kind]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        # A launcher's image holds only the models that it needs; the schema and the rules stay.
        return None


def _dropped(given: Any, known: Any, path: str) -> Iterator[str]:
    """Paths of `given` that are not in `known`."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from _dropped(value, known[key], f"{path}.{key}")
            elif value not in ({}, [], None):
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(known, list):
        for position, (left, right) in enumerate(zip(given, known, strict=False)):
            yield from _dropped(left, right, f"{path}[{position}]")
