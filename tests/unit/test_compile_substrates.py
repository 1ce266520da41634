"""Constructs that one side can't run are refused by name; each pipeline here is compiled by KFP itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.substrates import refusals, require_both

from .substrate_cases import (
    artifact_only,
    container,
    good,
    installs,
    loop_over_named_output,
    named_output,
    numbers_in_a_list,
    one_of_artifacts,
    quote,
)


def compiled(pipeline: Any, folder: Path) -> dict[str, Any]:
    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    spec: dict[str, Any] = next(iter(yaml.safe_load_all(path.read_text())))
    return spec


def test_a_pipeline_that_both_sides_can_run_is_let_through(tmp_path: Path) -> None:
    require_both(compiled(good, tmp_path))


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        (container, "is a container component"),
        (installs, "installs packages when it runs"),
        (named_output, "depends on the named output"),
        (quote, "a quote in it"),
        (loop_over_named_output, "loops over the named output 'names'"),
        (numbers_in_a_list, "numbers inside 'values'"),
        (one_of_artifacts, "chooses artifact"),
        (artifact_only, "takes artifacts only"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_one_side_cannot_run_is_refused_with_the_reason(pipeline: Any, reason: str, tmp_path: Path) -> None:
    spec = compiled(pipeline, tmp_path)
    with pytest.raises(ConfigurationError, match=reason):
        require_both(spec)
    assert len(list(refusals(spec))) == 1


def test_code_that_lies_in_the_image_is_refused() -> None:
    # KFP builds such components with docker only, so the executor is written here as its compiler writes it.
    executor = {"container": {"image": "x", "command": ["python3", "-m", "kfp.dsl.executor_main"], "args": []}}
    spec = {"root": {"dag": {}}, "pipelineInfo": {"name": "p"}, "deploymentSpec": {"executors": {"exec-a": executor}}}
    assert list(refusals(spec)) == ["exec-a has its code in its image (target_image): locally there are no images."]
