"""``fasttrack plan``: what applying a use case would create, change and leave over, as the API server itself tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fasttrack.errors import AuthorizationError, ConfigurationError, ConflictError, FastTrackError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding, mend
from fasttrack.kubeflow.checks.references import references
from fasttrack.kubeflow.cluster.client import FIELD_MANAGER, Cluster
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    EXPERIMENT,
    INFERENCE_SERVICE,
    SPARK_APPLICATION,
    TRAIN_JOB,
    Kind,
    Object,
    kind_of,
)
from fasttrack.kubeflow.diff import Difference, differences, unified
from fasttrack.kubeflow.pods import MANAGER, RUN_LABEL, USECASE_LABEL

#: ``replace``: a field can't be changed, so the object has to be deleted and made again. ``refused``: not accepted.
Action = Literal["create", "change", "replace", "keep", "remove", "refused"]

# Kinds that an earlier version of a use case may have left behind.
_COMPILED = (
    CONFIG_MAP,
    EXPERIMENT,
    INFERENCE_SERVICE,
    SPARK_APPLICATION,
    TRAIN_JOB,
    Kind("pipelines.kubeflow.org/v2beta1", "Pipeline"),
    Kind("pipelines.kubeflow.org/v2beta1", "PipelineVersion"),
    Kind("sparkoperator.k8s.io/v1beta2", "ScheduledSparkApplication"),
    Kind("serving.kserve.io/v1alpha1", "InferenceGraph"),
    Kind("monitoring.coreos.com/v1", "PodMonitor"),
    Kind("apps/v1", "Deployment"),
    Kind("kafka.strimzi.io/v1", "KafkaConnector"),
    Kind("kafka.strimzi.io/v1", "KafkaTopic"),
    Kind("kafka.strimzi.io/v1", "KafkaUser"),
    Kind("monitoring.coreos.com/v1", "ServiceMonitor"),
    Kind("monitoring.coreos.com/v1", "PrometheusRule"),
    Kind("gateway.networking.k8s.io/v1", "HTTPRoute"),
)
_STOP = "serving.kserve.io/stop"
_IMMUTABLE = ("immutable", "may not be changed", "cannot be changed", "can't be changed", "not allowed to update")


@dataclass(frozen=True)
class Change:
    """What would become of one object.

    Attributes:
        live: as it is on the cluster; None if it isn't there.
        wanted: as it would be, the API server's defaults and the webhooks' additions included; None if it would go.
        reason: why it is refused or has to be replaced; what else is to be known.
    """

    action: Action
    kind: Kind
    name: str
    namespace: str
    live: Object | None
    wanted: Object | None
    reason: Finding | None = None

    @property
    def title(self) -> str:
        """``TrainJob flights-train``."""
        return f"{self.kind.kind} {self.name}"

    def differences(self) -> list[Difference]:
        """Field by field; empty for what is created or removed as a whole."""
        return differences(self.live, self.wanted) if self.live and self.wanted else []

    def unified(self) -> str:
        """The unified diff; empty if nothing changes."""
        return "" if self.action == "keep" else unified(self.live, self.wanted, f"{self.namespace}/{self.title}")

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with ``--json``."""
        return {
            "action": self.action,
            "apiVersion": self.kind.api_version,
            "kind": self.kind.kind,
            "name": self.name,
            "namespace": self.namespace,
            "differences": [each.to_json() for each in self.differences()],
            "reason": self.reason.to_json() if self.reason else None,
        }


def changes(
    cluster: Cluster, usecase: str, objects: Iterable[Object], namespace: str, *, beside: Iterable[Object] = ()
) -> list[Change]:
    """Ask the cluster what applying `objects` would do; nothing is stored.

    Args:
        cluster: the cluster.
        usecase: name of the use case, to find what it has left over.
        objects: what is compiled.
        namespace: their namespace, which has to be there.
        beside: what runs make, such as the model servers: not compiled, and not left over.

    Returns:
        One for each object, and one for each that is on the cluster but no longer compiled.

    Raises:
        UnavailableError: the API server does not answer.
        AuthenticationError: the cluster doesn't know the account.
    """
    known = list(objects)
    return [
        *(judge(cluster, each, known) for each in known),
        *left_over(cluster, usecase, [*known, *beside], namespace),
    ]


def judge(cluster: Cluster, obj: Object, among: Iterable[Object] = ()) -> Change:
    """What applying one object would do.

    Args:
        cluster: the cluster.
        obj: the object.
        among: what is applied together with it, before it.

    Raises:
        As `changes`.
    """
    kind, name = kind_of(obj), obj["metadata"]["name"]
    namespace = obj["metadata"].get("namespace", "")
    try:
        live = cluster.find(kind, name, namespace)
        wanted, note = _dry_run(cluster, obj, live)
    except (ConfigurationError, ConflictError, AuthorizationError, NotFoundError) as error:
        return _judge_refusal(cluster, obj, error, list(among))
    except FastTrackError as error:
        if "webhook" not in error.what:
            raise
        return Change("refused", kind, name, namespace, None, obj, mend(f"{kind.kind} {name}", error))
    if live is not None and _published(live, obj):
        return Change("keep", kind, name, namespace, live, live, None)
    action: Action = "create" if live is None else "change" if differences(live, wanted) else "keep"
    # What is new is shown as it was compiled: defaults would drown it.
    return Change(action, kind, name, namespace, live, obj if live is None else wanted, note)


def _published(live: Object, obj: Object) -> bool:
    """Whether a run has put a version into the InferenceService that is compiled stopped and without one."""
    stopped, serving = ((each["metadata"].get("annotations") or {}).get(_STOP) == "true" for each in (obj, live))
    return kind_of(obj) == INFERENCE_SERVICE and stopped and not serving


def to_apply(cluster: Cluster, objects: Iterable[Object]) -> list[Object]:
    """What of `objects` may be applied: not the stopped InferenceService over one that serves a published version.

    Raises:
        As `changes`.
    """
    found = []
    for each in objects:
        live = None
        if kind_of(each) == INFERENCE_SERVICE:
            live = cluster.find(INFERENCE_SERVICE, each["metadata"]["name"], each["metadata"].get("namespace", ""))
        if live is None or not _published(live, each):
            found.append(each)
    return found


def _dry_run(cluster: Cluster, obj: Object, live: Object | None) -> tuple[Object, Finding | None]:
    manager = manager_of(live)
    try:
        return _ask(cluster, obj, manager, force=False), None
    except ConflictError as error:
        wanted = _ask(cluster, obj, manager, force=True)
        fix = "Undo the change by hand, or apply with --force-conflicts to take the fields over."
        return wanted, Finding(f"{obj['kind']} {obj['metadata']['name']}", "note", error.what, fix, ConflictError)


def manager_of(live: Mapping[str, Any] | None) -> str:
    """Who applied an object: fields that are no longer compiled go only if the same one applies it again."""
    entries = (live or {}).get("metadata", {}).get("managedFields") or []
    managers = [each["manager"] for each in entries if each.get("operation") == "Apply" and "subresource" not in each]
    return managers[0] if managers and FIELD_MANAGER not in managers else FIELD_MANAGER


def _ask(cluster: Cluster, obj: Object, manager: str, *, force: bool) -> Object:
    kind, meta = kind_of(obj), obj["metadata"]
    namespace = meta.get("namespace", "")
    query = {"fieldManager": manager, "force": str(force).lower(), "dryRun": "All"}
    found: Object = cluster.request(
        "PATCH",
        cluster.path(kind, namespace, meta["name"]),
        query=query,
        body=obj,
        content="application/apply-patch+yaml",
        where=f"{kind.kind} {namespace}/{meta['name']}",
    )
    return found


def _judge_refusal(cluster: Cluster, obj: Object, error: FastTrackError, among: list[Object]) -> Change:
    """Tell a real refusal from one that is owed to the dry run."""
    kind, meta = kind_of(obj), obj["metadata"]
    name, namespace = meta["name"], meta.get("namespace", "")
    title = f"{kind.kind} {name}"
    live = _seen(cluster, kind, name, namespace)
    if live is not None and any(word in error.what for word in _IMMUTABLE):
        fix = f"Delete it first: kubectl -n {namespace} delete {kind.kind.lower()} {name}."
        return Change("replace", kind, name, namespace, live, obj, Finding(title, "note", error.what, fix))
    if "does not support dry run" in error.what:
        note = Finding(title, "note", "a webhook can't tell without storing it", None)
        return Change("change" if live else "create", kind, name, namespace, live, obj, note)
    made = {(each["kind"], each["metadata"]["name"]) for each in among}
    waits = [f"{r.kind.kind} {r.name}" for r in references([obj]) if (r.kind.kind, r.name) in made]
    if live is None and waits and "not found" in error.what:
        note = Finding(title, "note", f"can't be judged before {', '.join(waits)} is there", None)
        return Change("create", kind, name, namespace, None, obj, note)
    return Change("refused", kind, name, namespace, live, obj, mend(title, error))


def _seen(cluster: Cluster, kind: Kind, name: str, namespace: str) -> Object | None:
    try:
        return cluster.find(kind, name, namespace)
    except (AuthorizationError, ConfigurationError):
        return None


def left_over(cluster: Cluster, usecase: str, objects: list[Object], namespace: str) -> list[Change]:
    """Objects of a use case that are on the cluster but no longer compiled; those of runs and of operators are not."""
    made = {(kind_of(each), each["metadata"]["name"]) for each in objects}
    labels = f"{USECASE_LABEL}={usecase},app.kubernetes.io/managed-by={MANAGER},!{RUN_LABEL}"
    found = []
    for kind in sorted({*_COMPILED, *(kind for kind, _ in made)}):
        if not cluster.serves(kind):
            continue
        try:
            there = cluster.list(kind, namespace, labels=labels)
        except AuthorizationError as error:
            title = f"left-over {kind.kind} objects"
            found.append(Change("keep", kind, "", namespace, None, None, Finding(title, "note", error.what, error.fix)))
            continue
        for each in there:
            meta = each["metadata"]
            if (kind, meta["name"]) in made or meta.get("ownerReferences") or meta.get("deletionTimestamp"):
                continue
            fix = f"kubectl -n {namespace} delete {kind.kind.lower()}.{kind.group or 'v1'} {meta['name']}"
            reason = Finding(f"{kind.kind} {meta['name']}", "note", "no longer compiled", fix)
            found.append(Change("remove", kind, meta["name"], namespace, each, None, reason))
    return found
