"""KServe 0.20's webhooks (pkg/apis/serving/v1beta1, v1alpha1, pkg/webhook/admission/servingruntime), Standard mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fasttrack.kubeflow.names import is_dns_1035
from fasttrack.kubeflow.rules.core import Object, dig, name_problem
from fasttrack.kubeflow.schemas.structural import Problem

#: Keys of a predictor that hold a model server of their own.
_FRAMEWORKS = (
    "model",
    "sklearn",
    "xgboost",
    "lightgbm",
    "pytorch",
    "tensorflow",
    "triton",
    "onnx",
    "pmml",
    "paddle",
    "huggingface",
)
_SERVER = "kserve-container"
_COLLOCATED = "transformer-container"
_MODE = "serving.kserve.io/deploymentMode"
_AUTOSCALER = "serving.kserve.io/autoscalerClass"
_AUTOSCALERS = (None, "hpa", "keda", "external", "none")
_BLOCKED = "PYTHONPATH"
_LABEL = 63
#: What KServe puts behind the name for a Service.
_SUFFIXES = {"predictor": "-predictor", "transformer": "-transformer", "explainer": "-explainer"}


def service_problems(document: Object) -> Iterator[Problem]:
    """Problems of an InferenceService."""
    spec = document.get("spec") or {}
    annotations = dig(document, "metadata", "annotations") or {}
    yield from _names(document, spec)
    autoscaler = annotations.get(_AUTOSCALER)
    if autoscaler not in _AUTOSCALERS:
        yield Problem(
            f"metadata.annotations[{_AUTOSCALER}]", f"{autoscaler!r} is not one of hpa, keda, external, none."
        )
    for part in _SUFFIXES:
        if isinstance(found := spec.get(part), dict):
            yield from _component(found, part, f"spec.{part}", autoscaler)
    if "predictor" not in spec:
        yield Problem("spec.predictor", "is required.")
    if spec.get("canary"):
        yield from _canaries(spec, annotations)
    if any("canaryTrafficPercent" in (spec.get(part) or {}) for part in _SUFFIXES):
        yield Problem("spec", "canaryTrafficPercent does nothing in Standard mode; use spec.canary.")


def runtime_problems(document: Object) -> Iterator[Problem]:
    """Problems of a ServingRuntime."""
    spec = document.get("spec") or {}
    containers = spec.get("containers") or []
    if _SERVER not in [dig(container, "name") for container in containers]:
        yield Problem("spec.containers", f"has no container called {_SERVER}.")
    priorities: dict[str, Any] = {}
    for position, found in enumerate(spec.get("supportedModelFormats") or ()):
        if dig(found, "autoSelect") and priorities.setdefault(found.get("name"), found.get("priority")) != found.get(
            "priority"
        ):
            yield Problem(f"spec.supportedModelFormats[{position}]", "the format has another priority too.")
    yield from _blocked(containers, "spec.containers")


def graph_problems(document: Object) -> Iterator[Problem]:
    """Problems of an InferenceGraph."""
    yield from name_problem(document, _LABEL, "as a Service gets it")
    nodes = dig(document, "spec", "nodes") or {}
    if "root" not in nodes:
        yield Problem("spec.nodes", "has no node called root.")
    for name, node in nodes.items():
        yield from _node(node, nodes, f"spec.nodes.{name}")


def _node(node: Object, nodes: Object, path: str) -> Iterator[Problem]:
    steps = node.get("steps") or []
    names = [step["name"] for step in steps if step.get("name")]
    if len(set(names)) < len(names):
        yield Problem(f"{path}.steps", "two steps have the same name.")
    for position, step in enumerate(steps):
        targets = [step[word] for word in ("nodeName", "serviceName", "serviceUrl") if step.get(word)]
        if len(targets) != 1:
            yield Problem(f"{path}.steps[{position}]", "needs one of nodeName, serviceName and serviceUrl.")
        if step.get("nodeName") and step["nodeName"] not in nodes:
            yield Problem(f"{path}.steps[{position}].nodeName", f"there is no node {step['nodeName']!r}.")
    if node.get("routerType") == "Splitter":
        weights = [step.get("weight") for step in steps]
        if None in weights or sum(weight or 0 for weight in weights) != 100:
            yield Problem(f"{path}.steps", "the weights of a splitter's steps have to add up to 100.")


def _names(document: Object, spec: Object) -> Iterator[Problem]:
    name, namespace = (str(dig(document, "metadata", key)) for key in ("name", "namespace"))
    present = [suffix for part, suffix in _SUFFIXES.items() if part in spec] or ["-predictor"]
    limit = _LABEL - max(map(len, present))
    yield from name_problem(document, limit, "as KServe puts more behind it for Services")
    if is_dns_1035(name) and len(f"{name}-{namespace}") > _LABEL:
        yield Problem(
            "metadata", f"{name}-{namespace} is the host's first label, with {_LABEL} characters at most. Shorten one."
        )


def _component(found: Object, part: str, path: str, autoscaler: str | None) -> Iterator[Problem]:
    least, most = found.get("minReplicas", 1), found.get("maxReplicas", 0)
    if isinstance(least, int) and isinstance(most, int):
        if least < 0 or most < 0:
            yield Problem(path, "minReplicas and maxReplicas can't be below 0.")
        elif 0 < most < least:
            yield Problem(path, f"minReplicas {least} is above maxReplicas {most}.")
        elif autoscaler == "hpa" and least == 0:
            yield Problem(f"{path}.minReplicas", "0 is not for hpa, which can't wake what isn't there.")
    yield from _implementations(found, part, path)
    yield from _blocked(found.get("containers") or (), f"{path}.containers")
    yield from _scaling(found, path, autoscaler)


def _implementations(found: Object, part: str, path: str) -> Iterator[Problem]:
    """Exactly one server; a transformer may share the predictor's pod."""
    containers = [dig(container, "name") for container in found.get("containers") or ()]
    servers = [name for name in _FRAMEWORKS if name in found] if part == "predictor" else []
    if _SERVER in containers or (containers and not servers):
        servers = [*servers, _SERVER]
    if len(servers) != 1:
        there = ", ".join(servers) or "none"
        yield Problem(path, f"needs exactly one server; there is: {there}.")
    model = found.get("model") or {}
    if model.get("name") and path == "spec.predictor":
        yield Problem(f"{path}.model.name", "is not allowed.")
    if model and not model.get("storageUri") and not model.get("storage"):
        yield Problem(f"{path}.model.storageUri", "is required: without a model there is nothing to serve.")
    for container in found.get("containers") or ():
        if container.get("name") == _COLLOCATED and "STORAGE_URI" in _variables(container):
            yield Problem(
                f"{path}.containers", f"{_COLLOCATED} can't have STORAGE_URI: the model's is mounted there too."
            )


def _blocked(containers: Any, path: str) -> Iterator[Problem]:
    for position, container in enumerate(containers):
        if _BLOCKED in _variables(container):
            yield Problem(f"{path}[{position}].env", f"{_BLOCKED} is refused for security.")


def _variables(container: Object) -> list[Any]:
    return [dig(variable, "name") for variable in container.get("env") or ()]


def _scaling(found: Object, path: str, autoscaler: str | None) -> Iterator[Problem]:
    metric, target = found.get("scaleMetric"), found.get("scaleTarget")
    metrics = dig(found, "autoScaling", "metrics") or ()
    if autoscaler == "keda":
        if metric is not None:
            yield Problem(f"{path}.scaleMetric", "is not for keda; use autoScaling.")
        for position, one in enumerate(metrics):
            yield from _keda(one, f"{path}.autoScaling.metrics[{position}]")
        return
    if autoscaler not in (None, "hpa"):
        return
    if metric not in (None, "cpu", "memory"):
        yield Problem(f"{path}.scaleMetric", f"{metric!r} is not for hpa: cpu or memory.")
    if target is not None and (target > 100 or target < 1):
        yield Problem(f"{path}.scaleTarget", f"{target} is not a percentage.")
    if any(dig(one, "type") != "Resource" or not dig(one, "resource") for one in metrics):
        yield Problem(f"{path}.autoScaling", "hpa takes metrics of type Resource only.")


def _keda(metric: Object, path: str) -> Iterator[Problem]:
    kind = dig(metric, "type")
    if kind == "Resource":
        name, target = dig(metric, "resource", "name"), dig(metric, "resource", "target") or {}
        if name == "cpu" and target.get("type") != "Utilization":
            yield Problem(path, "the target of cpu has to be of type Utilization.")
        if target.get("type") == "Utilization" and not 1 <= target.get("averageUtilization", 0) <= 100:
            yield Problem(path, "averageUtilization is a percentage.")
        return
    word = {"External": "external", "PodMetric": "podmetric"}.get(str(kind))
    if word is None:
        yield Problem(path, f"{kind!r} is not one of Resource, External, PodMetric.")
    elif not dig(metric, word, "metric", "query") or dig(metric, word, "target", "value") is None:
        yield Problem(path, "a query and a target's value are required.")


def _canaries(spec: Object, annotations: Object) -> Iterator[Problem]:
    if annotations.get(_MODE) != "Standard":
        yield Problem("spec.canary", f"needs the annotation {_MODE}: Standard.")
    stable = spec.get("predictor") or {}
    if "model" not in stable:
        yield Problem("spec.canary", "needs a predictor with a model.")
    names = [stable.get("name")]
    for position, canary in enumerate(spec["canary"]):
        predictor, path = dig(canary, "predictor") or {}, f"spec.canary[{position}].predictor"
        if not predictor.get("name") or predictor["name"] in names:
            yield Problem(f"{path}.name", f"{predictor.get('name')!r} is not a name of its own.")
        names.append(predictor.get("name"))
        yield from _implementations(predictor, "predictor", path)
        for word in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec"):
            if predictor.get(word):
                yield Problem(f"{path}.{word}", "is not for a canary, which has a fixed number of pods.")
        if predictor.get("minReplicas", 0) > stable.get("minReplicas", 1):
            yield Problem(f"{path}.minReplicas", "is above the stable predictor's.")
    if sum(dig(canary, "trafficPercent") or 0 for canary in spec["canary"]) > 100:
        yield Problem("spec.canary", "the shares of traffic add up to more than 100.")
