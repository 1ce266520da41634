"""The pods of TrainJobs, Experiments and SparkApplications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from fasttrack.kubeflow.pod_needs import (
    Object,
    PodGroup,
    PodNeed,
    add,
    missing,
    pod_need,
    resources,
    template_need,
    title,
)
from fasttrack.kubeflow.quantities import jvm_bytes, quantity

# What Katib 0.19 adds when nothing is said (pkg/apis/config/v1beta1/defaults.go), what its settings in
# manifests/kustomize/platform/katib say of the search service, and Spark's own rule for overhead.
_KATIB = {
    "requests": {"cpu": "50m", "memory": "10Mi", "ephemeral-storage": "500Mi"},
    "limits": {"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "5Gi"},
}
_SEARCH = {"requests": _KATIB["requests"] | {"memory": "128Mi"}, "limits": _KATIB["limits"] | {"memory": "512Mi"}}
_MIB = Decimal(1024) ** 2
_SPARK_OVERHEAD = {"Python": Decimal("0.4"), "R": Decimal("0.4")}
_SPARK_OVERHEAD_LEAST = 384 * _MIB


def train_job_pods(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """The nodes of a TrainJob; what it doesn't say, its runtime among `known` does."""
    nodes, need = _nodes(each["spec"], known)
    yield PodGroup(title(each, "node"), "train", nodes, nodes, need)


def _nodes(spec: Mapping[str, Any], known: list[Object]) -> tuple[int, PodNeed]:
    """How many nodes, and what one asks for."""
    trainer = spec.get("trainer") or {}
    reference = spec.get("runtimeRef") or {}
    kind = reference.get("kind", "ClusterTrainingRuntime")
    runtime = next((o for o in known if (o["kind"], o["metadata"].get("name")) == (kind, reference.get("name"))), {})
    made = runtime.get("spec", {})
    jobs = made.get("template", {}).get("spec", {}).get("replicatedJobs", [])
    job: Mapping[str, Any] = next((j for j in jobs if j.get("name") == "node"), {})
    pod = dict(job.get("template", {}).get("spec", {}).get("template", {}).get("spec", {}) or {"containers": [{}]})
    containers = [dict(container) for container in pod.get("containers", [])] or [{}]
    main = next((c for c in containers if c.get("name") == "node"), containers[0])
    if trainer.get("image"):
        main["image"] = trainer["image"]
    if trainer.get("resourcesPerNode"):
        main["resources"] = trainer["resourcesPerNode"]
    pod["containers"] = containers
    nodes = trainer.get("numNodes") or made.get("mlPolicy", {}).get("numNodes") or 1
    return nodes, pod_need(pod)


def experiment_pods(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """Katib's own pod, and the trials that run at a time."""
    spec = each["spec"]
    trials = min(spec.get("parallelTrialCount", 3), spec.get("maxTrialCount") or spec.get("parallelTrialCount", 3))
    trial = spec.get("trialTemplate", {}).get("trialSpec", {})
    if trial.get("kind") == "TrainJob":
        nodes, need = _nodes(trial["spec"], known)
    else:
        nodes, need = trial.get("spec", {}).get("parallelism", 1), template_need(trial.get("spec", {}))
    collected = spec.get("metricsCollectorSpec", {}).get("collector", {}).get("kind", "StdOut") not in (
        "None",
        "Custom",
    )
    helpers = [{"resources": _SEARCH}, *([{"resources": _KATIB}] if spec.get("earlyStopping") else [])]
    yield PodGroup(title(each, "suggestions"), "tune", 1, 1, pod_need({"containers": helpers}))
    # Only the first node of a trial gets the collector; counted for all, the estimate is a little high.
    yield PodGroup(title(each, "trials"), "tune", nodes, trials * nodes, _with(need, _KATIB) if collected else need)


def _with(need: PodNeed, sidecar: Mapping[str, Any]) -> PodNeed:
    asked, bound = resources(sidecar)
    unset = need.unset | missing(asked, bound)
    return PodNeed(
        add(need.requests, asked), add(need.limits, bound), unset, need.selector, need.tolerations, need.images
    )


def spark_pods(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """Driver and executors of a SparkApplication, scheduled or not; executors as dynamic allocation bounds them."""
    spec, phase = each["spec"], "features"
    runs = 1
    if each["kind"] == "ScheduledSparkApplication":
        if spec.get("suspend"):
            return
        spec, phase, runs = spec["template"], "schedule", 0
    executor = spec.get("executor", {})
    least = most = int(executor.get("instances", 1))
    dynamic = spec.get("dynamicAllocation") or {}
    if dynamic.get("enabled"):
        least = int(dynamic.get("minExecutors", 0))
        most = int(dynamic.get("maxExecutors", max(least, int(dynamic.get("initialExecutors", most)))))
    yield PodGroup(title(each, "driver"), phase, runs, 1, _spark_need(spec, spec.get("driver", {})))
    yield PodGroup(title(each, "executors"), phase, runs * least, most, _spark_need(spec, executor))


def _spark_need(spec: Mapping[str, Any], part: Mapping[str, Any]) -> PodNeed:
    """Spark's rule: memory plus ``memoryOverhead``, or a share of it but at least 384 MiB."""
    cores = quantity(part.get("coreRequest") or part.get("cores", 1))
    memory = jvm_bytes(part.get("memory", "1g"))
    if given := part.get("memoryOverhead"):
        overhead = jvm_bytes(given)
    else:
        default = _SPARK_OVERHEAD.get(spec.get("type", ""), Decimal("0.1"))
        overhead = max(memory * Decimal(str(spec.get("memoryOverheadFactor") or default)), _SPARK_OVERHEAD_LEAST)
    requests = {"cpu": cores, "memory": memory + overhead}
    limits = {"memory": memory + overhead}
    if bound := part.get("coreLimit"):
        limits["cpu"] = quantity(bound)
    if gpu := part.get("gpu"):
        requests[gpu["name"]] = limits[gpu["name"]] = Decimal(gpu["quantity"])
    image = part.get("image") or spec.get("image")
    images = {image: spec.get("imagePullPolicy", "")} if image else {}
    template = (part.get("template") or {}).get("spec") or {}
    selector = {
        **(spec.get("nodeSelector") or {}),
        **template.get("nodeSelector", {}),
        **(part.get("nodeSelector") or {}),
    }
    tolerations = (*(part.get("tolerations") or ()), *template.get("tolerations", ()))
    unset = frozenset(missing(requests, limits))
    return PodNeed(requests, limits, unset, selector, tolerations, images)
