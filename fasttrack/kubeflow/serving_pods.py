"""The pods that KServe makes of InferenceServices and InferenceGraphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fasttrack.kubeflow.pod_needs import ALWAYS, Object, PodGroup, pod_need, title

# What KServe 0.20 gives when nothing is said: its ConfigMap inferenceservice-config.
_KSERVE_DEFAULT = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
_STORAGE = {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
_ROUTER = {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}


def inference_service_pods(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """The parts of an InferenceService, canaries too; a model's runtime is looked up among `known`."""
    for part in ("predictor", "transformer", "explainer"):
        if spec := each["spec"].get(part):
            yield from _served(each, part, spec, known)
    for number, canary in enumerate(each["spec"].get("canary") or []):
        for part, spec in canary.items():
            if isinstance(spec, Mapping) and ("containers" in spec or "model" in spec):
                yield from _served(each, f"canary {number + 1} {part}", spec, known)


def _served(each: Object, part: str, spec: Mapping[str, Any], known: list[Object]) -> Iterator[PodGroup]:
    least = int(spec.get("minReplicas", 1))
    most = max(int(spec.get("maxReplicas") or 0), least, 1)
    yield PodGroup(title(each, part), ALWAYS, least, most, pod_need(_serving_pod(spec, known)))


def _serving_pod(spec: Mapping[str, Any], known: list[Object]) -> dict[str, Any]:
    """The pod that KServe makes of a component: its own containers, a model's runtime, and what fetches the model."""
    containers = [dict(container) for container in spec.get("containers") or []]
    model = spec.get("model")
    if model:
        runtime = next(
            (
                o
                for o in known
                if o["kind"].endswith("ServingRuntime") and o["metadata"]["name"] == model.get("runtime")
            ),
            {},
        )
        base = [dict(c) for c in runtime.get("spec", {}).get("containers", [])] or [{"name": "kserve-container"}]
        main = next((c for c in base if c.get("name") == "kserve-container"), base[0])
        main.update({key: model[key] for key in ("image", "resources") if model.get(key)})
        containers = [*base, *containers]
    for container in containers:
        container.setdefault("resources", _KSERVE_DEFAULT)
    asks = [
        (model or {}).get("storageUri"),
        *(e.get("value") for c in containers for e in c.get("env") or () if e.get("name") == "STORAGE_URI"),
    ]
    fetched = any(uri and not uri.startswith(("pvc://", "oci://")) for uri in asks)
    early = [*(spec.get("initContainers") or ()), *([{"resources": _STORAGE}] if fetched else ())]
    return {
        **{key: spec[key] for key in ("nodeSelector", "tolerations") if key in spec},
        "containers": containers,
        "initContainers": early,
    }


def graph_pods(each: Object, known: list[Object]) -> Iterator[PodGroup]:
    """The router of an InferenceGraph."""
    spec = each["spec"]
    least = int(spec.get("minReplicas", 1))
    need = pod_need({"containers": [{"resources": spec.get("resources") or _ROUTER}]})
    yield PodGroup(title(each, "router"), ALWAYS, least, max(least, int(spec.get("maxReplicas") or 1)), need)
