"""How far the servers of a use case scale, and who scales them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

Autoscaler = Literal["hpa", "keda", "none"]

_CPU_PERCENT = 70


@dataclass(frozen=True)
class Scaling:
    """How far the pods of predictor and transformer may scale.

    Attributes:
        minimum: pods that are always there.
        maximum: pods that there may be.
        autoscaler: who scales: Kubernetes' own by CPU, KEDA by CPU and requests, or nobody.
        prometheus: where KEDA asks for the rate of requests.
        requests_per_second: a pod's fill, as KEDA sees it.
    """

    minimum: int = 2
    maximum: int = 8
    autoscaler: Autoscaler = "hpa"
    prometheus: str = "http://prometheus-operated.monitoring.svc:9090"
    requests_per_second: int = 100


def fewer(scaling: Scaling) -> Scaling:
    """Half of it, for what is asked for less often."""
    minimum, maximum = max(1, scaling.minimum // 2), max(1, scaling.maximum // 2)
    return Scaling(minimum, maximum, scaling.autoscaler, scaling.prometheus, scaling.requests_per_second)


def scaled(usecase: UseCase, namespace: str, scaling: Scaling, component: str) -> Object:
    """The fields of a component that scale it, as KServe writes them."""
    found: dict[str, Any] = {"minReplicas": scaling.minimum, "maxReplicas": scaling.maximum}
    if scaling.autoscaler == "hpa":
        found |= {"scaleMetric": "cpu", "scaleTarget": _CPU_PERCENT}
    elif scaling.autoscaler == "keda":
        found["autoScaling"] = {"metrics": [_cpu(), *_rate(usecase, namespace, scaling, component)]}
    return found


def _cpu() -> Object:
    target = {"type": "Utilization", "averageUtilization": _CPU_PERCENT}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _rate(usecase: UseCase, namespace: str, scaling: Scaling, component: str) -> list[Object]:
    if component != "predictor":
        return []
    query = (
        f'sum(rate(request_predict_seconds_count{{namespace="{namespace}",model_name="{usecase.name}",'
        'container="transformer-container"}[1m]))'
    )
    metric = {"backend": "prometheus", "serverAddress": scaling.prometheus, "query": query}
    target = {"type": "Value", "value": str(scaling.requests_per_second)}
    return [{"type": "External", "external": {"metric": metric, "target": target}}]
