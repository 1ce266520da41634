"""The publish step as an InferenceService: applied, waited for, put back if it doesn't come up."""

from __future__ import annotations

import copy
import hashlib
import time
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError, ConflictError, FastTrackError, UnavailableError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.cluster import diagnosis
from fasttrack.kubeflow.cluster.follow import Feed, Selection, warnings
from fasttrack.kubeflow.cluster.kinds import DEPLOYMENT, INFERENCE_SERVICE, POD, Object
from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.interrupt import interruptible
from fasttrack.kubeflow.launchers.launch import with_file
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.names import object_name, usecase_object
from fasttrack.kubeflow.sizes import resized
from fasttrack.progress import note
from fasttrack.registry.records import ModelVersion
from fasttrack.steps.frame import Step
from fasttrack.usecase import UseCase

_SERVICE = "serving.kserve.io/inferenceservice"
#: KServe puts -predictor and -explainer after it, and a Service's name has 63 characters at most.
_NAME = 50
_EXAMINE_SECONDS = 4.0
_SCALING = ("minReplicas", "maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget", "autoScaling")
_AUTOSCALER = "serving.kserve.io/autoscalerClass"


def serve(place: Place, at: Step, model: ModelVersion, usecase: str) -> dict[str, str]:
    """Serve a version; see `fasttrack.steps.substrate.Substrate.serve`.

    What was served before goes on until the new pods are ready; if they don't get ready, it is put back.

    Args:
        place: where.
        at: the step.
        model: the version.
        usecase: its use case as YAML text; the servers get it as a file of their own, since the shared one may change.

    Raises:
        UnavailableError: the servers do not come up.
        ConfigurationError: the package does not lie on the shared volume, or the cluster refuses the object.
    """
    return _serve(place, at.usecase, at.record, model, usecase, "")


def serve_beside(place: Place, spec: UseCase, model: ModelVersion, usecase: str) -> dict[str, str]:
    """Serve a version as an InferenceService of its own, ``<use case>-v<version>``, beside what is served.

    KServe routes nothing to it: gateways ask its Services by their names. The arguments and errors are as for `serve`.
    """
    return _serve(place, spec, {}, model, usecase, beside_name(spec.name, model.version))


def beside_name(usecase: str, version: int) -> str:
    """The name of a challenger's InferenceService."""
    return object_name(f"{usecase}-v{version}", _NAME)


def _serve(
    place: Place, spec: UseCase, record: dict[str, Any], model: ModelVersion, usecase: str, name: str
) -> dict[str, str]:
    obj = inference_service(
        spec,
        registry=place.registry,
        namespace=place.namespace,
        version=model.version,
        digest=model.digest,
        storage_uri=storage_uri(model.uri),
        gpus=place.options.gpus,
        name=name,
    )
    obj = resized(obj, place.options.sizes)
    name = obj["metadata"]["name"]
    cluster = place.cluster
    shared, own = usecase_object(spec), _file_name(name, usecase)
    obj = with_file(obj, shared, own)
    # Said outright: the compiled object is stopped, and whoever applied it still owns that annotation.
    obj["metadata"].setdefault("annotations", {})["serving.kserve.io/stop"] = "false"
    with interruptible(once=True):
        before = cluster.find(INFERENCE_SERVICE, name, place.namespace)
        said: dict[str, Any] = {"kind": "InferenceService", "name": name, "namespace": place.namespace}
        record["cluster"] = said
        try:
            applied = cluster.apply(_scaled_as(before, obj), force=True)
            cluster.apply(_file(place, own, usecase, applied), force=True)
            record["reused"] = before is not None and _generation(before) == _generation(applied)
            note(f"InferenceService {place.namespace}/{name}: {'unchanged' if record['reused'] else 'applied'}")
            ready = _wait(place, applied, (f"--digest={model.digest}", own))
        except BaseException as error:
            said["put_back"] = _put_back(place, name, before)
            if isinstance(error, FastTrackError):
                said["why"] = str(error)
            raise
    said["url"] = ready.get("status", {}).get("url", "")
    return service_urls(obj)


def service_urls(obj: Object) -> dict[str, str]:
    """The base URLs of an InferenceService's servers inside the cluster (Standard mode makes a Service of each)."""
    name, namespace, spec = obj["metadata"]["name"], obj["metadata"]["namespace"], obj["spec"]

    def url(component: str) -> str:
        return f"http://{name}-{component}.{namespace}.svc.cluster.local"

    # Collocated: the transformer stands before the predictor in the same pods, behind the same Service.
    front = "transformer" if "transformer" in spec else "predictor"
    explainer = "explainer" if "explainer" in spec else front
    return {"predictor_url": url("predictor"), "transformer_url": url(front), "explainer_url": url(explainer)}


def storage_uri(path: str) -> str:
    """Where KServe finds a package that the steps see at `path`.

    Raises:
        ConfigurationError: it does not lie on the shared volume.
    """
    if "://" in path:
        return path
    try:
        inside = Path(path).relative_to(pods.DATA_PATH)
    except ValueError as error:
        raise ConfigurationError(
            "the package does not lie on the shared volume.",
            where=path,
            fix=f"Set FASTTRACK_PACKAGES to a folder below {pods.DATA_PATH}, or to an object store.",
        ) from error
    return f"pvc://{pods.DATA}/{inside.as_posix()}"


def is_ready(obj: Object) -> bool:
    """Whether an InferenceService answers, in this version or the one before.

    Its ``observedGeneration`` tells nothing: KServe 0.20 copies that of a Deployment into it
    (pkg/apis/serving/v1beta1/inference_service_status.go).
    """
    conditions = obj.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _wait(place: Place, applied: Object, marks: tuple[str, str]) -> Object:
    name, namespace = applied["metadata"]["name"], place.namespace
    chosen = [
        Selection(INFERENCE_SERVICE, namespace, name=name),
        Selection(POD, namespace, labels=f"{_SERVICE}={name}"),
    ]
    ends, examined, told = time.monotonic() + place.limits.publish, time.monotonic(), set[str]()
    alive: dict[str, Object] = {}
    latest, why = applied, ""
    with Feed(place.cluster, chosen) as feed:
        while time.monotonic() < ends:
            for kind, change in feed.read(1.0):
                if kind == POD:
                    alive.pop(change.object["metadata"]["uid"], None)
                    if change.type != "DELETED":
                        alive[change.object["metadata"]["uid"]] = change.object
                elif change.type == "DELETED":
                    raise ConflictError(
                        "it was deleted by somebody else.", where=f"InferenceService {namespace}/{name}"
                    )
                else:
                    latest = change.object
            if is_ready(latest) and _rolled_out(place, name, marks):
                return latest
            if time.monotonic() - examined > _EXAMINE_SECONDS:
                examined = time.monotonic()
                events = _warnings(place, applied)
                for trouble in [*diagnosis.of_pods(alive.values(), events), *diagnosis.of_events(events, name)]:
                    why = str(trouble)
                    if why not in told:
                        note(f"  ! {why}")
                    told.add(why)
                    if trouble.fatal:
                        raise trouble.error(f"InferenceService {name}")
    raise UnavailableError(
        f"the model servers were not ready after {place.limits.publish:.0f} s. {why or _conditions(latest)}",
        where=f"InferenceService {namespace}/{name}",
        fix=f"kubectl describe inferenceservice {name}; what was served before goes on.",
    )


def _scaled_as(before: Object | None, obj: Object) -> Object:
    """`obj`, scaled as the compiled object is: a run doesn't know what `fasttrack compile` was told."""
    if before is None:
        return obj
    made = copy.deepcopy(obj)
    for component in ("predictor", "explainer"):
        former, own = before["spec"].get(component), made["spec"].get(component)
        if former and own:
            for name in _SCALING:
                own.pop(name, None)
            own.update({name: former[name] for name in _SCALING if name in former})
    annotations = before["metadata"].get("annotations", {})
    if _AUTOSCALER in annotations:
        made["metadata"]["annotations"][_AUTOSCALER] = annotations[_AUTOSCALER]
    return made


def _warnings(place: Place, applied: Object) -> list[Object]:
    """Events of the object and of what KServe makes of it, since it was applied: they stay for an hour."""
    meta = applied["metadata"]
    name = meta["name"]
    since = max((str(each.get("time", "")) for each in meta.get("managedFields", ())), default="")
    # Jobs of the same use case have names that begin alike.
    parts = tuple(f"{name}-{part}" for part in ("predictor", "explainer"))
    found = warnings(place.cluster, place.namespace, name, since)
    names = [str(event["involvedObject"]["name"]) for event in found]
    return [event for event, own in zip(found, names, strict=True) if own == name or own.startswith(parts)]


def _rolled_out(place: Place, name: str, marks: tuple[str, str]) -> bool:
    """Whether all pods are of this version: KServe calls a service ready while old pods still answer."""
    every = place.cluster.list(DEPLOYMENT, place.namespace, labels=f"{_SERVICE}={name}")
    # A canary's is of another version.
    found = [each for each in every if each["metadata"]["name"] in (f"{name}-predictor", f"{name}-explainer")]
    return bool(found) and all(_is_new(deployment, marks) for deployment in found)


def _is_new(deployment: Object, marks: tuple[str, str]) -> bool:
    """Whether its pods have the package's digest and the use case's file of this version, and no old one is left."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    pod = deployment["spec"]["template"]["spec"]
    words = [word for container in pod["containers"] for word in container.get("args", [])]
    words += [volume.get("configMap", {}).get("name", "") for volume in pod.get("volumes", [])]
    return (
        set(marks) <= set(words)
        and status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
        and not status.get("unavailableReplicas")
    )


def _file_name(name: str, usecase: str) -> str:
    return f"{name}-{hashlib.sha256(usecase.encode()).hexdigest()[:8]}"


def _file(place: Place, name: str, usecase: str, service: Object) -> Object:
    """The use case as the servers of this version see it; it goes when the InferenceService goes."""
    meta = service["metadata"]
    owner = {"apiVersion": service["apiVersion"], "kind": service["kind"], "name": meta["name"], "uid": meta["uid"]}
    own = {"name": name, "namespace": place.namespace, "labels": meta.get("labels", {}), "ownerReferences": [owner]}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "data": {pods.USECASE_FILE: usecase}}
    return {**made, "metadata": own}


def _put_back(place: Place, name: str, before: Object | None) -> str:
    """Serve again what was served before; nothing of a first try is left."""
    cluster = place.cluster
    try:
        if before is None:
            cluster.delete(INFERENCE_SERVICE, name, place.namespace, wait=place.limits.cleanup)
            return "removed"
        meta = {
            key: before["metadata"][key]
            for key in ("name", "namespace", "labels", "annotations")
            if key in before["metadata"]
        }
        former = {key: before[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": meta}
        cluster.apply(former, force=True)
        return "the version that was served before"
    except FastTrackError as error:
        note(f"InferenceService {name} could not be put back: {error}")
        return f"failed: {error}"


def _generation(obj: Object) -> int:
    return int(obj["metadata"].get("generation", 1))


def _conditions(obj: Object) -> str:
    found = [c for c in obj.get("status", {}).get("conditions", []) if c["status"] != "True"]
    return " ".join(f"{c['type']}: {c.get('message') or c.get('reason', 'not yet')}." for c in found[:3])
