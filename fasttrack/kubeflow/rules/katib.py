"""Katib 0.19's webhook (pkg/webhook/v1beta1/experiment/validator/validator.go): its CRD has no schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fasttrack.kubeflow.rules.core import Object, dig, name_problem
from fasttrack.kubeflow.rules.trainer import job_problems
from fasttrack.kubeflow.schemas.structural import Problem

#: What KatibConfig of the release knows; others need a service of their own.
ALGORITHMS = (
    "random",
    "tpe",
    "grid",
    "hyperband",
    "bayesianoptimization",
    "cmaes",
    "sobol",
    "multivariate-tpe",
    "enas",
    "darts",
    "pbt",
)
_STOPPING = ("medianstop",)
_RESUME = (None, "Never", "LongRunning", "FromVolume")
_TYPES = ("int", "double", "categorical", "discrete")
_DISTRIBUTIONS = (None, "uniform", "logUniform", "normal", "logNormal")
_COLLECTORS = ("StdOut", "File", "TensorFlowEvent", "PrometheusMetric", "Custom", "Push")
_WORD = re.compile(r"[A-Za-z0-9_.,:/+@%=-]+")
_REPLACED = re.compile(r"\$\{trialParameters\.([^}]*)\}")
# A trial's name is the experiment's with 9 more characters, its pods' with 15 more than that.
_NAME_LIMIT = 39


def experiment_problems(document: Object) -> Iterator[Problem]:
    """Problems of an Experiment."""
    spec = document.get("spec")
    if not isinstance(spec, dict):
        yield Problem("spec", "is required.")
        return
    yield from name_problem(document, _NAME_LIMIT, "as Katib and JobSet put more behind it")
    yield from _counts(spec)
    yield from _objective(spec.get("objective"))
    if (name := dig(spec, "algorithm", "algorithmName")) not in ALGORITHMS:
        yield Problem("spec.algorithm.algorithmName", f"{name!r} is not one of {', '.join(ALGORITHMS)}.")
    if spec.get("earlyStopping") and (name := dig(spec, "earlyStopping", "algorithmName")) not in _STOPPING:
        yield Problem("spec.earlyStopping.algorithmName", f"{name!r} is not one of {', '.join(_STOPPING)}.")
    if spec.get("resumePolicy") not in _RESUME:
        yield Problem("spec.resumePolicy", f"{spec['resumePolicy']!r} is not one of Never, LongRunning, FromVolume.")
    yield from _parameters(spec.get("parameters"))
    yield from _collector(spec.get("metricsCollectorSpec") or {})
    yield from _template(spec)


def _counts(spec: Object) -> Iterator[Problem]:
    most = spec.get("maxTrialCount")
    for name, least in (("maxTrialCount", 1), ("parallelTrialCount", 1), ("maxFailedTrialCount", 0)):
        count = spec.get(name)
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            yield Problem(f"spec.{name}", f"{count!r} is not a whole number of at least {least}.")
        elif isinstance(most, int) and count > most:
            yield Problem(f"spec.{name}", f"{count} is above maxTrialCount, {most}.")


def _objective(objective: Any) -> Iterator[Problem]:
    if not isinstance(objective, dict):
        yield Problem("spec.objective", "is required.")
        return
    if objective.get("type") not in ("minimize", "maximize"):
        yield Problem("spec.objective.type", f"{objective.get('type')!r} is neither minimize nor maximize.")
    metric = objective.get("objectiveMetricName")
    if not metric:
        yield Problem("spec.objective.objectiveMetricName", "is required.")
    if metric in (objective.get("additionalMetricNames") or ()):
        yield Problem("spec.objective.additionalMetricNames", "holds objectiveMetricName too.")


def _parameters(parameters: Any) -> Iterator[Problem]:
    if not isinstance(parameters, list) or not parameters:
        yield Problem("spec.parameters", "is required.")
        return
    for position, parameter in enumerate(parameters):
        path = f"spec.parameters[{position}]"
        kind, space = dig(parameter, "parameterType"), dig(parameter, "feasibleSpace")
        if kind not in _TYPES:
            yield Problem(f"{path}.parameterType", f"{kind!r} is not one of {', '.join(_TYPES)}.")
        if not isinstance(space, dict) or not space:
            yield Problem(f"{path}.feasibleSpace", "is required.")
            continue
        yield from _space(kind, space, f"{path}.feasibleSpace")
    names = [dig(parameter, "name") for parameter in parameters]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield Problem("spec.parameters", f"{name!r} is listed twice.")


def _space(kind: Any, space: Object, path: str) -> Iterator[Problem]:
    for name, value in space.items():
        if not all(isinstance(word, str) for word in (value if isinstance(value, list) else [value])):
            yield Problem(f"{path}.{name}", f"{value!r} has to be text.")
    if space.get("distribution") not in _DISTRIBUTIONS:
        yield Problem(f"{path}.distribution", f"{space['distribution']!r} is not one that Katib knows.")
    if kind in ("int", "double"):
        if space.get("list"):
            yield Problem(f"{path}.list", f"is not for a parameter of type {kind}.")
        if not space.get("min") or not space.get("max"):
            yield Problem(path, "min and max are required.")
        else:
            yield from _range(kind, str(space["min"]), str(space["max"]), path)
    elif any(space.get(word) for word in ("min", "max", "step")):
        yield Problem(path, f"min, max and step are not for a parameter of type {kind}.")
    elif not space.get("list"):
        yield Problem(f"{path}.list", "is required.")
    for word in space.get("list") or ():
        if isinstance(word, str) and not _WORD.fullmatch(word):
            # Its webhook joins a trial's command for `sh -c` without quoting (pkg/webhook/v1beta1/pod/utils.go).
            yield Problem(f"{path}.list", f"{word!r} has characters that Katib's shell would read.")


def _range(kind: str, low: str, high: str, path: str) -> Iterator[Problem]:
    try:
        wrong = float(low) > float(high) or (kind == "int" and (int(low), int(high)) is None)
    except ValueError:
        yield Problem(path, f"{low!r} to {high!r} is not a range of type {kind}.")
        return
    if wrong:
        yield Problem(path, f"min {low} is above max {high}.")


def _collector(found: Object) -> Iterator[Problem]:
    kind = dig(found, "collector", "kind") or "StdOut"
    if kind not in _COLLECTORS:
        yield Problem("spec.metricsCollectorSpec.collector.kind", f"{kind!r} is not one of {', '.join(_COLLECTORS)}.")
    if kind != "File":
        return
    source = dig(found, "source", "fileSystemPath") or {}
    path = "spec.metricsCollectorSpec.source.fileSystemPath"
    if source.get("kind") != "File" or not str(source.get("path", "")).startswith("/"):
        yield Problem(path, "kind File and an absolute path are required.")
    if source.get("format") not in ("TEXT", "JSON"):
        yield Problem(f"{path}.format", f"{source.get('format')!r} is neither TEXT nor JSON.")
    if source.get("format") == "JSON" and dig(found, "source", "filter"):
        yield Problem("spec.metricsCollectorSpec.source.filter", "is not for files of JSON.")


def _template(spec: Object) -> Iterator[Problem]:
    template = spec.get("trialTemplate")
    path = "spec.trialTemplate"
    if not isinstance(template, dict):
        yield Problem(path, "is required.")
        return
    if not template.get("primaryContainerName"):
        yield Problem(f"{path}.primaryContainerName", "is required.")
    trial = template.get("trialSpec")
    if not isinstance(trial, dict):
        yield Problem(f"{path}.trialSpec", "is required.")
        return
    if not trial.get("apiVersion") or not trial.get("kind"):
        yield Problem(f"{path}.trialSpec", "apiVersion and kind are required.")
    if dig(trial, "metadata", "name") or dig(trial, "metadata", "namespace"):
        yield Problem(f"{path}.trialSpec.metadata", "name and namespace are Katib's to give.")
    yield from _substitutions(spec, template, trial)
    if trial.get("kind") == "TrainJob":
        # Katib knows by itself when a Job is done, not when a TrainJob is.
        for name in ("successCondition", "failureCondition"):
            if not template.get(name):
                yield Problem(f"{path}.{name}", "is required for a TrainJob.")
        for problem in job_problems(trial):
            yield Problem(f"{path}.trialSpec.{problem.path}", problem.reason)


def _substitutions(spec: Object, template: Object, trial: Object) -> Iterator[Problem]:
    """Each trial parameter stands in the trial, and stands for one parameter of the search."""
    path = "spec.trialTemplate.trialParameters"
    given = template.get("trialParameters") or []
    names = [dig(parameter, "name") for parameter in given]
    references = [dig(parameter, "reference") for parameter in given]
    known = {dig(parameter, "name") for parameter in spec.get("parameters") or ()}
    used = set(_REPLACED.findall(str(trial)))
    for words, what in ((names, "name"), (references, "reference")):
        for word in words:
            if not word or "{" in str(word) or "}" in str(word):
                yield Problem(path, f"{word!r} can't be a {what}.")
            if words.count(word) > 1:
                yield Problem(path, f"{what} {word!r} is there twice.")
    for reference in references:
        if reference not in known and "${" not in str(reference):
            yield Problem(path, f"{reference!r} is not in spec.parameters.")
    for name in names:
        if name not in used:
            yield Problem(path, f"{name!r} does not stand in the trial.")
    for name in sorted(used - set(names)):
        yield Problem(path, f"{name!r} stands in the trial and is not here.")
