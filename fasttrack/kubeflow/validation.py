"""Every object is checked before anything is written or applied, without a cluster.

Against the CRDs' schemas and their rules, against what webhooks and controllers want beyond them, against Pod Security
`restricted`, and with Kubeflow's own API models, which know fields that a schema-less CRD doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.rules import core, katib, kserve, models, platform, pod_security, spark, trainer, workload
from fasttrack.kubeflow.schemas import schema
from fasttrack.kubeflow.schemas.katib import EXPERIMENT
from fasttrack.kubeflow.schemas.structural import Problem, object_problems

Object = dict[str, Any]
Rule = Callable[[Object], Iterator[Problem]]

_SHOWN = 5
# Kubernetes' own kinds have no CRD; our rules say what they may look like.
_BUILT_IN = {("v1", "ConfigMap"), ("apps/v1", "Deployment")}
_EXPERIMENT = ("kubeflow.org/v1beta1", "Experiment")

_RULES: dict[str, Rule] = {
    "ConfigMap": core.config_map_problems,
    "Experiment": katib.experiment_problems,
    "TrainingRuntime": trainer.runtime_problems,
    "SparkApplication": spark.application_problems,
    "ScheduledSparkApplication": spark.scheduled_problems,
    "InferenceService": kserve.service_problems,
    "ServingRuntime": kserve.runtime_problems,
    "InferenceGraph": kserve.graph_problems,
    "KafkaTopic": platform.topic_problems,
    "KafkaUser": platform.user_problems,
    "PrometheusRule": platform.prometheus_rule_problems,
    "ServiceMonitor": platform.monitor_problems,
    "PodMonitor": platform.monitor_problems,
    "PipelineVersion": platform.pipeline_version_problems,
    "KafkaConnector": workload.connector_problems,
    "Deployment": workload.deployment_problems,
}


def check(objects: Sequence[Object], *, restricted: Iterable[str] | None = None) -> None:
    """Refuse objects that a cluster would refuse, or take and then not run.

    Args:
        objects: whole objects; they may refer to each other.
        restricted: the namespaces that enforce Pod Security `restricted`; by default all.

    Raises:
        ConfigurationError: names the first wrong object, where in it, and why; further ones are counted.
    """
    spaces = None if restricted is None else set(restricted)
    for document in objects:
        found = list(problems(document, objects, restricted=spaces is None or _namespace(document) in spaces))
        if found:
            raise _error(document, found)
    _no_twins(objects)


def problems(document: Object, beside: Sequence[Object] = (), *, restricted: bool = True) -> Iterator[Problem]:
    """Everything that is wrong with one object.

    Args:
        document: the object.
        beside: objects that will stand beside it.
        restricted: its namespace enforces Pod Security `restricted`.
    """
    kind, api = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(api, str):
        yield Problem("kind", "apiVersion and kind are required.")
        return
    yield from core.metadata_problems(document)
    if (api, kind) not in _BUILT_IN:
        known = EXPERIMENT if (api, kind) == _EXPERIMENT else schema(api, kind)
        if known is None:
            yield Problem("apiVersion", f"{api} {kind} is not a kind that FastTrack knows.")
            return
        malformed = list(object_problems(document, known))
        trial = core.dig(document, "spec", "trialTemplate", "trialSpec")
        if (api, kind) == _EXPERIMENT and not malformed and isinstance(trial, dict):
            malformed = list(_trial(trial))
        yield from malformed
        if malformed:
            # The rules below rely on the types of what they look at.
            return
    yield from models.problems(document)
    if kind == "TrainJob":
        yield from trainer.train_job_problems(document, _named(beside, "TrainingRuntime"))
    elif kind in _RULES:
        yield from _RULES[kind](document)
    if restricted:
        yield from pod_security.problems(document)


def _trial(trial: Object) -> Iterator[Problem]:
    """Problems of a trial's form; Katib gives it a name."""
    known = schema(str(trial.get("apiVersion")), str(trial.get("kind")))
    named = {**trial, "metadata": {"name": "trial", **(trial.get("metadata") or {})}}
    for problem in object_problems(named, known) if known else ():
        yield Problem(f"spec.trialTemplate.trialSpec.{problem.path}", problem.reason)


def _error(document: Object, found: list[Problem]) -> ConfigurationError:
    name = core.dig(document, "metadata", "name")
    told = "; ".join(f"{problem.path}: {problem.reason.rstrip('.')}" for problem in found[:_SHOWN])
    more = f" ({len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
    return ConfigurationError(
        f"a cluster would refuse it: {told}{more}.",
        where=f"{document.get('kind')} {name}",
        fix="Change the use case or the options that it was compiled with.",
    )


def _no_twins(objects: Sequence[Object]) -> None:
    seen: set[tuple[Any, ...]] = set()
    for document in objects:
        key = (
            document["apiVersion"].rpartition("/")[0],
            document["kind"],
            _namespace(document),
            document["metadata"]["name"],
        )
        if key in seen:
            raise ConfigurationError(
                "there are two objects of this name; one would overwrite the other.",
                where=f"{key[1]} {key[3]}",
                fix="Rename the use case or the stream.",
            )
        seen.add(key)


def _namespace(document: Object) -> Any:
    return core.dig(document, "metadata", "namespace")


def _named(objects: Sequence[Object], kind: str) -> list[str]:
    return [str(core.dig(document, "metadata", "name")) for document in objects if document.get("kind") == kind]
