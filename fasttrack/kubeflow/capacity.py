"""Whether a footprint fits: against the room on the nodes, the namespace's quotas and its limit ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.footprint import Footprint, Total
from fasttrack.kubeflow.pod_needs import Needs, Object, PodGroup, PodNeed, add, pod_need
from fasttrack.kubeflow.quantities import bytes_text, cores_text, quantity

_PODS = "pods"
# What quotas call requests when they say less.
_FULL = {"cpu": "requests.cpu", "memory": "requests.memory"}
# A node that is not ready or drained gets a taint of these from the control plane; no workload of ours tolerates it.
_BLOCKING = ("NoSchedule", "NoExecute")
_ENDED = ("Succeeded", "Failed")


@dataclass
class NodeRoom:
    """A node and what is left of it.

    Attributes:
        free: allocatable minus the requests of the pods that are there; ``pods`` counts them.
    """

    name: str
    free: Needs
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()

    def takes(self, need: PodNeed) -> bool:
        """Whether the scheduler would let one more pod of `need` in here."""
        if any(self.labels.get(key) != value for key, value in need.selector.items()):
            return False
        if any(t["effect"] in _BLOCKING and not _tolerated(t, need.tolerations) for t in self.taints):
            return False
        asked = {**need.requests, _PODS: Decimal(1)}
        return all(value <= self.free.get(name, Decimal(0)) for name, value in asked.items() if value)


def _tolerated(taint: Mapping[str, Any], tolerations: Iterable[Mapping[str, Any]]) -> bool:
    return any(
        each.get("key") in (None, "", taint["key"])
        and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
        and each.get("effect") in (None, "", taint["effect"])
        for each in tolerations
    )


def node_rooms(nodes: Iterable[Object], pods: Iterable[Object]) -> list[NodeRoom]:
    """The nodes that take pods, with what the pods on them leave."""
    rooms = {}
    for node in nodes:
        spec, status = node.get("spec", {}), node.get("status", {})
        if spec.get("unschedulable"):
            continue
        free = {name: quantity(value) for name, value in status.get("allocatable", {}).items()}
        name = node["metadata"]["name"]
        rooms[name] = NodeRoom(name, free, node["metadata"].get("labels") or {}, tuple(spec.get("taints") or ()))
    for pod in pods:
        room = rooms.get(pod.get("spec", {}).get("nodeName", ""))
        if room and pod.get("status", {}).get("phase") not in _ENDED:
            room.free = add(room.free, {**pod_need(pod["spec"]).requests, _PODS: Decimal(1)}, -1)
    return list(rooms.values())


def against_nodes(found: Footprint, rooms: list[NodeRoom]) -> Iterator[Finding]:
    """Whether each pod fits on some node, and whether all of them do at once; more nodes may come, so these are notes.

    What one pod asks for more than any node has is a note too: a cluster autoscaler could bring a larger node.
    """
    if not rooms:
        yield Finding(
            "nodes", "note", "no node takes pods now", "Add nodes, or uncordon them; pods would stay Pending."
        )
        return
    homeless = [group for group in found.groups if group.most and not any(room.takes(group.need) for room in rooms)]
    for group in homeless:
        yield Finding(
            "nodes",
            "note",
            f"{group.name}: no node has room for one pod of it ({needs_text(group.need.requests)})",
            "Free or add a node that has it; the pod stays Pending until one is there.",
        )
    if homeless:
        return
    for title, most in (("at least", False), ("at most", True)):
        left = _unplaced(found, rooms, most=most)
        if left:
            count = sum(left.values())
            names = ", ".join(f"{number} of {name}" for name, number in left.items())
            fix = "Add nodes, or lower maxReplicas, executors and trials in parallel; these pods would wait."
            yield Finding("nodes", "note", f"{title}: {count} pods find no room beside the others: {names}", fix)
            return
    yield Finding("nodes", "ok", f"{len(rooms)} nodes have room for everything at once")


def _unplaced(found: Footprint, rooms: list[NodeRoom], *, most: bool) -> dict[str, int]:
    """Place the largest pods first, each on the first node that takes it; what is left over, by group."""
    phases = ("features", "tune", "train")
    worst: dict[str, int] = {}
    for phase in phases:
        trial = [NodeRoom(room.name, dict(room.free), room.labels, room.taints) for room in rooms]
        groups = [g for g in found.groups if g.phase == phase or g.phase not in phases]
        left: dict[str, int] = {}
        for group in sorted(groups, key=_size, reverse=True):
            for _ in range(group.most if most else group.least):
                room = next((r for r in trial if r.takes(group.need)), None)
                if room is None:
                    left[group.name] = left.get(group.name, 0) + 1
                else:
                    room.free = add(room.free, {**group.need.requests, _PODS: Decimal(1)}, -1)
        if sum(left.values()) > sum(worst.values()):
            worst = left
    return worst


def _size(group: PodGroup) -> tuple[Decimal, ...]:
    scarce = sum((v for n, v in group.need.requests.items() if "/" in n), Decimal(0))
    return scarce, group.need.requests.get("memory", Decimal(0)), group.need.requests.get("cpu", Decimal(0))


def against_quota(
    found: Footprint,
    quotas: Iterable[Object],
    *,
    defaulted: frozenset[str] | None,
    counts: Mapping[str, int] | None = None,
) -> Iterator[Finding]:
    """Whether the namespace's quotas leave enough.

    Args:
        found: the footprint of what is new.
        quotas: the namespace's ResourceQuotas.
        defaulted: what a LimitRange fills in: ``requests.cpu``, ``limits.memory``; None if that can't be seen.
        counts: how many new objects of each kind, as quotas call them: ``count/trainjobs.trainer.kubeflow.org``.
    """
    for each in quotas:
        spec, status = each.get("spec", {}), each.get("status", {})
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue
        name = each["metadata"]["name"]
        used = status.get("used", {})
        room = {key: quantity(v) - quantity(used.get(key, 0)) for key, v in spec.get("hard", {}).items()}
        bad = [*_unset(name, found, room, defaulted), *_short(name, found, room, counts or {})]
        bad += _argo(name, found, room, defaulted)
        yield from bad or [Finding(f"quota {name}", "ok", "leaves enough: " + _room_text(room))]


def _unset(name: str, found: Footprint, room: Needs, defaulted: frozenset[str] | None) -> Iterator[Finding]:
    for key in room:
        full = _FULL.get(key, key)
        if full in (defaulted or ()) or not full.startswith(("requests.", "limits.")):
            continue
        groups = [group.name for group in found.groups if full in group.need.unset]
        if groups:
            yield Finding(
                f"quota {name}",
                "note" if defaulted is None else "mend",
                f"it counts {full}, which these pods don't give, so each is refused: {', '.join(groups)}",
                f"Have {key} taken out of the ResourceQuota, or add a LimitRange with a default for it.",
                ConfigurationError,
            )


def _argo(name: str, found: Footprint, room: Needs, defaulted: frozenset[str] | None) -> Iterator[Finding]:
    """What Argo's own containers, beside each step's, may be refused for: what they ask for is Argo's configuration."""
    counted = {_FULL.get(key, key) for key in room} & {*_FULL.values(), "limits.cpu", "limits.memory"}
    missing = sorted(counted - (defaulted or frozenset()))
    if missing and any(group.phase == "pipeline" for group in found.groups):
        yield Finding(
            f"quota {name}",
            "note",
            f"it counts {', '.join(missing)}, which Argo's own containers in the pods of steps don't give by default",
            "Add a LimitRange with defaults, or set executor.resources in Argo's workflow-controller-configmap.",
        )


def _short(name: str, found: Footprint, room: Needs, counts: Mapping[str, int]) -> Iterator[Finding]:
    objects = {key: Decimal(number) for key, number in counts.items()}
    needs, most = ({**_as_quota(total, found), **objects} for total in (found.run, found.most))
    fix = "Ask for less (resources, replicas, trials in parallel), end other work, or have the ResourceQuota raised."
    for key, left in room.items():
        asked = needs.get(key, Decimal(0))
        if asked > left:
            detail = f"{key}: a run needs {_amount(key, asked)}, {_amount(key, left)} is left"
            yield Finding(f"quota {name}", "mend", f"exceeded: {detail}", fix, ConfigurationError)
        elif most.get(key, Decimal(0)) > left:
            detail = f"{key}: at most {_amount(key, most[key])} would be asked for, {_amount(key, left)} is left"
            yield Finding(f"quota {name}", "note", detail, fix)


def _as_quota(total: Total, found: Footprint) -> Needs:
    """A sum in the names that quotas count."""
    needs: Needs = {_PODS: Decimal(total.pods), "count/pods": Decimal(total.pods)}
    needs |= {f"requests.{name}": value for name, value in total.requests.items()}
    needs |= {name: total.requests.get(name, Decimal(0)) for name in ("cpu", "memory", "ephemeral-storage")}
    needs |= {f"limits.{name}": value for name, value in total.limits.items()}
    needs |= {
        "requests.storage": sum(found.disk.values(), Decimal(0)),
        "persistentvolumeclaims": Decimal(len(found.disk)),
    }
    return needs


def against_limits(found: Footprint, ranges: Iterable[Object]) -> Iterator[Finding]:
    """Whether a pod asks for more or less than the namespace's LimitRanges let one pod."""
    for each in ranges:
        for limit in each.get("spec", {}).get("limits", []):
            if limit.get("type") not in ("Pod", "Container"):
                continue
            for name, value in (limit.get("max") or {}).items():
                # A container can't ask for more than its pod does; one of a pod of several may still be too large.
                over = [g.name for g in found.groups if _most(g.need, name) > quantity(value)]
                if over and limit["type"] == "Pod":
                    yield _limit(each, f"no pod may use more than {value} of {name}: {', '.join(over)} would", "mend")
                elif over:
                    yield _limit(
                        each, f"no container may use more than {value} of {name}: see {', '.join(over)}", "note"
                    )


def _most(need: PodNeed, name: str) -> Decimal:
    return max(need.limits.get(name, Decimal(0)), need.requests.get(name, Decimal(0)))


def _limit(each: Object, detail: str, state: Any) -> Finding:
    fix = "Ask for less in the use case, or have the LimitRange raised."
    error = ConfigurationError if state == "mend" else None
    return Finding(f"limit range {each['metadata']['name']}", state, detail, fix, error)


def defaults_of(ranges: Iterable[Object]) -> frozenset[str]:
    """What LimitRanges fill in for containers: ``requests.cpu``, ``limits.memory``."""
    found: set[str] = set()
    for each in ranges:
        for limit in each.get("spec", {}).get("limits", []):
            if limit.get("type") == "Container":
                found |= {f"limits.{name}" for name in limit.get("default") or {}}
                found |= {
                    f"requests.{name}" for name in (*(limit.get("defaultRequest") or {}), *(limit.get("default") or {}))
                }
    return frozenset(found)


def needs_text(needs: Mapping[str, Decimal]) -> str:
    """``cpu 500m, memory 1Gi``."""
    return ", ".join(f"{name} {_amount(name, value)}" for name, value in sorted(needs.items()) if value)


def _room_text(room: Needs) -> str:
    return ", ".join(f"{name} {_amount(name, value)}" for name, value in sorted(room.items()))


def _amount(name: str, value: Decimal) -> str:
    short = name.removeprefix("requests.").removeprefix("limits.")
    return bytes_text(value) if short in ("memory", "storage", "ephemeral-storage") else cores_text(value)
