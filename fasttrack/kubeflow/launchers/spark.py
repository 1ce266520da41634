"""The features step as a SparkApplication: the driver does all of it, and leaves its answer as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fasttrack import errors
from fasttrack.errors import FastTrackError, StepError
from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.images import SPARK, image
from fasttrack.kubeflow.launchers.launch import Launch, launch_name
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.launchers.pursuit import Verdict, Work
from fasttrack.kubeflow.sizes import resized
from fasttrack.kubeflow.spark import NAME_LIMIT, spark_application
from fasttrack.progress import note
from fasttrack.steps.frame import Step

_STEP = "features"
_CONTAINER = "spark-kubernetes-driver"
_APPLICATION = "sparkoperator.k8s.io/app-name"


def features(place: Place, at: Step, versions: dict[str, int]) -> dict[str, Any]:
    """Run the features job; see `fasttrack.steps.substrate.Substrate.features`.

    Raises:
        FastTrackError: the driver's own error, or why the cluster didn't come to it.
    """
    name = launch_name(at, _STEP, NAME_LIMIT)
    # Below a folder: the run's own folder holds nothing but records.
    answer = at.folder / "launched" / f"{name}.json"
    obj = spark_application(
        at.usecase,
        image=image(place.registry, SPARK),
        namespace=place.namespace,
        name=name,
        versions=versions,
        result=str(answer),
        executors=place.options.executors,
        run_id=at.run_id,
    )
    obj = resized(obj, place.options.sizes)
    work = Work(
        judge=judge,
        pods=f"{_APPLICATION}={name}",
        speaker=lambda pod: pod["metadata"].get("labels", {}).get("spark-role") == "driver",
        container=_CONTAINER,
        seconds=place.limits.features,
        on_object=_Progress(),
        explain=lambda lines: _own_error(answer),
        prepare=lambda: answer.unlink(missing_ok=True),
    )
    return Launch(place, at, _STEP, obj, work).run(lambda finished: _read(answer))


def judge(obj: Object) -> Verdict:
    """How a SparkApplication stands."""
    found = obj.get("status", {}).get("applicationState", {})
    state, message = found.get("state", ""), found.get("errorMessage", "")
    if state == "COMPLETED":
        return Verdict("succeeded")
    if state in ("FAILED", "SUBMISSION_FAILED"):
        return Verdict("failed", message or state.lower().replace("_", " "))
    return Verdict("running")


class _Progress:
    def __init__(self) -> None:
        self._told = ""

    def __call__(self, obj: Object) -> None:
        status = obj.get("status", {})
        state = str(status.get("applicationState", {}).get("state", "") or "NEW").lower().replace("_", " ")
        executors = list(status.get("executorState", {}).values())
        text = f"  SparkApplication: {state}"
        if executors:
            text += f", {executors.count('RUNNING')} of {len(executors)} executors running"
        if text != self._told:
            self._told = text
            note(text)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return {name: found[name] for name in ("table", "quality", "online")}
    except (OSError, orjson.JSONDecodeError, KeyError) as error:
        raise StepError(
            f"the driver left no answer: {error}.",
            where=str(path),
            fix="Mount the same claim (fasttrack-data) in step and driver: `fasttrack doctor --cluster`.",
        ) from error


def _own_error(path: Path) -> FastTrackError | None:
    """The error that the driver wrote down, as its own class."""
    try:
        found = orjson.loads(path.read_bytes())["error"]
    except (OSError, orjson.JSONDecodeError, KeyError):
        return None
    kind, what = found.get("error_type"), found.get("what")
    made = errors.rebuild(kind, what, where=found.get("where"), fix=found.get("fix"))
    return made or StepError(f"{kind}: {what}", where="SparkApplication's driver")
