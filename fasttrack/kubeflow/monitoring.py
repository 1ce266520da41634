"""What Prometheus scrapes, and when somebody is told: from the service level that the use case promises."""

from __future__ import annotations

from collections.abc import Iterator

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import launch_prefix, object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.kubeflow.trainjob import NAME_LIMIT as TRAIN_LIMIT
from fasttrack.kubeflow.trainjob import NODE
from fasttrack.usecase import UseCase

API = "monitoring.coreos.com/v1"
#: What Prometheus calls the label of a pod that names its use case, where a PodMonitor has it copied.
USECASE_TARGET = "fasttrack_ai_usecase"
_WAITING = 100_000


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


def alerts(usecase: UseCase, *, namespace: str, drained: bool = False, sources: bool = False) -> Object:
    """The PrometheusRule of a use case: slow or failing answers, servers away, data that does not arrive.

    Args:
        usecase: the use case.
        namespace: its namespace.
        drained: a drain runs all the time; that of a run serves no metrics.
        sources: its sources are read here, too.
    """
    rules = [*_answers(usecase, namespace), *_servers(usecase, namespace), _runs(usecase, namespace)]
    rules += _drain(usecase, namespace) if drained else []
    rules += _sources(usecase, namespace) if sources else []
    spec = {"groups": [{"name": f"fasttrack.{usecase.name}", "rules": rules}]}
    return _object("PrometheusRule", usecase, f"{usecase.name}-alerts", namespace, spec)


def _answers(usecase: UseCase, namespace: str) -> Iterator[Object]:
    name, level = usecase.name, usecase.serving.service_level
    allowed = 1 - level.availability
    seconds = level.latency_p99.total_seconds()
    total = "fasttrack_gateway_requests_total"
    predict = f'container="transformer-container",model_name="{name}",namespace="{namespace}"'
    yield _rule(
        "FastTrackErrors",
        # Fourteen times the budget for an hour uses up two per cent of a month's: the usual threshold for a page.
        f'sum(rate({total}{{usecase="{name}",status=~"5.."}}[1h])) / sum(rate({total}{{usecase="{name}"}}[1h])) '
        f"> {_number(14.4 * allowed)}",
        "5m",
        usecase,
        f"more answers fail than {level.availability:.4g} availability allows.",
    )
    yield _rule(
        "FastTrackSlow",
        f"histogram_quantile(0.99, sum by (le) (rate(request_predict_seconds_bucket{{{predict}}}[5m]))) "
        f"> {_number(seconds)}",
        "10m",
        usecase,
        f"one prediction in a hundred takes longer than the {seconds:g} s that were promised.",
    )


def _servers(usecase: UseCase, namespace: str) -> Iterator[Object]:
    name = usecase.name
    ready = f'kube_deployment_status_replicas_available{{namespace="{namespace}",deployment="{name}-predictor"}}'
    # Two more words: with more of them it is a pod of another use case, whose name begins with this one's.
    pods_of = f'namespace="{namespace}",pod=~"{name}-(predictor|explainer)-[a-z0-9]+-[a-z0-9]+"'
    yield _rule(
        "FastTrackServerAway", f"sum({ready}) < 1 or absent({ready})", "2m", usecase, "no model server is ready."
    )
    yield _rule(
        "FastTrackServerRestarts",
        f"sum(increase(kube_pod_container_status_restarts_total{{{pods_of}}}[30m])) > 3",
        "5m",
        usecase,
        "a model server starts again and again.",
        urgent=False,
    )


def _runs(usecase: UseCase, namespace: str) -> Object:
    """The Jobs that the Trainer makes of the steps' TrainJobs; a trial that fails is the search's own affair."""
    rounds = range(1, usecase.gate.rounds + 2)
    names = "|".join(launch_prefix(usecase, f"train-{number}", TRAIN_LIMIT) for number in rounds)
    jobs = f'namespace="{namespace}",job_name=~"({names})-[0-9a-f]{{8}}-{NODE}-0"'
    expression = f"sum(kube_job_status_failed{{{jobs}}}) > 0"
    return _rule("FastTrackRunFailed", expression, "5m", usecase, "a job of training failed.", urgent=False)


def _drain(usecase: UseCase, namespace: str) -> Iterator[Object]:
    lag = f'fasttrack_drain_lag{{namespace="{namespace}",{USECASE_TARGET}="{usecase.name}"}}'
    yield _rule(
        "FastTrackDrainLag",
        # The least of half an hour: a burst that is worked off is none. NaN while the broker is silent. Of two drains
        # that both had a partition in that time the later one knows better: it had less to do.
        f"sum(min by (stream, partition) (min_over_time({lag}[30m]))) > {_WAITING}",
        "30m",
        usecase,
        f"more than {_WAITING} events have been waiting for the drain for half an hour.",
        urgent=False,
    )
    yield _rule("FastTrackDrainAway", f"absent({lag})", "15m", usecase, "the drain serves no metrics.", urgent=False)


def _sources(usecase: UseCase, namespace: str) -> Iterator[Object]:
    own = f'namespace="{namespace}",usecase="{usecase.name}"'
    yield _rule(
        "FastTrackSourceErrors",
        f"sum by (source) (increase(fasttrack_source_errors_total{{{own}}}[30m])) > 10",
        "15m",
        usecase,
        "source {{ $labels.source }} fails again and again; its log says why.",
        urgent=False,
    )
    yield _rule(
        "FastTrackSourceLag",
        f"max by (source) (min_over_time(fasttrack_source_lag{{{own}}}[30m])) > {_WAITING}",
        "30m",
        usecase,
        f"more than {_WAITING} records of source {{{{ $labels.source }}}} have been waiting for half an hour.",
        urgent=False,
    )
    yield _rule(
        "FastTrackSourceSilent",
        f"time() - max by (source) (fasttrack_source_last_success_timestamp{{{own}}}) > 3600",
        "5m",
        usecase,
        "source {{ $labels.source }} was not read to its end, nor anything of it sent, for an hour.",
        urgent=False,
    )


def _object(kind: str, usecase: UseCase, name: str, namespace: str, spec: Object) -> Object:
    metadata = pods.metadata(object_name(name), namespace, "monitoring", usecase)
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


def _rule(alert: str, expression: str, during: str, usecase: UseCase, summary: str, *, urgent: bool = True) -> Object:
    return {
        "alert": alert,
        "expr": expression,
        "for": during,
        "labels": {"severity": "page" if urgent else "ticket", "usecase": usecase.name},
        "annotations": {"summary": f"{usecase.name}: {summary}"},
    }


def _number(value: float) -> str:
    return f"{value:.6g}"
