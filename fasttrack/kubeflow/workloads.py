"""The pods that an operator makes of an object: how many at least and at most, and what each asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fasttrack.kubeflow.job_pods import experiment_pods, spark_pods, train_job_pods
from fasttrack.kubeflow.pod_needs import ALWAYS, Object, PodGroup, PodNeed, largest, pod_need, template_need, title
from fasttrack.kubeflow.serving_pods import graph_pods, inference_service_pods

# KFP's pod before each step.
_KFP_DRIVER = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}


def pod_groups(objects: Iterable[Object]) -> list[PodGroup]:
    """The pods of `objects`; runtimes and autoscalers among them are taken into account.

    Raises:
        ConfigurationError: a resource isn't a quantity.
    """
    known = list(objects)
    return [group for each in known if (made := _MAKERS.get(each.get("kind", ""))) for group in made(each, known)]


def _replicated(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    spec, least = each["spec"], each["spec"].get("replicas", 1)
    most = least
    for scaler in known:
        target = scaler.get("spec", {}).get("scaleTargetRef", {})
        if (target.get("kind", "Deployment"), target.get("name")) != (each["kind"], each["metadata"]["name"]):
            continue
        if scaler["kind"] == "HorizontalPodAutoscaler":
            least, most = scaler["spec"].get("minReplicas", 1), scaler["spec"]["maxReplicas"]
        elif scaler["kind"] == "ScaledObject":
            least, most = scaler["spec"].get("minReplicaCount", 0), scaler["spec"].get("maxReplicaCount", 100)
    yield PodGroup(title(each), ALWAYS, least, most, template_need(spec))


def _job(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    pods = each["spec"].get("parallelism", 1)
    yield PodGroup(title(each), "job", pods, pods, template_need(each["spec"]))


def _cron(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    job = each["spec"]["jobTemplate"]["spec"]
    yield PodGroup(title(each), "schedule", 0, job.get("parallelism", 1), template_need(job))


def _pod(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    yield PodGroup(title(each), "job", 1, 1, pod_need(each["spec"]))


def _pipeline(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """One step at a time, as ours are drawn, with KFP's driver pod before it."""
    executors = each["spec"].get("pipelineSpec", {}).get("deploymentSpec", {}).get("executors", {})
    if not executors:
        return
    steps = [_step_need(executor.get("container", {})) for executor in executors.values()]
    requests, limits = steps[0].requests, steps[0].limits
    for step in steps[1:]:
        requests, limits = largest(requests, step.requests), largest(limits, step.limits)
    images = {image: policy for step in steps for image, policy in step.images.items()}
    unset = frozenset().union(*(step.unset for step in steps))
    need = PodNeed(requests, limits, unset, images=images)
    yield PodGroup(title(each, "step"), "pipeline", 1, 1, need)
    yield PodGroup(title(each, "driver"), "pipeline", 1, 1, pod_need({"containers": [{"resources": _KFP_DRIVER}]}))


def _step_need(container: Mapping[str, Any]) -> PodNeed:
    given = container.get("resources") or {}
    asked: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    for field, name, target in (
        ("CpuRequest", "cpu", asked),
        ("MemoryRequest", "memory", asked),
        ("CpuLimit", "cpu", bound),
        ("MemoryLimit", "memory", bound),
    ):
        value = given.get(f"resource{field}", given.get(field[0].lower() + field[1:]))
        if value:
            target[name] = value
    container = {"image": container.get("image"), "resources": {"requests": asked, "limits": bound}}
    return pod_need({"containers": [container]})


_MAKERS: dict[str, Callable[[Object, list[Object]], Iterator[PodGroup]]] = {
    "Deployment": _replicated,
    "StatefulSet": _replicated,
    "Job": _job,
    "CronJob": _cron,
    "Pod": _pod,
    "TrainJob": train_job_pods,
    "Experiment": experiment_pods,
    "SparkApplication": spark_pods,
    "ScheduledSparkApplication": spark_pods,
    "InferenceService": inference_service_pods,
    "InferenceGraph": graph_pods,
    "PipelineVersion": _pipeline,
}
