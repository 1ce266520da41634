"""The tune step as a Katib Experiment: its trials are TrainJobs over the search space that Optuna walks on a laptop."""

from __future__ import annotations

from typing import Any

import orjson

from fasttrack.errors import NotFoundError, StepError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import DEPLOYMENT, TRIAL, Object
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.images import TRAINER, image
from fasttrack.kubeflow.launchers.launch import Launch, launch_name
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.launchers.pursuit import Verdict, Work
from fasttrack.kubeflow.sizes import resized
from fasttrack.progress import note
from fasttrack.runs import read_records
from fasttrack.steps.frame import Step
from fasttrack.training.direction import HIGHER_IS_BETTER
from fasttrack.tuning.space import select
from fasttrack.usecase import UseCase

# Katib adds 9 characters for a trial and JobSet up to 15 for a pod; a label holds 63.
_NAME_LIMIT = 39
_EXPERIMENT = "katib.kubeflow.org/experiment"
_WANTED = ("allowPrivilegeEscalation", "runAsNonRoot", "capabilities", "seccompProfile")
_STATES = {"Succeeded": "complete", "EarlyStopped": "stopped", "Failed": "failed", "Killed": "failed"}


def search(place: Place, at: Step, step: str, features: str, round: int) -> dict[str, Any]:
    """Search for the best candidate; see `fasttrack.steps.substrate.Substrate.search`.

    The best of all rounds counts: the trials of earlier rounds are taken from their records.

    Raises:
        FastTrackError: why it failed.
    """
    name = launch_name(at, step, _NAME_LIMIT)
    obj = experiment(
        at.usecase,
        image=image(place.registry, TRAINER),
        namespace=place.namespace,
        name=name,
        features=features,
        gpus=place.options.gpus,
        run_id=at.run_id,
    )
    obj = resized(obj, place.options.sizes)
    _vary(obj, at.usecase, round)
    work = Work(
        judge=judge,
        # Trials' pods carry no label of the Experiment where no collector is injected.
        pods="",
        speaker=lambda pod: False,
        container="",
        seconds=place.limits.tune,
        on_object=_Progress(at.usecase.tuning.metric),
        on_tick=_Hardening(place, f"{name}-{obj['spec']['algorithm']['algorithmName']}"),
    )
    launch = Launch(place, at, step, obj, work)
    found = launch.run(lambda finished: _trials(place.cluster, finished, at.usecase, round))
    return _result(at.usecase, [*_earlier(at, round), *found])


def judge(obj: Object) -> Verdict:
    """How an Experiment stands."""
    for condition in obj.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] == "Succeeded":
            return Verdict("succeeded")
        if condition["status"] == "True" and condition["type"] == "Failed":
            return Verdict("failed", condition.get("message", "") or condition.get("reason", ""))
    return Verdict("running")


class _Progress:
    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._told = ""

    def __call__(self, obj: Object) -> None:
        status = obj.get("status", {})
        counts = {
            word: status.get(f"trials{word.title().replace(' ', '')}", 0)
            for word in ("running", "succeeded", "early stopped", "failed", "killed")
        }
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        best = _metrics(status.get("currentOptimalTrial", {})).get(self._metric)
        text = f"  Experiment: {told or 'no trial yet'}" + (f"; best {self._metric} {best:.4f}" if best else "")
        if text != self._told:
            self._told = text
            note(text)


class _Hardening:
    """Gives Katib's search service what a `restricted` namespace wants, and a short end.

    Katib makes its Deployment without the former where its own settings don't say so, and has none for its early
    stopping container; it leaves the Deployment alone once that is there.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._done = False

    def __call__(self) -> None:
        if self._done:
            return
        cluster, namespace = self._place.cluster, self._place.namespace
        found = cluster.find(DEPLOYMENT, self._name, namespace)
        if found is None:
            return
        # Katib's images let any user of the group 0 write where they need to.
        pod_level = pods.pod_security() | {"runAsGroup": 0}
        container_level = {name: value for name, value in pods.container_security().items() if name in _WANTED}
        containers = [
            {"name": container["name"], "securityContext": container_level}
            for container in found["spec"]["template"]["spec"]["containers"]
        ]
        patch: Object = {"apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.kind}
        patch["metadata"] = {"name": self._name, "namespace": namespace}
        pod: Object = {"securityContext": pod_level, "containers": containers}
        # Its processes don't hear SIGTERM, and have nothing to bring to an end.
        pod["terminationGracePeriodSeconds"] = 1
        patch["spec"] = {"template": {"spec": pod}}
        cluster.apply(patch, force=True)
        self._done = True


def _vary(obj: Object, usecase: UseCase, round: int) -> None:
    """Each round samples other points, as it does on a laptop."""
    for setting in obj["spec"]["algorithm"].get("algorithmSettings", []):
        if setting["name"] == "random_state":
            setting["value"] = str(usecase.tuning.seed + round - 1)


def _trials(cluster: Cluster, finished: Object, usecase: UseCase, round: int) -> list[dict[str, Any]]:
    """The Experiment's trials in the order in which they began, in the words of `fasttrack.tuning.search.Trial`."""
    meta = finished["metadata"]
    found = cluster.list(TRIAL, meta["namespace"], labels=f"{_EXPERIMENT}={meta['name']}")
    found.sort(key=lambda trial: (trial["metadata"]["creationTimestamp"], trial["metadata"]["name"]))
    return [_trial(trial, usecase, round) for trial in found]


def _trial(trial: Object, usecase: UseCase, round: int) -> dict[str, Any]:
    given = {entry["name"]: entry["value"] for entry in trial["spec"]["parameterAssignments"]}
    architecture, parameters = select(usecase, given)
    true = {c["type"] for c in trial.get("status", {}).get("conditions", []) if c["status"] == "True"}
    state = next((word for name, word in _STATES.items() if name in true), "failed")
    scores = _metrics(trial.get("status", {})) if state == "complete" else {}
    if usecase.tuning.metric not in scores:
        state, scores = ("failed" if state == "complete" else state), {}
    head = {"number": 0, "round": round, "architecture": architecture, "parameters": parameters}
    return head | {"scores": scores, "state": state, "cached": False}


def _metrics(status: Object) -> dict[str, float]:
    """The best value of each metric; what Katib calls latest is the last line, which repeats the best epoch's."""
    found: dict[str, float] = {}
    for metric in status.get("observation", {}).get("metrics", []):
        try:
            found[metric["name"]] = float(metric["latest"])
        except (KeyError, ValueError):
            # "unavailable": the trial ended before it told.
            continue
    return found


def _earlier(at: Step, round: int) -> list[dict[str, Any]]:
    if round == 1:
        return []
    try:
        record = read_records(at.settings, at.usecase.name, at.run_id).get(f"tune-{round - 1}", {})
    except NotFoundError:
        return []
    trials: list[dict[str, Any]] = record.get("trials", [])
    return trials


def _result(usecase: UseCase, trials: list[dict[str, Any]]) -> dict[str, Any]:
    metric = usecase.tuning.metric
    numbered = [trial | {"number": number} for number, trial in enumerate(trials)]
    complete = [trial for trial in numbered if trial["state"] == "complete"]
    if not complete:
        raise StepError(
            "no trial came to an end.",
            where="tuning",
            fix="Lower the learning rates of the search space, or stop none early.",
        )
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    best = max(complete, key=lambda trial: sign * trial["scores"][metric])
    chosen = {name: best[name] for name in ("architecture", "parameters")}
    found = chosen | {"metric": metric, "score": best["scores"][metric], "trials": numbered}
    plain: dict[str, Any] = orjson.loads(orjson.dumps(found))
    return plain
