"""What only one side can run is refused when a pipeline is compiled, with the reason.

Each rule is a trap of ``kfp.local`` 2.17 that was met: some fail loudly in the middle of a run, some skip a branch
without a word (kfp/local/orchestrator/enhanced_dag_orchestrator.py, kfp/local/subprocess_task_handler.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fasttrack.errors import ConfigurationError

Spec = dict[str, Any]

_EXECUTOR = "kfp.dsl.executor_main"
_REFERENCE = re.compile(r"inputs\.parameter_values\['[^']+'\]")
_TEXT = re.compile(r"(?<=\s)'[^']*'(?=\s|\)|$)")
_CHANNEL = re.compile(r"pipelinechannel--[A-Za-z0-9_-]+")


def require_both(spec: Spec) -> None:
    """Refuse a pipeline that would not run, or not run the same, on one of the two sides.

    Args:
        spec: KFP's intermediate representation as plain values.

    Raises:
        ConfigurationError: with every reason.
    """
    if reasons := list(refusals(spec)):
        raise ConfigurationError(
            "the pipeline can't run both here and on a cluster: " + " ".join(reasons),
            where=f"pipeline {spec['pipelineInfo']['name']}",
            fix="Use dsl.component steps that take and return single values.",
        )


def refusals(spec: Spec) -> Iterator[str]:
    """One sentence for each construct that one side can't run."""
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        yield from _of_executor(name, executor)
    inputs = set(spec["root"].get("inputDefinitions", {}).get("parameters", {}))
    for name, component in {"root": spec["root"], **spec.get("components", {})}.items():
        if "dag" in component:
            yield from _of_graph(name, component, inputs)


def _of_executor(name: str, executor: Spec) -> Iterator[str]:
    container = executor.get("container")
    if container is None:
        return
    words = [str(word) for word in [*container.get("command", []), *container.get("args", [])]]
    if not any(_EXECUTOR in word for word in words):
        yield f"{name} is a container component (image {container.get('image')}): locally only Python steps run."
    elif words[0] != "sh":
        yield f"{name} has its code in its image (target_image): locally there are no images."
    elif any("pip install" in word for word in words):
        yield f"{name} installs packages when it runs: its image has to hold them."


def _of_graph(name: str, component: Spec, inputs: set[str]) -> Iterator[str]:
    definitions = component.get("inputDefinitions", {})
    if name != "root" and definitions.get("artifacts") and not definitions.get("parameters"):
        yield f"{name} takes artifacts only: locally such a nested pipeline gets nothing."
    for output, selectors in component["dag"].get("outputs", {}).get("artifacts", {}).items():
        if len(selectors.get("artifactSelectors", [])) > 1:
            yield f"{name} chooses artifact {output!r} with dsl.OneOf: locally that works with parameters only."
    for task_name, task in component["dag"].get("tasks", {}).items():
        yield from _of_condition(task_name, task, inputs)
        yield from _of_loop(task_name, task)
        yield from _of_constants(task_name, task)


def _of_condition(name: str, task: Spec, inputs: set[str]) -> Iterator[str]:
    condition = task.get("triggerPolicy", {}).get("condition", "")
    if "'" in _TEXT.sub("", _REFERENCE.sub("", condition)) or '"' in condition:
        yield f"{name} compares with a text that has a quote in it: locally the branch is skipped silently."
    given = task.get("inputs", {}).get("parameters", {})
    for channel in dict.fromkeys(_CHANNEL.findall(condition)):
        if channel.removeprefix("pipelinechannel--") not in inputs and not _is_return_value(channel, given):
            yield f"{name} depends on the named output {channel!r}: locally the branch is skipped silently."


def _of_loop(name: str, task: Spec) -> Iterator[str]:
    channel = task.get("parameterIterator", {}).get("items", {}).get("inputParameter")
    given = task.get("inputs", {}).get("parameters", {})
    source = given.get(channel, {}).get("taskOutputParameter") if channel else None
    if source and source.get("outputParameterKey") != "Output":
        yield f"{name} loops over the named output {source['outputParameterKey']!r}: locally that fails."


def _of_constants(name: str, task: Spec) -> Iterator[str]:
    for parameter, value in task.get("inputs", {}).get("parameters", {}).items():
        constant = value.get("runtimeValue", {}).get("constant")
        if isinstance(constant, dict | list) and _has_number(constant):
            yield f"{name} gets numbers inside {parameter!r}: whole ones arrive as floats; pass JSON text."


def _is_return_value(channel: str, given: Spec) -> bool:
    source = given.get(channel, {}).get("taskOutputParameter")
    return source["outputParameterKey"] == "Output" if source else channel.endswith("-Output")


def _has_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_number(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_number(item) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)
