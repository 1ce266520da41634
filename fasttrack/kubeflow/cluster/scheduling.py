"""Why the scheduler finds no node for a pod, from its own words."""

from __future__ import annotations

import re

from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.cluster.trouble import Trouble

_GPU = re.compile(r"[a-z0-9.-]*(?:gpu|nvidia|amd\.com|habana)[a-z0-9./-]*", re.IGNORECASE)
_SHORT = re.compile(r"\d+ Insufficient ([A-Za-z0-9./-]+?)(?=[,.]? |[,.]?$)")
_TAINT = re.compile(r"untolerated taint\(?s?\)? ?\{([^}]*)\}")


def unschedulable(pod: Object) -> Trouble | None:
    """Why a pending pod has no node; None if it has one."""
    if pod.get("status", {}).get("phase", "Pending") != "Pending" or pod.get("spec", {}).get("nodeName"):
        return None
    where = f"pod {pod['metadata']['name']}"
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] != "PodScheduled" or condition["status"] == "True":
            continue
        if condition.get("reason") == "SchedulingGated":
            gates = ", ".join(gate["name"] for gate in pod["spec"].get("schedulingGates", [])) or "a gate"
            fix = "Its queue admits it when there is room: look at the queue (Kueue: kubectl get workloads)."
            return Trouble("gated", f"waits until {gates} lets it be scheduled", where, fix)
        return _judge(condition.get("message", ""), where)
    return None


def _judge(message: str, where: str) -> Trouble:
    # What the preemption attempt says repeats the nodes' words.
    message = message.partition(" preemption:")[0].strip()
    short = _SHORT.findall(message)
    if gpus := [resource for resource in short if _GPU.fullmatch(resource)]:
        fix = "Wait for running work to end, add a node with GPUs, or compile without --gpus."
        return Trouble("no-gpu", f"pending for want of a GPU ({gpus[0]}): {message}", where, fix)
    if "persistentvolumeclaim" in message.lower():
        fix = "Make the claim, with a storage class that there is: kubectl get pvc,storageclass."
        return Trouble("volume", f"pending for want of its volume: {message}", where, fix)
    if short:
        fix = "Wait for running work to end, ask for less (resources), or add nodes."
        return Trouble("no-room", f"pending for want of {' and '.join(dict.fromkeys(short))}: {message}", where, fix)
    if taints := _TAINT.findall(message):
        fix = "Wait until a node is free of it, or add nodes; kubectl get nodes -o wide."
        named = ", ".join(dict.fromkeys(taint.split(":")[0].strip() for taint in taints))
        return Trouble("taint", f"pending: no node without the taint {named}: {message}", where, fix)
    if "affinity" in message or "selector" in message or "topology spread" in message:
        fix = "Label a node as the pod wants it, or loosen nodeSelector, affinity or topologySpreadConstraints."
        return Trouble("selector", f"pending: no node is of the kind it asks for: {message}", where, fix)
    if "no nodes available" in message or message.startswith("0/0"):
        return Trouble("no-room", "pending: the cluster has no nodes", where, "Add nodes: kubectl get nodes.")
    return Trouble("no-room", f"pending: {message or 'the scheduler gives no reason'}", where, "kubectl describe pod")
