"""Why a container of a pod that has its node doesn't start."""

from __future__ import annotations

import re

from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.cluster.trouble import Trouble

_PULL = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
_MISSING = re.compile(r'(configmap|secret) "([^"]+)" not found')
_KEY = re.compile(r"couldn't find key (\S+) in (ConfigMap|Secret) (\S+)")


def waiting(pod: Object) -> Trouble | None:
    """Why a container waits; None while nothing is wrong."""
    status = pod.get("status", {})
    for found in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = found.get("state", {}).get("waiting")
        if state:
            where = f"pod {pod['metadata']['name']}, container {found['name']}"
            trouble = _judge(found, state.get("reason", ""), state.get("message", ""), where)
            if trouble is not None:
                return trouble
    return None


def _judge(status: Object, reason: str, message: str, where: str) -> Trouble | None:
    if reason in _PULL:
        return _not_pulled(str(status.get("image", "")), message, where)
    if reason == "InvalidImageName":
        what = f"{status.get('image')!r} is no image name"
        return Trouble("image-name", what, where, "Compile again with --registry HOST/PATH.", fatal=True)
    if reason == "CreateContainerConfigError":
        return _not_configured(message, where)
    if reason == "CrashLoopBackOff":
        last = status.get("lastState", {}).get("terminated", {})
        how = "killed for want of memory" if last.get("reason") == "OOMKilled" else f"exit code {last.get('exitCode')}"
        code = "out-of-memory" if last.get("reason") == "OOMKilled" else "crash"
        fix = (
            "Raise its memory limit." if code == "out-of-memory" else "Read what it said last: kubectl logs --previous"
        )
        return Trouble(code, f"starts and ends again and again ({how})", where, fix)
    if reason in ("CreateContainerError", "RunContainerError", "StartError"):
        fix = "Look at image and command: kubectl describe pod"
        return Trouble("start", f"can't be started: {message}", where, fix)
    return None


def _not_pulled(image: str, message: str, where: str) -> Trouble:
    lower = message.lower()
    if "not found" in lower or "manifest unknown" in lower or "does not exist" in lower:
        fix = "Build and push it (make images), or compile again with the right --registry."
        return Trouble("image", f"image can't be pulled: {image} is not there", where, fix)
    if any(word in lower for word in ("unauthorized", "denied", "forbidden", "authentication required")):
        fix = "Give the service account an imagePullSecret for this registry."
        return Trouble("image", f"image can't be pulled: the registry refuses access to {image}", where, fix)
    if any(word in lower for word in ("no such host", "timeout", "connection refused", "dial tcp", "tls:", "x509")):
        fix = "Look whether the nodes reach the registry (name, network, certificate)."
        return Trouble("image", f"image can't be pulled: the registry of {image} can't be reached", where, fix)
    fix = "Build and push it (make images), or compile again with the right --registry."
    return Trouble("image", f"image can't be pulled: {image}{f' ({message})' if message else ''}", where, fix)


def _not_configured(message: str, where: str) -> Trouble:
    if missing := _MISSING.search(message):
        kind = "ConfigMap" if missing[1] == "configmap" else "Secret"
        fix = "Apply FastTrack's manifests and the compiled use case in this namespace."
        return Trouble("settings", f"the {kind} {missing[2]!r} is missing", where, fix)
    if key := _KEY.search(message):
        fix = "Add the key, as in manifests/kustomize/base."
        return Trouble("settings", f"the {key[2]} {key[3].rpartition('/')[2]!r} has no key {key[1]!r}", where, fix)
    if "runAsNonRoot" in message or "run as root" in message:
        fix = "Use FastTrack's images: they run as user 65532."
        return Trouble("security", "the image wants to run as root", where, fix, fatal=True)
    return Trouble("settings", f"can't be configured: {message}", where, "kubectl describe pod")
