"""Pod Security `restricted`, as Kubernetes 1.34 enforces it, over what our objects say of their pods.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fasttrack.kubeflow.rules.core import Object, dig, label_problems
from fasttrack.kubeflow.schemas.structural import Problem

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
}
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_PROFILES = ("RuntimeDefault", "Localhost")


def problems(document: Object) -> Iterator[Problem]:
    """Problems of all pods that come of an object."""
    match document.get("kind"):
        case "TrainingRuntime":
            at = "spec.template.spec.replicatedJobs"
            for position, job in enumerate(dig(document, "spec", "template", "spec", "replicatedJobs") or ()):
                path = f"{at}[{position}].template.spec.template"
                yield from template_problems(dig(job, "template", "spec", "template"), path)
        case "Deployment":
            yield from template_problems(dig(document, "spec", "template"), "spec.template")
        case "SparkApplication":
            yield from _spark(document.get("spec") or {}, "spec")
        case "ScheduledSparkApplication":
            yield from _spark(dig(document, "spec", "template") or {}, "spec.template")
        case "ServingRuntime":
            yield from pod_problems(document.get("spec") or {}, "spec")
        case "InferenceService":
            yield from _served(document.get("spec") or {})
        case "InferenceGraph":
            reason = "KServe's router pod names no seccomp profile: Pod Security `restricted` refuses it."
            yield Problem("metadata.namespace", f"{reason} Give it a namespace that enforces `baseline`.")


def _spark(spec: Object, path: str) -> Iterator[Problem]:
    for role in ("driver", "executor"):
        found = spec.get(role) or {}
        if "template" in found:
            yield from template_problems(found["template"], f"{path}.{role}.template")
            continue
        # Then the operator's pod webhook puts these into the pod.
        container = {"securityContext": found.get("securityContext") or {}}
        yield from container_problems(container, found.get("podSecurityContext") or {}, f"{path}.{role}")


def _served(spec: Object) -> Iterator[Problem]:
    canaries = [dig(canary, "predictor") for canary in spec.get("canary") or ()]
    named = [(part, spec.get(part)) for part in ("predictor", "transformer", "explainer")]
    named += [(f"canary[{position}].predictor", predictor) for position, predictor in enumerate(canaries)]
    for part, found in named:
        if isinstance(found, dict):
            # A model's own container comes from its runtime, and so may some of the volumes.
            yield from pod_problems(found, f"spec.{part}", whole=False)


def template_problems(template: Any, path: str) -> Iterator[Problem]:
    """Problems of a pod template."""
    if not isinstance(template, dict):
        yield Problem(path, "is required.")
        return
    yield from label_problems(dig(template, "metadata", "labels"), f"{path}.metadata.labels")
    yield from pod_problems(template.get("spec") or {}, f"{path}.spec")


def pod_problems(pod: Object, path: str, *, whole: bool = True) -> Iterator[Problem]:
    """Problems of a pod's spec, or of the part of one that an operator completes.

    Args:
        pod: the spec.
        path: where it stands.
        whole: nothing else is put into the pod: containers and volumes have to be here.
    """
    for name in _HOST:
        if pod.get(name):
            yield Problem(f"{path}.{name}", "Pod Security `restricted` refuses it.")
    found = [(kind, i, c) for kind in ("containers", "initContainers") for i, c in enumerate(pod.get(kind) or ())]
    if whole and not found:
        yield Problem(f"{path}.containers", "is required.")
    security = pod.get("securityContext") or {}
    for kind, position, container in found:
        yield from container_problems(container, security, f"{path}.{kind}[{position}]")
    yield from _volumes(pod, [container for _, _, container in found], path, whole=whole)


def container_problems(container: Object, pod: Object, path: str) -> Iterator[Problem]:
    """Problems of a container.

    Args:
        container: the container.
        pod: the pod's securityContext, which counts where the container's own says nothing.
        path: where the container stands.
    """
    own = container.get("securityContext") or {}
    at = f"{path}.securityContext"
    if own.get("privileged"):
        yield Problem(at, "privileged is refused by Pod Security `restricted`.")
    if own.get("allowPrivilegeEscalation") is not False:
        yield Problem(at, "allowPrivilegeEscalation has to be false: Pod Security `restricted`.")
    if "ALL" not in (dig(own, "capabilities", "drop") or ()):
        yield Problem(at, "capabilities.drop has to hold ALL: Pod Security `restricted`.")
    if set(dig(own, "capabilities", "add") or ()) - {"NET_BIND_SERVICE"}:
        yield Problem(at, "capabilities.add may hold NET_BIND_SERVICE only: Pod Security `restricted`.")
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield Problem(at, "runAsNonRoot has to be true: Pod Security `restricted`.")
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield Problem(at, "runAsUser can't be 0: Pod Security `restricted`.")
    profile = dig(own, "seccompProfile", "type") or dig(pod, "seccompProfile", "type")
    if profile not in _PROFILES:
        yield Problem(at, "seccompProfile.type has to be RuntimeDefault: Pod Security `restricted`.")
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield Problem(f"{path}.ports", "hostPort is refused by Pod Security `restricted`.")


def _volumes(pod: Object, containers: list[Object], path: str, *, whole: bool) -> Iterator[Problem]:
    names = [volume.get("name") for volume in pod.get("volumes") or ()]
    for position, volume in enumerate(pod.get("volumes") or ()):
        if kinds := sorted(set(volume) - {"name"} - _VOLUMES):
            yield Problem(f"{path}.volumes[{position}]", f"{kinds[0]} is refused by Pod Security `restricted`.")
        if names.count(volume.get("name")) > 1:
            yield Problem(f"{path}.volumes[{position}]", f"another volume is called {volume.get('name')!r}.")
    for container in containers:
        for mount in container.get("volumeMounts") or ():
            if whole and mount.get("name") not in names:
                yield Problem(f"{path}.volumes", f"has no {mount.get('name')!r}, which a container mounts.")
