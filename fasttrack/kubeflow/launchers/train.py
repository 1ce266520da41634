"""The train step as a TrainJob: torchrun over several pods, which leave the model files on the shared volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import FastTrackError, StepError, StorageError
from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.images import TRAINER, image
from fasttrack.kubeflow.launchers.launch import Launch, launch_name
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.launchers.pursuit import Verdict, Work
from fasttrack.kubeflow.sizes import resized
from fasttrack.kubeflow.trainjob import NAME_LIMIT, NODE, train_job
from fasttrack.progress import note
from fasttrack.steps.frame import Step
from fasttrack.training.worker import EPOCH_MARK, ERROR_MARK

_JOBSET = "jobset.sigs.k8s.io/jobset-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


def fit(
    place: Place, at: Step, step: str, features: str, architecture: str, parameters: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Fit a candidate; see `fasttrack.steps.substrate.Substrate.fit`.

    Args:
        place: where.
        at: the step.
        step: its name with the round: ``train-2``.
        features: where the feature table lies.
        architecture: the candidate.
        parameters: its hyperparameters.
        folder: for the model files, on the shared volume.

    Raises:
        FastTrackError: why it failed.
    """
    name = launch_name(at, step, NAME_LIMIT)
    obj = train_job(
        at.usecase,
        image=image(place.registry, TRAINER),
        namespace=place.namespace,
        name=name,
        features=features,
        architecture=architecture,
        parameters=parameters,
        out=str(folder),
        gpus=place.options.gpus,
        run_id=at.run_id,
    )
    obj = resized(obj, place.options.sizes)
    work = Work(
        judge=judge,
        pods=f"{_JOBSET}={name}",
        speaker=lambda pod: pod["metadata"].get("labels", {}).get(_INDEX) == "0",
        container=NODE,
        seconds=place.limits.train,
        on_line=lambda line: _tell(line, at.usecase.training.epochs),
        explain=_own_error,
        prepare=lambda: _folder(folder),
    )
    return Launch(place, at, step, obj, work).run(lambda finished: _read(folder))


def judge(obj: Object) -> Verdict:
    """How a TrainJob stands."""
    for condition in obj.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] == "Complete":
            return Verdict("succeeded")
        if condition["status"] == "True" and condition["type"] == "Failed":
            return Verdict("failed", condition.get("message", "") or condition.get("reason", ""))
    return Verdict("running")


def _tell(line: str, epochs: int) -> None:
    if not line.startswith(EPOCH_MARK):
        note(f"  | {line}")
        return
    scores = orjson.loads(line.removeprefix(EPOCH_MARK))
    note(f"  epoch {scores['epoch']:.0f}/{epochs}: validation AUC {scores['auc']:.4f}, MAE {scores['mae']:.2f}")


def _own_error(lines: list[str]) -> FastTrackError | None:
    said = [line.partition(ERROR_MARK)[2] for line in lines if ERROR_MARK in line]
    if not said:
        return None
    return StepError(f"training failed: {said[0].strip()}", where="TrainJob", fix="Start the step again.")


def _folder(folder: Path) -> None:
    """Made by the step, so that a volume that can't be written is told before pods are asked for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"can't be made: {error.strerror}.", where=str(folder), fix="Look at the volume.") from error


def _read(folder: Path) -> dict[str, Any]:
    try:
        document = orjson.loads((folder / "training.json").read_bytes())
        return {"scores": document["best"], "curve": document["curve"]}
    except (OSError, orjson.JSONDecodeError, KeyError) as error:
        raise StepError(
            f"the TrainJob is complete, but left no model: {error}.",
            where=str(folder),
            fix="Mount the same claim (fasttrack-data) in step and TrainJob: `fasttrack doctor --cluster`.",
        ) from error
