"""What ails pods that don't get on, in a person's words, with the next thing to do.

Pure functions over objects as the API server gives them: pods, events, conditions.
"""

from __future__ import annotations

from collections.abc import Iterable

from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.cluster.scheduling import unschedulable
from fasttrack.kubeflow.cluster.trouble import Trouble
from fasttrack.kubeflow.cluster.waiting import waiting

_MOUNTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "ProvisioningFailed")
_DISRUPTIONS = {
    "PreemptionByScheduler": ("preempted", "was preempted: a pod of higher priority took its place"),
    "DeletionByTaintManager": ("node-lost", "was removed from a node that was tainted or lost"),
    "DeletionByPodGC": ("node-lost", "was removed because its node is gone"),
    "EvictionByEvictionAPI": ("evicted", "was evicted, usually because its node is drained"),
    "TerminationByKubelet": ("evicted", "was ended by its node, which ran short of something or shuts down"),
}
_STATUS_REASONS = {
    "Evicted": ("evicted", "was evicted by its node"),
    "Preempting": ("preempted", "was preempted"),
    "NodeLost": ("node-lost", "was on a node that is lost"),
    "Shutdown": ("node-lost", "was on a node that shuts down"),
    "Terminated": ("node-lost", "was on a node that shuts down"),
    "NodeShutdown": ("node-lost", "was on a node that shuts down"),
    "NodeAffinity": ("node-lost", "no longer fits its node"),
    "OutOfcpu": ("node-full", "was refused by its node: no CPU is left"),
    "OutOfmemory": ("node-full", "was refused by its node: no memory is left"),
    "OutOfpods": ("node-full", "was refused by its node: it takes no more pods"),
    "UnexpectedAdmissionError": ("node-full", "was refused by its node: its device can't be had"),
}
_FIX = {
    "preempted": "It starts again by itself; give the work a PriorityClass if this repeats.",
    "evicted": "It starts again by itself; ask for what it really needs (resources) if this repeats.",
    "node-lost": "It starts again on another node; look at the nodes: kubectl get nodes.",
    "node-full": "It starts again; look what else runs on the node.",
}
_SIGKILL = 137
_SIGTERM = 143


def of_pod(pod: Object, events: Iterable[Object] = ()) -> Trouble | None:
    """What ails a pod, or None: the worst that is known about it.

    Args:
        pod: the pod.
        events: Warning events; those about other objects are left out.
    """
    name = pod["metadata"]["name"]
    own = [event for event in events if event.get("involvedObject", {}).get("name") == name]
    for judge in (_disrupted, _ended, waiting, unschedulable):
        if found := judge(pod):
            return found
    return _not_mounted(pod, own) or _node_silent(pod)


def of_pods(pods: Iterable[Object], events: Iterable[Object] = ()) -> list[Trouble]:
    """What ails each of several pods; one entry for pods that have the same."""
    told = list(events)
    found = [trouble for pod in pods if (trouble := of_pod(pod, told)) is not None]
    return list({(trouble.code, trouble.what): trouble for trouble in found}.values())


def of_events(events: Iterable[Object], prefix: str) -> list[Trouble]:
    """Why controllers can't make pods: events of objects whose names begin with `prefix`."""
    found: dict[str, Trouble] = {}
    for event in events:
        about = event.get("involvedObject", {})
        if event.get("type") == "Warning" and str(about.get("name", "")).startswith(prefix):
            trouble = _not_made(str(event.get("message", "")), f"{about.get('kind')} {about.get('name')}")
            if trouble is not None:
                found[trouble.code] = trouble
    return list(found.values())


def cause(pods: Iterable[Object]) -> Trouble | None:
    """Why work of several pods failed: what befell the first of them; the others fall because it did."""
    found = [(_when(pod), trouble) for pod in pods if (trouble := of_pod(pod)) is not None]
    return min(found, key=lambda item: item[0])[1] if found else None


def _disrupted(pod: Object) -> Trouble | None:
    status, where = pod.get("status", {}), f"pod {pod['metadata']['name']}"
    if status.get("phase") == "Succeeded":
        return None
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            code, what = _DISRUPTIONS.get(condition.get("reason", ""), ("evicted", "was taken from its node"))
            return Trouble(code, _join(what, condition.get("message")), where, _FIX[code], transient=True)
    if known := _STATUS_REASONS.get(status.get("reason", "")):
        code, what = known
        return Trouble(code, _join(what, status.get("message")), where, _FIX[code], transient=True)
    if status.get("reason") == "DeadlineExceeded":
        fix = "Raise its activeDeadlineSeconds, or give it more resources."
        return Trouble("deadline", "took longer than its deadline allows", where, fix, fatal=True)
    return None


def _ended(pod: Object) -> Trouble | None:
    """A container that ended badly; one that began again since is left to `waiting`."""
    if pod.get("status", {}).get("phase") == "Succeeded":
        return None
    for status in _statuses(pod):
        if (ended := _terminated(status)) is None or not ended.get("exitCode"):
            continue
        where = f"pod {pod['metadata']['name']}, container {status['name']}"
        if ended.get("reason") == "OOMKilled":
            limit = _memory_limit(pod, status["name"])
            what = f"was killed for want of memory{f' (its limit is {limit})' if limit else ''}"
            return Trouble("out-of-memory", what, where, "Raise its memory limit, or lower the batch size.")
        if ended["exitCode"] == _SIGKILL:
            fix = "Look at its node: kubectl describe node; often its memory ran out."
            return Trouble("killed", "was killed (signal 9)", where, fix, transient=True)
        what = _join(f"ended with exit code {ended['exitCode']}", _last_line(ended.get("message", "")))
        return Trouble("failed", what, where, f"kubectl logs {pod['metadata']['name']} -c {status['name']}")
    return None


def _not_mounted(pod: Object, events: list[Object]) -> Trouble | None:
    if pod.get("status", {}).get("phase") != "Pending":
        return None
    for event in reversed(events):
        where = f"pod {pod['metadata']['name']}"
        if event.get("reason") in _MOUNTS:
            fix = "Make the volume, Secret or ConfigMap that it names: `fasttrack doctor --cluster`."
            return Trouble("volume", _join("a volume can't be mounted", event.get("message")), where, fix)
        if event.get("reason") == "FailedCreatePodSandBox":
            fix = "Look at the node's network plugin: kubectl get pods -n kube-system."
            return Trouble("network", _join("its network can't be set up", event.get("message")), where, fix)
    return None


def _node_silent(pod: Object) -> Trouble | None:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition.get("reason") in ("NodeNotReady", "NodeStatusUnknown"):
            node = pod.get("spec", {}).get("nodeName", "its node")
            what, where = f"{node} does not answer", f"pod {pod['metadata']['name']}"
            return Trouble("node-lost", what, where, _FIX["node-lost"], transient=True)
    return None


def _not_made(message: str, where: str) -> Trouble | None:
    if "exceeded quota" in message:
        detail = message.partition("exceeded quota: ")[2]
        fix = "Wait for running work to end, ask for less, or have the quota raised: kubectl describe quota."
        return Trouble("quota", f"quota exceeded: {detail}", where, fix)
    if "failed quota: " in message:
        detail = message.partition("failed quota: ")[2]
        fix = "Add a LimitRange with defaults for it, or have it taken out of the quota: kubectl describe quota."
        return Trouble("quota", f"a quota refused its pod: {detail}", where, fix)
    if "violates PodSecurity" in message:
        detail = message.partition("violates ")[2]
        fix = "Use FastTrack's own manifests unchanged: they keep to `restricted`."
        return Trouble("pod-security", f"pod security refused its pod: {detail}", where, fix)
    if "denied the request" in message or "failed calling webhook" in message:
        return Trouble("webhook", f"webhook refused its pod: {message}", where, "Mend what it names.")
    if "serviceaccount" in message and "not found" in message:
        fix = "Apply FastTrack's manifests in this namespace: kubectl apply -k manifests/kustomize/overlays/..."
        return Trouble("account", f"its service account is missing: {message}", where, fix)
    return None


def _when(pod: Object) -> tuple[bool, str]:
    """When a pod's trouble began; one that was merely asked to end comes last."""
    disrupted = [
        str(condition.get("lastTransitionTime", ""))
        for condition in pod.get("status", {}).get("conditions", [])
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True"
    ]
    if disrupted:
        return False, disrupted[0]
    ends = [ended for status in _statuses(pod) if (ended := _terminated(status)) and ended.get("exitCode")]
    asked = bool(ends) and all(ended["exitCode"] == _SIGTERM for ended in ends)
    return asked, min((str(ended.get("finishedAt", "")) for ended in ends), default="")


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _terminated(status: Object) -> Object | None:
    found: Object | None = status.get("state", {}).get("terminated")
    return found


def _memory_limit(pod: Object, container: str) -> str:
    for found in pod.get("spec", {}).get("containers", []):
        if found["name"] == container:
            return str(found.get("resources", {}).get("limits", {}).get("memory", ""))
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _join(what: str, detail: str | None) -> str:
    return f"{what}: {detail}" if detail else what
