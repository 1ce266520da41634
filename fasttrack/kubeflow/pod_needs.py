"""What one pod asks for: the sum of its containers as the scheduler and a ResourceQuota count them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fasttrack.kubeflow.quantities import quantity

GPU = "nvidia.com/gpu"
Needs = dict[str, Decimal]
Object = Mapping[str, Any]

#: The phase of pods that are there whether something runs or not.
ALWAYS = "always"


@dataclass(frozen=True)
class PodNeed:
    """What one pod asks for.

    Attributes:
        requests: by resource: cores for ``cpu``, bytes for ``memory`` and ``ephemeral-storage``, a count for GPUs.
        limits: the same; a resource that a container leaves unlimited is absent.
        unset: per resource, what containers don't give: ``requests.cpu``, ``limits.memory`` and so on. A quota on
            such a name refuses the pod, whatever is left of it.
        selector: labels that a node must have.
        tolerations: as in a pod's specification.
        images: the images of its containers, with the pull policy where one is given.
    """

    requests: Needs
    limits: Needs = field(default_factory=dict)
    unset: frozenset[str] = frozenset()
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PodGroup:
    """Pods of one kind.

    Attributes:
        name: ``InferenceService flights: predictor``.
        phase: ``always``, or what of a run they belong to: ``pipeline``, ``features``, ``tune``, ``train``.
        least: pods while the object (or its phase) is there.
        most: pods with every autoscaler at its end.
        need: what one pod asks for.
    """

    name: str
    phase: str
    least: int
    most: int
    need: PodNeed


def title(each: Object, part: str = "") -> str:
    """The name of a group of pods: ``TrainJob flights-train: node``."""
    return f"{each['kind']} {each.get('metadata', {}).get('name', '')}" + (f": {part}" if part else "")


def template_need(spec: Mapping[str, Any]) -> PodNeed:
    """What a pod of ``spec.template`` asks for; raises as `pod_need`."""
    return pod_need(spec.get("template", {}).get("spec", {}))


def resources(given: Mapping[str, Any]) -> tuple[Needs, Needs]:
    """Requests and limits of ``resources:``; a missing request is the limit, as the API server fills it in.

    Raises:
        ConfigurationError: one isn't a quantity.
    """
    limits = {name: quantity(value) for name, value in (given.get("limits") or {}).items()}
    requests = {name: quantity(value) for name, value in (given.get("requests") or {}).items()}
    return {**limits, **requests}, limits


def add(left: Mapping[str, Decimal], right: Mapping[str, Decimal], times: int = 1) -> Needs:
    """`left` plus `times` of `right`."""
    return {name: left.get(name, Decimal(0)) + times * right.get(name, Decimal(0)) for name in {**left, **right}}


def largest(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> Needs:
    """The larger of the two, by resource."""
    return {name: max(left.get(name, Decimal(0)), right.get(name, Decimal(0))) for name in {**left, **right}}


def pod_need(spec: Mapping[str, Any]) -> PodNeed:
    """What a pod of this specification asks for.

    Init containers run before the others: the pod needs the larger of the two; one with ``restartPolicy: Always``
    stays, so it adds to the others.

    Raises:
        ConfigurationError: a resource isn't a quantity.
    """
    requests: Needs = {}
    limits: Needs = {}
    early: Needs = {}
    early_limits: Needs = {}
    unset: set[str] = set()
    images: dict[str, str] = {}
    initial = [(c, c.get("restartPolicy") != "Always") for c in spec.get("initContainers") or ()]
    for container, passing in [*initial, *((c, False) for c in spec.get("containers") or ())]:
        asked, bound = resources(container.get("resources") or {})
        if passing:
            early, early_limits = largest(early, add(requests, asked)), largest(early_limits, add(limits, bound))
        else:
            requests, limits = add(requests, asked), add(limits, bound)
        unset |= missing(asked, bound)
        if image := container.get("image"):
            images[image] = container.get("imagePullPolicy", "")
    return PodNeed(
        largest(requests, early),
        largest(limits, early_limits),
        frozenset(unset),
        spec.get("nodeSelector") or {},
        tuple(spec.get("tolerations") or ()),
        images,
    )


def missing(requests: Mapping[str, Decimal], limits: Mapping[str, Decimal]) -> set[str]:
    """Which of ``requests.cpu``, ``limits.memory`` and so on a container doesn't give."""
    return {
        f"{kind}.{name}"
        for kind, given in (("requests", requests), ("limits", limits))
        for name in ("cpu", "memory")
        if name not in given
    }
