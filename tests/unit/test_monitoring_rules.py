"""Alert rules and dashboards: every expression is PromQL, asks for metrics that are served, and means one use case."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from api_gateway.observability import Metrics as GatewayMetrics
from fasttrack.ingest.broker import Offsets
from fasttrack.ingest.crew import Progress
from fasttrack.ingest.metrics import DrainMetrics
from fasttrack.ingest.sources.metrics import Metrics as SourceMetrics
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.ingest_pods import monitor
from fasttrack.kubeflow.launchers.launch import launch_name
from fasttrack.kubeflow.monitoring import USECASE_TARGET, alerts
from fasttrack.kubeflow.trainjob import NAME_LIMIT, NODE
from fasttrack.settings import Settings
from fasttrack.steps.frame import Step
from fasttrack.usecase import UseCase, load

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "manifests/kustomize/components/observability"
FLIGHTS = load(ROOT / "examples/flights/usecase.yaml")
UGLY = load(ROOT / "tests/golden/ugly.yaml")
#: What Prometheus itself adds to whatever it scrapes by a monitor.
TARGET = {"namespace", "pod", "container", "job", "instance", USECASE_TARGET}
Object = dict[str, Any]


def named(name: str) -> UseCase:
    return FLIGHTS.model_copy(update={"name": name})


def rules(usecase: UseCase) -> list[Object]:
    found: list[Object] = alerts(usecase, namespace="ml", drained=True, sources=True)["spec"]["groups"][0]["rules"]
    return found


def expressions() -> list[str]:
    """All of them; Grafana's variables as durations."""
    compiled = [rule["expr"] for case in (FLIGHTS, UGLY) for rule in rules(case)]
    shared = yaml.safe_load((OBSERVABILITY / "rules.yaml").read_text())["spec"]["groups"]
    board = json.loads((OBSERVABILITY / "dashboards/gateway.json").read_text())
    drawn = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert compiled
    assert drawn
    found = [*compiled, *(rule["expr"] for group in shared for rule in group["rules"]), *drawn]
    return [each.replace("$__rate_interval", "5m").replace("$__range", "1h") for each in found]


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every series that an expression asks for; an expression that is none raises ValueError."""
    found: list[promql_parser.VectorSelector] = []

    def visit(each: promql_parser.Expr) -> bool:
        if isinstance(each, promql_parser.VectorSelector):
            found.append(each)
        if isinstance(each, promql_parser.MatrixSelector):
            found.append(each.vector_selector)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def asked(usecase: UseCase, alert: str) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Of an alert's series: the metric, labels that must be so, and labels that must fit."""
    (rule,) = (rule for rule in rules(usecase) if rule["alert"] == alert)
    for each in selectors(rule["expr"]):
        kinds: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for matcher in each.matchers.matchers:
            kinds[matcher.op == promql_parser.MatchOp.Re][matcher.name] = matcher.value
        yield each.name or "", *kinds


@cache
def served() -> dict[str, set[str]]:
    """By metric, the labels with which gateway, drain and ingesters serve it."""

    def of(registry: CollectorRegistry) -> Iterator[Any]:
        yield from (sample for family in registry.collect() for sample in family.samples)

    gateway = GatewayMetrics()
    gateway.answered("/v1", "GET", 200, 0.1, "it")
    gateway.upstream.labels("predictor", "ok").inc()
    gateway.upstream_seconds.labels("predictor").observe(0.1)
    gateway.cache.labels("it", "hit").inc()
    gateway.limited.labels("it").inc()
    gateway.audit_rows.labels("spooled").inc()
    drain = DrainMetrics(["s"], lambda: {("s", 0): Offsets(0, 5)})
    drain.observe(Progress("s", 0, mark=0, position=0, events=0, landed=0, duplicates=0, dead=0, files=0, bytes=0))
    drain.look(0)
    source = SourceMetrics("it", "127.0.0.1", 0)
    try:
        source.count("s", "sent", 1)
        source.failed("s")
        source.lag("s", 1)
        source.succeeded("s")
        with urllib.request.urlopen(f"http://127.0.0.1:{source.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    finally:
        source.close()
    read = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in [*of(gateway.registry), *of(drain.registry), *read]}


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_is_promql_of_metrics_that_are_served(expression: str) -> None:
    for each in selectors(expression):
        name = each.name or ""
        if name.startswith("fasttrack_"):
            labels = {matcher.name for matcher in each.matchers.matchers}
            assert name in served()
            assert labels <= served()[name] | TARGET


def test_what_is_not_promql_is_found() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        selectors("sum(rate(x[5m]) by)")


@pytest.mark.parametrize("usecase", [FLIGHTS, UGLY], ids=lambda case: case.name)
def test_an_alert_of_ours_is_about_one_use_case(usecase: UseCase) -> None:
    for rule in rules(usecase):
        for name, exact, _ in asked(usecase, rule["alert"]):
            if name.startswith("fasttrack_"):
                assert exact.get("usecase", exact.get(USECASE_TARGET)) == usecase.name, rule["alert"]
        assert rule["labels"]["usecase"] == usecase.name


def fits(usecase: UseCase, alert: str, label: str, value: str) -> bool:
    return all(re.fullmatch(patterns[label], value) for _, _, patterns in asked(usecase, alert))


def job(usecase: UseCase, round: int) -> str:
    """As the launchers name a TrainJob, and the Trainer its Job."""
    at = Step(f"train-{round}", usecase, Settings(), "run-1", {}, ROOT)
    return f"{launch_name(at, f'train-{round}', NAME_LIMIT)}-{NODE}-0"


WORDS = st.sampled_from(["predictor", "explainer", "train", "train-1", "node", "a", "b1", "0123abcd"])


@given(more=st.lists(WORDS, min_size=1, max_size=3), round=st.integers(1, 3))
def test_alerts_of_a_use_case_miss_those_whose_names_begin_with_its_own(more: list[str], round: int) -> None:
    case, other = named("flights"), named("-".join(["flights", *more])[:42].rstrip("-"))
    assert fits(case, "FastTrackRunFailed", "job_name", job(case, round))
    assert not fits(case, "FastTrackRunFailed", "job_name", job(other, round))
    assert not fits(other, "FastTrackRunFailed", "job_name", job(case, round))
    for part in ("predictor", "explainer"):
        assert fits(case, "FastTrackServerRestarts", "pod", f"{case.name}-{part}-6d5f8b7c9d-x2x4z")
        assert not fits(case, "FastTrackServerRestarts", "pod", f"{other.name}-{part}-6d5f8b7c9d-x2x4z")
    assert all(exact["deployment"] == "flights-predictor" for _, exact, _ in asked(case, "FastTrackServerAway"))


def test_a_long_name_is_cut_as_the_launchers_cut_it() -> None:
    assert fits(UGLY, "FastTrackRunFailed", "job_name", job(UGLY, 1))
    assert not fits(UGLY, "FastTrackRunFailed", "job_name", job(named(UGLY.name[:-1] + "y"), 1))


def test_what_is_not_there_is_not_asked_for() -> None:
    few = alerts(FLIGHTS, namespace="ml")["spec"]["groups"][0]["rules"]
    missing = {rule["alert"] for rule in rules(FLIGHTS)} - {rule["alert"] for rule in few}
    assert missing == {
        *("FastTrackDrainLag", "FastTrackDrainAway"),
        *("FastTrackSourceErrors", "FastTrackSourceLag", "FastTrackSourceSilent"),
    }


def test_the_drains_monitor_copies_the_label_that_its_alerts_ask_for() -> None:
    copied = monitor(FLIGHTS, "it", "ml", "drain")["spec"]["podTargetLabels"]
    assert [re.sub(r"\W", "_", each) for each in copied] == [USECASE_TARGET]
    assert pods.USECASE_LABEL in copied
