"""Trainer 2.3's webhooks and JobSet 0.12's, over a TrainJob and the runtimes that it may refer to.

trainer/v2: pkg/webhooks, pkg/runtime/framework/plugins/{torch,jobset}; jobset: pkg/webhooks/jobset_webhook.go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from fasttrack.kubeflow.rules.core import Object, dig, name_problem
from fasttrack.kubeflow.schemas.structural import Problem
from fasttrack.kubeflow.trainjob import GPU_RUNTIME, NODE, RUNTIME

#: The ClusterTrainingRuntimes that come with the Trainer.
UPSTREAM = (
    "deepspeed-distributed",
    "jax-distributed",
    "mlx-distributed",
    "torch-distributed",
    "torchtune-llama3.2-1b",
    "torchtune-llama3.2-3b",
    "torchtune-qwen2.5-1.5b",
    "xgboost-distributed",
)
OURS = (RUNTIME, GPU_RUNTIME)

_RESERVED = {
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
}
_ANCESTOR = "trainer.kubeflow.org/trainjob-ancestor-step"
_CONTAINERS = {
    "trainer": NODE,
    "model-initializer": "model-initializer",
    "dataset-initializer": "dataset-initializer",
}
_LABEL = 63


def train_job_problems(document: Object, runtimes: Collection[str] = ()) -> Iterator[Problem]:
    """Problems of a TrainJob.

    Args:
        document: the object.
        runtimes: names of TrainingRuntimes that stand beside it.
    """
    nodes = dig(document, "spec", "trainer", "numNodes") or 1
    # JobSet refuses names of pods that no label can hold: <name>-node-0-<index>-<5 characters>.
    index = len(str(max(0, nodes - 1))) if isinstance(nodes, int) else 1
    limit = _LABEL - len(f"-{NODE}-0-") - index - len("-abcde")
    yield from name_problem(document, limit, "as JobSet puts more behind it for pods")
    yield from job_problems(document, runtimes)


def job_problems(document: Object, runtimes: Collection[str] = ()) -> Iterator[Problem]:
    """Problems of a TrainJob's spec, which may also be a trial's."""
    spec = document.get("spec") or {}
    yield from _runtime(spec.get("runtimeRef") or {}, runtimes)
    trainer = spec.get("trainer") or {}
    reserved = sorted({str(dig(variable, "name")) for variable in trainer.get("env") or ()} & _RESERVED)
    if reserved:
        yield Problem("spec.trainer.env", f"{', '.join(reserved)}: only the Trainer sets these.")
    yield from _resources(trainer.get("resourcesPerNode") or {})
    for position, patch in enumerate(spec.get("runtimePatches") or ()):
        yield from _patch(patch, f"spec.runtimePatches[{position}]")


def runtime_problems(document: Object) -> Iterator[Problem]:
    """Problems of a TrainingRuntime."""
    yield from name_problem(document, _LABEL, "as TrainJobs refer to it")
    jobs = dig(document, "spec", "template", "spec", "replicatedJobs") or []
    if not any(dig(job, "template", "metadata", "labels", _ANCESTOR) == "trainer" for job in jobs):
        yield Problem("spec.template.spec.replicatedJobs", f"none has the label {_ANCESTOR}: trainer.")
    for position, job in enumerate(jobs):
        path = f"spec.template.spec.replicatedJobs[{position}]"
        ancestor = dig(job, "template", "metadata", "labels", _ANCESTOR)
        pod = f"{path}.template.spec.template"
        containers = dig(job, "template", "spec", "template", "spec", "containers") or []
        if ancestor in _CONTAINERS:
            if job.get("replicas", 1) != 1:
                yield Problem(f"{path}.replicas", "always must be 1.")
            if _CONTAINERS[ancestor] not in [dig(container, "name") for container in containers]:
                yield Problem(f"{pod}.spec.containers", f"has no container called {_CONTAINERS[ancestor]}.")


def _runtime(reference: Object, runtimes: Collection[str]) -> Iterator[Problem]:
    kind, name = reference.get("kind", "ClusterTrainingRuntime"), reference.get("name")
    known = {"TrainingRuntime": {*OURS, *runtimes}, "ClusterTrainingRuntime": set(UPSTREAM)}.get(str(kind))
    if reference.get("apiGroup", "trainer.kubeflow.org") != "trainer.kubeflow.org" or known is None:
        yield Problem("spec.runtimeRef", "refers to a kind that is no runtime.")
    elif name not in known:
        yield Problem("spec.runtimeRef", f"there is no {kind} {name!r}; there is: {', '.join(sorted(known))}.")


def _resources(resources: Object) -> Iterator[Problem]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, amount in {**requests, **limits}.items():
        # Extended resources, such as GPUs, can't be overcommitted.
        if "/" in name and requests.get(name, amount) != limits.get(name):
            yield Problem("spec.trainer.resourcesPerNode", f"{name}: request and limit have to be the same.")


def _patch(patch: Any, path: str) -> Iterator[Problem]:
    manager = str(dig(patch, "manager"))
    domain, mark, rest = manager.partition("/")
    if not mark or not domain or not rest:
        yield Problem(f"{path}.manager", f"{manager!r} is not a domain, a '/' and a path.")
    for job in dig(patch, "trainingRuntimeSpec", "template", "spec", "replicatedJobs") or ():
        for container in dig(job, "template", "spec", "template", "spec", "containers") or ():
            if container.get("env") and container.get("name") in _CONTAINERS.values():
                yield Problem(path, f"env of container {container['name']} belongs to spec.trainer.env.")
