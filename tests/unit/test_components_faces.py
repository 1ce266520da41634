"""Components: thin, light at import, and each the face of exactly one step of the library."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest

from fasttrack.kubeflow.definitions import checkout, component
from fasttrack.kubeflow.readme import component_readme

FOLDER = checkout() / "components"
STEPS = sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def source(step: str) -> Path:
    return FOLDER / step / "component.py"


def test_every_step_of_the_library_has_a_component() -> None:
    library = {path.stem for path in (checkout() / "fasttrack" / "steps").glob("*.py")}
    assert set(STEPS) <= library
    assert len(STEPS) == 11


@pytest.mark.parametrize("step", STEPS)
def test_module_level_imports_only_the_standard_library_and_kfp(step: str) -> None:
    for node in ast.parse(source(step).read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "kfp"}, f"{step} imports {name}"


@pytest.mark.parametrize("step", STEPS)
def test_image_is_named_after_the_step_and_installs_nothing(step: str) -> None:
    container = component(step).component_spec.implementation.container
    assert container.image == f"fasttrack/{step}"
    assert not any("pip install" in word for word in container.command)


@pytest.mark.parametrize("step", STEPS)
def test_body_calls_one_function_of_the_installed_library(step: str) -> None:
    function = next(n for n in ast.parse(source(step).read_text()).body if isinstance(n, ast.FunctionDef))
    imports = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    assert [(node.module, node.names[0].name) for node in imports] == [(f"fasttrack.steps.{step}", step)]
    assert len(function.body) <= 6, "a component is a face; the work belongs into the library"


@pytest.mark.parametrize("step", STEPS)
def test_component_passes_its_parameters_on_in_the_order_of_the_step(step: str) -> None:
    given = list(inspect.signature(component(step).python_func).parameters.values())
    names = [p.name for p in given if "dsl.Output" not in source(step).read_text().split(f"{p.name}: ")[1][:10]]
    tree = ast.parse((checkout() / "fasttrack" / "steps" / f"{step}.py").read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == step)
    wanted = [argument.arg for argument in function.args.args]
    assert [name for name in names if name != "status"] == [n for n in wanted if n not in ("state", "message")]


@pytest.mark.parametrize("step", STEPS)
def test_readme_tells_the_signature(step: str) -> None:
    assert (FOLDER / step / "README.md").read_text() == component_readme(component(step)), "run `make golden`"
