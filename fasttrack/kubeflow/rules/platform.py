"""What Strimzi's operators, the Prometheus operator, KFP and Gateway API refuse beyond their schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fasttrack.kubeflow.rules.core import Object, dig, name_problem
from fasttrack.kubeflow.schemas.structural import Problem

_CLUSTER = "strimzi.io/cluster"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
# A user of type tls is the common name of a certificate.
_USER_LIMIT = 63
_DURATION = re.compile(r"(\d+(ms|s|m|h|d|w|y))+|0")


def topic_problems(document: Object) -> Iterator[Problem]:
    """Problems of a KafkaTopic."""
    yield from cluster_problems(document)
    topic = str(dig(document, "spec", "topicName") or dig(document, "metadata", "name"))
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        yield Problem("spec.topicName", f"{topic!r} can't be a topic: letters, digits, '.', '_', '-', at most 249.")
    for name in ("partitions", "replicas"):
        if dig(document, "spec", name) is None:
            yield Problem(f"spec.{name}", "is required, or the broker's default decides.")
    least = dig(document, "spec", "config", "min.insync.replicas")
    copies = dig(document, "spec", "replicas")
    if isinstance(least, int) and isinstance(copies, int) and least > copies:
        yield Problem("spec.config", f"min.insync.replicas {least} is above replicas {copies}: nothing can be written.")


def user_problems(document: Object) -> Iterator[Problem]:
    """Problems of a KafkaUser."""
    yield from cluster_problems(document)
    yield from name_problem(document, _USER_LIMIT, "as it is the name in a certificate")
    for position, acl in enumerate(dig(document, "spec", "authorization", "acls") or ()):
        resource = dig(acl, "resource") or {}
        if resource.get("type") != "cluster" and not resource.get("name"):
            yield Problem(f"spec.authorization.acls[{position}]", "the resource has no name.")


def prometheus_rule_problems(document: Object) -> Iterator[Problem]:
    """Problems of a PrometheusRule: its webhook parses the expressions; here brackets have to match."""
    for group, found in enumerate(dig(document, "spec", "groups") or ()):
        for position, rule in enumerate(found.get("rules") or ()):
            path = f"spec.groups[{group}].rules[{position}]"
            if bool(rule.get("alert")) == bool(rule.get("record")):
                yield Problem(path, "needs one of alert and record.")
            if not _balanced(str(rule.get("expr") or "")):
                yield Problem(f"{path}.expr", f"{rule.get('expr')!r} is not an expression.")
            if "for" in rule and not _DURATION.fullmatch(str(rule["for"])):
                yield Problem(f"{path}.for", f"{rule['for']!r} is not a duration.")


def monitor_problems(document: Object) -> Iterator[Problem]:
    """Problems of a ServiceMonitor or PodMonitor."""
    spec = document.get("spec") or {}
    endpoints = spec.get("endpoints") or spec.get("podMetricsEndpoints") or ()
    for position, endpoint in enumerate(endpoints):
        ports = [word for word in ("port", "targetPort", "portNumber") if word in endpoint]
        if len(ports) != 1:
            yield Problem(f"spec endpoint {position}", "needs one port.")


def pipeline_version_problems(document: Object) -> Iterator[Problem]:
    """Problems of a PipelineVersion: KFP's webhook wants its pipeline's name before the version's."""
    pipeline = dig(document, "spec", "pipelineName")
    if not pipeline:
        yield Problem("spec.pipelineName", "is required.")
    if not dig(document, "spec", "pipelineSpec", "root"):
        yield Problem("spec.pipelineSpec", "is no pipeline: root is missing.")


def cluster_problems(document: Object) -> Iterator[Problem]:
    """A problem of an object that no operator of Strimzi would look at."""
    if not dig(document, "metadata", "labels", _CLUSTER):
        yield Problem("metadata.labels", f"{_CLUSTER} is required: no operator looks at it otherwise.")


def _balanced(text: str) -> bool:
    pairs, open_ = {")": "(", "]": "[", "}": "{"}, []
    for mark in re.sub(r'"(?:\\.|[^"\\])*"', "", text):
        if mark in pairs.values():
            open_.append(mark)
        elif mark in pairs and (not open_ or open_.pop() != pairs[mark]):
            return False
    return bool(text.strip()) and not open_
