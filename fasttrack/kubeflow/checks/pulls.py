"""Images: whether a node can pull one is known only when it tries; told is what nodes and registries know before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fasttrack.errors import AuthorizationError, ConfigurationError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.checks.registry import held
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import POD, Kind

NODE = Kind("v1", "Node")

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::\d+)?)"
_REFERENCE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[\w][\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?")
_FAILING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_BUILD = "Build and push it (make images; images/README.md), or compile with the --registry that holds it."


def check_images(cluster: Cluster, images: Iterable[str], namespace: str) -> Iterator[Finding]:
    """For each image: it can't be a name, fails to be pulled, is nowhere, or is there; one note for what is unknown."""
    failing = _failing(cluster, namespace)
    nodes = _on_nodes(cluster)
    unknown: dict[str, list[str]] = {}
    for image in sorted(set(images)):
        if found := bad_reference(image):
            yield found
        elif image in failing:
            detail = f"can't be pulled right now: {failing[image]}"
            yield Finding(f"image {image}", "mend", detail, _BUILD, NotFoundError)
        elif having := [node for node, names in nodes or () if {image, full_name(image)} & names]:
            yield Finding(f"image {image}", "ok", f"on {len(having)} of {len(nodes or ())} nodes")
        else:
            unknown.setdefault(_host(image), []).append(image)
    told = held(full_name(image) for names in unknown.values() for image in names)
    for host, names in unknown.items():
        yield from _of_registry(host, names, told)
        names = [name for name in names if full_name(name) not in told]
        if not names:
            continue
        seen = "which images the nodes have could not be checked" if nodes is None else f"on none of {len(nodes)} nodes"
        detail = f"{seen}, so {host} will be asked for {', '.join(names)}; it is known only when a pod starts"
        yield Finding("images", "note", detail, _BUILD)


def _of_registry(host: str, images: list[str], told: dict[str, bool]) -> Iterator[Finding]:
    """What the registry says of images that no node has."""
    for image in images:
        if told.get(full_name(image)) is False:
            yield Finding(f"image {image}", "mend", f"{host} has no such image", _BUILD, NotFoundError)
    if having := [image for image in images if told.get(full_name(image))]:
        yield Finding("images", "ok", f"{host} has {', '.join(having)}")


def bad_reference(image: str) -> Finding | None:
    """A finding if `image` can't be the name of an image."""
    if _REFERENCE.fullmatch(image) and len(image) <= 255:
        return None
    fix = "Give --registry as HOST[:PORT]/PATH in lower case, without https:// and without a tag."
    return Finding(f"image {image}", "mend", f"{image!r} can't be the name of an image", fix, ConfigurationError)


def _host(image: str) -> str:
    host = full_name(image).partition("/")[0]
    return host if has_registry(image) else f"{host} (no registry is named)"


def has_registry(image: str) -> bool:
    """Whether the first part of `image` is a host."""
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def full_name(image: str) -> str:
    """`image` as nodes call it: with the host that is asked where none is named."""
    if has_registry(image):
        return image
    return f"docker.io/{image}" if "/" in image else f"docker.io/library/{image}"


def _on_nodes(cluster: Cluster) -> list[tuple[str, set[str]]] | None:
    """Nodes with the images that they tell (a kubelet tells the largest); None if it isn't permitted to look."""
    try:
        nodes = cluster.list(NODE)
    except AuthorizationError:
        return None
    found = []
    for node in nodes:
        told = node.get("status", {}).get("images") or []
        names = {name for image in told for name in image.get("names") or []}
        found.append((node["metadata"]["name"], names))
    return found


def _failing(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Images that pods of the namespace wait for in vain, with the reason."""
    try:
        pods = cluster.list(POD, namespace)
    except (AuthorizationError, NotFoundError):
        return {}
    found: dict[str, str] = {}
    for pod in pods:
        status = pod.get("status", {})
        for state in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            waiting = state.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in _FAILING:
                image = _asked(pod, state["name"]) or state["image"]
                words = waiting.get("message") or waiting["reason"]
                found[image] = f"{words} (pod {pod['metadata']['name']})"
    return found


def _asked(pod: Mapping[str, Any], container: str) -> str:
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    return next((str(each.get("image", "")) for each in containers if each["name"] == container), "")
