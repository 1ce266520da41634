"""How much of a cluster a use case takes: pods, CPU, memory, GPUs and disk, at least and at most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fasttrack.kubeflow.pod_needs import ALWAYS, GPU, Needs, Object, PodGroup, add, largest
from fasttrack.kubeflow.quantities import bytes_text, cores_text, quantity
from fasttrack.kubeflow.workloads import pod_groups

#: Phases of a run that never overlap: the pipeline starts one after the other.
_IN_TURN = ("features", "tune", "train", "job")
#: Phases that may fall together with every other one.
_BESIDE = ("pipeline", "schedule")


@dataclass(frozen=True)
class Total:
    """A sum over pods.

    Attributes:
        pods: how many.
        requests: what they ask for: cores, bytes, GPUs.
        limits: what they may use; only of containers that have limits.
    """

    pods: int = 0
    requests: Needs = field(default_factory=dict)
    limits: Needs = field(default_factory=dict)

    def plus(self, group: PodGroup, pods: int) -> Total:
        """This and `pods` pods of a group."""
        need = group.need
        return Total(self.pods + pods, add(self.requests, need.requests, pods), add(self.limits, need.limits, pods))

    def to_json(self) -> dict[str, Any]:
        """Numbers: cores, bytes, counts."""
        return {
            "pods": self.pods,
            "cpu": float(self.requests.get("cpu", 0)),
            "memory": int(self.requests.get("memory", 0)),
            "gpus": int(self.requests.get(GPU, 0)),
            "ephemeral_storage": int(self.requests.get("ephemeral-storage", 0)),
            "cpu_limit": float(self.limits.get("cpu", 0)),
            "memory_limit": int(self.limits.get("memory", 0)),
        }


@dataclass(frozen=True)
class Footprint:
    """What a use case takes.

    Attributes:
        groups: its pods by kind.
        disk: bytes by claim.
        idle: while nothing runs.
        run: the least that a run needs beside that.
        most: with every autoscaler at its end and a run under way.
    """

    groups: tuple[PodGroup, ...]
    disk: Mapping[str, Decimal]
    idle: Total
    run: Total
    most: Total

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with ``--json``."""
        return {
            "idle": self.idle.to_json(),
            "run": self.run.to_json(),
            "most": self.most.to_json(),
            "disk": {name: int(size) for name, size in self.disk.items()},
            "groups": [
                {
                    "name": group.name,
                    "phase": group.phase,
                    "least": group.least,
                    "most": group.most,
                    "requests": {name: float(value) for name, value in group.need.requests.items()},
                    "limits": {name: float(value) for name, value in group.need.limits.items()},
                }
                for group in self.groups
            ],
        }


def footprint(objects: Iterable[Object]) -> Footprint:
    """Add up the pods and claims that a cluster would make of `objects`.

    Raises:
        ConfigurationError: a resource isn't a quantity.
    """
    known = list(objects)
    groups = tuple(pod_groups(known))
    idle = _sum(groups, (ALWAYS,), most=False)
    run = _joined(idle, groups, ("pipeline",), most=False)
    most = _joined(_sum(groups, (ALWAYS,), most=True), groups, _BESIDE, most=True)
    return Footprint(groups, _disk(known), idle, run, most)


def _sum(groups: Iterable[PodGroup], phases: tuple[str, ...], *, most: bool) -> Total:
    total = Total()
    for group in groups:
        if group.phase in phases:
            total = total.plus(group, group.most if most else group.least)
    return total


def _joined(standing: Total, groups: tuple[PodGroup, ...], beside: tuple[str, ...], *, most: bool) -> Total:
    """`standing`, what runs beside everything, and the largest of what runs in turn."""
    widest = Total()
    for phase in _IN_TURN:
        one = _sum(groups, (phase,), most=most)
        pods = max(widest.pods, one.pods)
        widest = Total(pods, largest(widest.requests, one.requests), largest(widest.limits, one.limits))
    total = standing
    for part in (_sum(groups, beside, most=most), widest):
        requests, limits = add(total.requests, part.requests), add(total.limits, part.limits)
        total = Total(total.pods + part.pods, requests, limits)
    return total


def _disk(objects: list[Object]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for each in objects:
        name = each.get("metadata", {}).get("name", "")
        if each.get("kind") == "PersistentVolumeClaim":
            found[f"PersistentVolumeClaim {name}"] = _storage(each["spec"])
        elif each.get("kind") == "StatefulSet":
            for claim in each["spec"].get("volumeClaimTemplates") or ():
                title = f"StatefulSet {name}: {claim['metadata']['name']}"
                found[title] = _storage(claim["spec"]) * each["spec"].get("replicas", 1)
    return found


def _storage(spec: Mapping[str, Any]) -> Decimal:
    return quantity((spec.get("resources") or {}).get("requests", {}).get("storage", 0))


def rows(found: Footprint) -> list[list[str]]:
    """A table for people: pods, when, CPU, memory, GPUs; one row a group, then the sums."""
    table = [[group.name, group.phase, _count(group), *_each(group.need.requests)] for group in found.groups]
    for title, total in (
        ("in all, while nothing runs", found.idle),
        ("in all, at least, during a run", found.run),
        ("in all, at most", found.most),
    ):
        table.append([title, "", str(total.pods), *_each(total.requests)])
    table += [[name, ALWAYS, "", "", "", "", bytes_text(size)] for name, size in found.disk.items()]
    return [[*row, ""] if len(row) == 6 else row for row in table]


COLUMNS = ["what", "when", "pods", "CPU", "memory", "GPUs", "disk"]


def _count(group: PodGroup) -> str:
    return str(group.least) if group.least == group.most else f"{group.least} to {group.most}"


def _each(needs: Mapping[str, Decimal]) -> list[str]:
    gpus = int(needs.get(GPU, 0))
    cpu, memory = needs.get("cpu", Decimal(0)), needs.get("memory", Decimal(0))
    return [cores_text(cpu) if cpu else "", bytes_text(memory) if memory else "", str(gpus) if gpus else ""]
