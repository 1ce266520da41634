"""What Prometheus scrapes, and when somebody is told: from the service level that the use case promises."""

from __future__ import annotations

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

API = "monitoring.coreos.com/v1"


def monitors(usecase: UseCase, *, namespace: str) -> list[Object]:
    """ServiceMonitors of the use case's servers, and a PodMonitor of the predictors that share their pods.

    The gateway's own comes with the gateway (manifests/kustomize): it serves all use cases.
    """
    service = {"serving.kserve.io/inferenceservice": usecase.name}
    endpoint = {"path": "/metrics", "interval": "15s", "scrapeTimeout": "10s"}
    found = []
    for component in ("predictor", "explainer"):
        selector = {"matchLabels": {**service, "component": component}}
        spec = {"selector": selector, "endpoints": [{**endpoint, "port": "http1"}]}
        found.append(_object("ServiceMonitor", usecase, f"{usecase.name}-{component}", namespace, spec))
    inside = {"selector": {"matchLabels": {**service, "component": "predictor"}}}
    spec = {**inside, "podMetricsEndpoints": [{**endpoint, "port": "model"}]}
    return [*found, _object("PodMonitor", usecase, f"{usecase.name}-model", namespace, spec)]


def alerts(usecase: UseCase, *, namespace: str) -> Object:
    """The PrometheusRule of a use case: slow or failing answers, servers away, data that does not arrive."""
    name = usecase.name
    level = usecase.serving.service_level
    label = {"severity": "page", "usecase": name}
    hint = {**label, "severity": "ticket"}
    allowed = 1 - level.availability
    seconds = level.latency_p99.total_seconds()
    pods_of = f'namespace="{namespace}",pod=~"{name}-(predictor|explainer)-.*"'
    predict = f'container="transformer-container",model_name="{name}",namespace="{namespace}"'
    rules = [
        _rule(
            "FastTrackErrors",
            # Fourteen times the budget for an hour uses up two per cent of a month's: the usual threshold for a page.
            f'sum(rate(fasttrack_gateway_requests_total{{status=~"5.."}}[1h])) '
            f"/ sum(rate(fasttrack_gateway_requests_total[1h])) > {_number(14.4 * allowed)}",
            "5m",
            label,
            f"{name}: the gateway fails more answers than {level.availability:.4g} availability allows.",
        ),
        _rule(
            "FastTrackSlow",
            f"histogram_quantile(0.99, sum by (le) (rate(request_predict_seconds_bucket{{{predict}}}[5m]))) "
            f"> {_number(seconds)}",
            "10m",
            label,
            f"{name}: one prediction in a hundred takes longer than the {seconds:g} s that were promised.",
        ),
        _rule(
            "FastTrackServerAway",
            f'sum(kube_pod_status_ready{{{pods_of},condition="true"}}) < 1 '
            f'or absent(kube_pod_status_ready{{{pods_of},condition="true"}})',
            "2m",
            label,
            f"{name}: no model server is ready.",
        ),
        _rule(
            "FastTrackServerRestarts",
            f"sum(increase(kube_pod_container_status_restarts_total{{{pods_of}}}[30m])) > 3",
            "5m",
            hint,
            f"{name}: a model server starts again and again.",
        ),
        _rule(
            "FastTrackRunFailed",
            f'sum(kube_job_status_failed{{namespace="{namespace}",job_name=~"{name}-.*"}}) > 0',
            "5m",
            hint,
            f"{name}: a job of training or tuning failed.",
        ),
        _rule(
            "FastTrackDrainLag",
            f'sum(kafka_consumergroup_lag{{consumergroup="fasttrack.{name}.drain"}}) > 100000',
            "1h",
            hint,
            f"{name}: events wait longer than an hour for the drain.",
        ),
    ]
    spec = {"groups": [{"name": f"fasttrack.{name}", "rules": rules}]}
    return _object("PrometheusRule", usecase, f"{name}-alerts", namespace, spec)


def _object(kind: str, usecase: UseCase, name: str, namespace: str, spec: Object) -> Object:
    metadata = pods.metadata(object_name(name), namespace, "monitoring", usecase)
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


def _rule(alert: str, expression: str, during: str, labels: dict[str, str], summary: str) -> Object:
    return {
        "alert": alert,
        "expr": expression,
        "for": during,
        "labels": dict(labels),
        "annotations": {"summary": summary},
    }


def _number(value: float) -> str:
    return f"{value:.6g}"
