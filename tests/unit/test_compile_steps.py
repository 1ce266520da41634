"""What the compiled steps carry: the compiler's options, limits, and what their pods ask for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.compile import render
from fasttrack.kubeflow.launchers.place import Limits
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.run_options import LAUNCHERS, RunOptions
from fasttrack.kubeflow.workloads import pod_groups
from fasttrack.usecase import load

FLIGHTS = Path(__file__).parents[2] / "examples/flights/usecase.yaml"


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(load(FLIGHTS), options=Options(gpus=True, executors=9))["kfp/training.yaml"]))


def containers(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    executors = documents[0]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def test_launchers_are_told_what_compile_was_told_and_no_other_step_is(documents: list[dict[str, Any]]) -> None:
    told = {
        name: {each["name"]: each["value"] for each in container.get("env", [])}
        for name, container in containers(documents).items()
    }
    for name, env in told.items():
        options = RunOptions(gpus=True, executors=9) if name.split("-")[0] in LAUNCHERS else RunOptions()
        assert RunOptions.from_environment(env) == options, name


@pytest.mark.parametrize(
    "env", [{"FASTTRACK_GPUS": "maybe"}, {"FASTTRACK_EXECUTORS": "0"}, {"FASTTRACK_EXECUTORS": "x"}]
)
def test_an_option_that_was_tampered_with_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="Compile again"):
        RunOptions.from_environment(env)


def test_every_limit_can_be_set_in_the_settings(documents: list[dict[str, Any]]) -> None:
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in platform.items():
        (settings,) = executor["configMapAsEnv"]
        variables = {each["envVar"] for each in settings["keyToEnv"]}
        assert {f"FASTTRACK_LIMIT_{limit.name.upper()}" for limit in fields(Limits)} <= variables, name


def test_every_step_says_what_its_pod_needs(documents: list[dict[str, Any]]) -> None:
    for name, container in containers(documents).items():
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(container["resources"]), (
            name
        )
    version = {"kind": "PipelineVersion", "metadata": {"name": "v"}, "spec": {"pipelineSpec": documents[0]}}
    step = next(group for group in pod_groups([version]) if group.name.endswith("step"))
    # A quota on these three takes the pod; none on CPU limits, which would only slow it down.
    assert step.need.unset == {"limits.cpu"}
