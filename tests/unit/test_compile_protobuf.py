"""KFP's server and driver decode what is compiled strictly, as protocol buffers: those of its release take all of it.

KFP's own compiler looks at the pipeline, but not at the settings of pods.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.compile import PACKAGE, render
from fasttrack.kubeflow.compiled import steps_in
from fasttrack.kubeflow.objects import Options
from fasttrack.usecase import load

ROOT = Path(__file__).parents[2]
CASES = {"flights": ROOT / "examples/flights/usecase.yaml", "ugly": ROOT / "tests/golden/ugly.yaml"}


@functools.cache
def compiled(case: str, *, gpus: bool = False) -> dict[str, str]:
    return render(load(CASES[case]), registry="r.example", options=Options(gpus=gpus))


def settings(contents: dict[str, str]) -> dict[str, Any]:
    """What the pods of each executor get."""
    _, platform = yaml.safe_load_all(contents[PACKAGE])
    found: dict[str, Any] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gpus", [False, True])
def test_the_pipeline_is_decoded(case: str, gpus: bool) -> None:
    contents = compiled(case, gpus=gpus)
    spec, platform = yaml.safe_load_all(contents[PACKAGE])
    made = json_format.ParseDict(spec, PipelineSpec())
    assert made.schema_version == "2.1.0", "KFP's server takes no other"
    json_format.ParseDict(platform, PlatformSpec())
    executors = json_format.ParseDict(spec["deploymentSpec"], PipelineDeploymentConfig()).executors
    assert {f"exec-{step}" for step in steps_in(contents)} == set(executors)
    assert all(each.container.image and each.container.resources.resource_memory_limit for each in executors.values())


@pytest.mark.parametrize("case", CASES)
def test_the_settings_of_every_steps_pod_are_decoded(case: str) -> None:
    contents = compiled(case)
    found = settings(contents)
    assert set(found) == {f"exec-{step}" for step in steps_in(contents)}
    for each in found.values():
        made = json_format.ParseDict(each, KubernetesExecutorConfig())
        # The driver takes these over, where KFP's administrator sets none.
        security = made.security_context
        assert (security.run_as_user, security.run_as_group, security.run_as_non_root) == (pods.USER, pods.USER, True)
        assert [claim.mount_path for claim in made.pvc_mount] == [pods.DATA_PATH]
        assert all(each.optional for each in (*made.config_map_as_env, *made.secret_as_env))


def test_a_word_that_kfp_does_not_know_would_be_found() -> None:
    wrong = settings(compiled("flights"))["exec-drain"] | {"configMapsAsEnv": []}
    with pytest.raises(json_format.ParseError, match="configMapsAsEnv"):
        json_format.ParseDict(wrong, KubernetesExecutorConfig())


def test_conditions_and_exit_handlers_are_no_steps() -> None:
    steps = steps_in(compiled("flights"))
    assert {"drain", "train", "train-2", "report", "refuse"} <= steps
    assert not [name for name in steps if name.startswith(("condition", "exit-handler"))]
