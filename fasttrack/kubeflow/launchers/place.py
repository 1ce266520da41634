"""Where a step's objects go: cluster, namespace, images, whom they belong to, and how long anything may take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from fasttrack.errors import AuthorizationError, ConfigurationError
from fasttrack.kubeflow.cluster.client import Cluster, connect
from fasttrack.kubeflow.cluster.connection import pod_namespace
from fasttrack.kubeflow.cluster.kinds import POD, Object
from fasttrack.kubeflow.images import PREFIX
from fasttrack.kubeflow.run_options import RunOptions
from fasttrack.progress import note
from fasttrack.usecase.durations import parse_duration

_LIMIT = "FASTTRACK_LIMIT_"
_STEP_CONTAINER = "main"


@dataclass(frozen=True)
class Limits:
    """How long a step waits, in seconds; each can be set, such as ``FASTTRACK_LIMIT_PENDING=12h``.

    Attributes:
        features: for the whole SparkApplication.
        train: for a TrainJob.
        tune: for an Experiment.
        publish: until an InferenceService is ready.
        pending: while there is no room: no GPU, a quota that is used up, a queue.
        stuck: while something is missing that a person has to mend: an image, a Secret, a volume.
        cleanup: until what is deleted is gone.
        attempts: how often work is started that others ended (preemption, lost nodes); a number, not a time.
    """

    features: float = 6 * 3600.0
    train: float = 24 * 3600.0
    tune: float = 24 * 3600.0
    publish: float = 1200.0
    pending: float = 4 * 3600.0
    stuck: float = 300.0
    cleanup: float = 20.0
    attempts: int = 3

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Limits:
        """Read ``FASTTRACK_LIMIT_*``.

        Raises:
            ConfigurationError: one is no duration.
        """
        env = os.environ if environ is None else environ
        found: dict[str, float | int] = {}
        for limit in fields(cls):
            variable = _LIMIT + limit.name.upper()
            if text := env.get(variable):
                try:
                    found[limit.name] = int(text) if limit.name == "attempts" else parse_duration(text).total_seconds()
                except ValueError as error:
                    raise ConfigurationError(
                        str(error), where=variable, fix="Write, for instance, 30m or 12h."
                    ) from error
        return cls(**found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Place:
    """Where a step's objects go.

    Attributes:
        cluster: the cluster.
        namespace: the step's own.
        registry: what stands before ``fasttrack/...`` in image names: where the step's own image came from.
        owner: reference to the step's pod: when it is deleted, so is what it made; None outside of pods.
        options: what `fasttrack compile` was told.
        limits: how long anything may take.
    """

    cluster: Cluster
    namespace: str
    registry: str = ""
    owner: Object | None = None
    options: RunOptions = field(default_factory=RunOptions)
    limits: Limits = Limits()

    @classmethod
    def of_this_pod(cls) -> Place:
        """The place of the step that this process is.

        Raises:
            ConfigurationError: it is in no pod, or a limit or option is malformed.
        """
        cluster, namespace = connect(), pod_namespace()
        pod = _own_pod(cluster, namespace)
        registry = os.environ.get("FASTTRACK_REGISTRY") or (_registry(pod) if pod else "")
        options, limits = RunOptions.from_environment(os.environ), Limits.from_environment()
        return cls(cluster, namespace, registry, owner_reference(pod), options, limits)


def owner_reference(pod: Object | None) -> Object | None:
    """What an object says of the pod that it belongs to."""
    if pod is None:
        return None
    meta = pod["metadata"]
    # Not blocking: that would need the right to change the pod's finalizers.
    return {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "blockOwnerDeletion": False}


def _own_pod(cluster: Cluster, namespace: str) -> Object | None:
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    try:
        found = cluster.find(POD, name, namespace) if name else None
    except AuthorizationError as error:
        note(f"{error}\nWithout it, what this step starts outlives the step if that is killed.")
        return None
    return found


def _registry(pod: Object) -> str:
    for container in pod["spec"]["containers"]:
        head, mark, _ = str(container["image"]).rpartition(f"/{PREFIX}")
        if mark and (container["name"] == _STEP_CONTAINER or len(pod["spec"]["containers"]) == 1):
            return head
    return ""
