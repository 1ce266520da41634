"""How large the pods of jobs and servers are, where the defaults don't fit the data or the cluster."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.pods import Object
from fasttrack.kubeflow.quantities import quantity

#: ``train`` is a node of TrainJobs and trials, ``driver`` and ``executor`` are Spark's, the others servers' containers.
PARTS = ("train", "driver", "executor", "predictor", "transformer", "explainer")
_WHERE = "--size"
_MIB = Decimal(1024) ** 2
# What Spark's JVM gets of a pod; Python workers and buffers get the rest.
_HEAP = Decimal("0.6")


@dataclass(frozen=True)
class Size:
    """CPU that a pod's container asks for, and memory that it asks for and gets no more of; Kubernetes quantities."""

    cpu: str
    memory: str


Sizes = Mapping[str, Size]


def parse_sizes(texts: Iterable[str]) -> dict[str, Size]:
    """Sizes out of ``PART=CPU,MEMORY``.

    Raises:
        ConfigurationError: a part is unknown, or an amount isn't one.
    """
    found: dict[str, Size] = {}
    for text in texts:
        part, _, amounts = text.partition("=")
        cpu, comma, memory = amounts.partition(",")
        if part not in PARTS or not comma:
            raise ConfigurationError(
                f"{text!r} is no size.", where=_WHERE, fix=f"Write train=2,8Gi; the parts are {', '.join(PARTS)}."
            )
        if quantity(cpu) <= 0 or quantity(memory) < 64 * _MIB:
            raise ConfigurationError(f"{text!r} is too little.", where=_WHERE, fix="Give CPU, and 64Mi or more.")
        found[part] = Size(cpu.strip(), memory.strip())
    return found


def sizes_text(sizes: Sizes) -> str:
    """`sizes` as words with blanks between them, which `parse_sizes` reads when they are split."""
    return " ".join(f"{part}={size.cpu},{size.memory}" for part, size in sorted(sizes.items()))


def resized(obj: Object, sizes: Sizes) -> Object:
    """`obj` with these sizes, if it is a job or an InferenceService; what isn't among them stays."""
    if not sizes:
        return obj
    made = copy.deepcopy(obj)
    spec = made.get("spec", {})
    match made["kind"]:
        case "TrainJob":
            _train(spec["trainer"], sizes)
        case "Experiment":
            _train(spec["trialTemplate"]["trialSpec"]["spec"]["trainer"], sizes)
        case "SparkApplication":
            _spark(spec, sizes)
        case "ScheduledSparkApplication":
            _spark(spec["template"], sizes)
        case "InferenceService":
            _servers(spec, sizes)
    return made


def _train(trainer: Object, sizes: Sizes) -> None:
    if size := sizes.get("train"):
        trainer["resourcesPerNode"] = _resources(trainer.get("resourcesPerNode", {}), size)


def _spark(spec: Object, sizes: Sizes) -> None:
    for part in ("driver", "executor"):
        if size := sizes.get(part):
            whole = int(quantity(size.memory) / _MIB)
            heap = int(whole * _HEAP)
            spec[part] |= {
                "cores": max(1, round(quantity(size.cpu))),
                "coreRequest": size.cpu,
                "memory": f"{heap}m",
                "memoryOverhead": f"{whole - heap}m",
            }


def _servers(spec: Object, sizes: Sizes) -> None:
    # The version that is served, and canaries beside it.
    for predictor in (spec["predictor"], *(each["predictor"] for each in spec.get("canary", ()))):
        if size := sizes.get("predictor"):
            predictor["model"]["resources"] = _resources(predictor["model"].get("resources", {}), size)
        _containers(predictor.get("containers", []), sizes.get("transformer"))
    _containers(spec.get("explainer", {}).get("containers", []), sizes.get("explainer"))


def _containers(containers: list[Object], size: Size | None) -> None:
    if size is not None:
        for container in containers:
            container["resources"] = _resources(container.get("resources", {}), size)


def _resources(given: Object, size: Size) -> Object:
    """`given` with this size; GPUs stay."""
    requests, limits = given.get("requests", {}), given.get("limits", {})
    own = {"cpu": size.cpu, "memory": size.memory}
    return {"requests": {**requests, **own}, "limits": {**limits, "memory": size.memory}}
