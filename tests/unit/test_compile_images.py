"""Where images stand in compiled objects: `kustomize edit set image` reaches them, or `compile --registry` alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow.compile import render
from fasttrack.usecase import load
from tests.golden.refresh import CASES

ROOT = Path(__file__).parents[2]
FIELDS = ROOT / "manifests/kustomize/base/configurations/images.yaml"
REGISTRY = "registry.example.com/team"
Object = dict[str, Any]


def objects(case: str, registry: str = REGISTRY) -> list[Object]:
    path, options = CASES[case]
    contents = render(load(ROOT / path), **{**options, "registry": registry})
    made = [text for name, text in contents.items() if name.endswith(".yaml") and not name.startswith("kfp/")]
    return [each for text in made for each in yaml.safe_load_all(text)]


def images(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every image and its path."""
    if isinstance(found, dict):
        for key, each in found.items():
            if key == "image" and isinstance(each, str):
                yield (*path, key), each
            yield from images(each, (*path, key))
    elif isinstance(found, list):
        for each in found:
            yield from images(each, path)


def reached(kind: str, path: tuple[str, ...]) -> bool:
    """Whether `kustomize edit set image` finds it: in a list of containers, or where the base's configuration says."""
    fields = yaml.safe_load(FIELDS.read_text())["images"]
    written = {each["path"] for each in fields if each["kind"] == kind}
    return path[-2] in ("containers", "initContainers") or "/".join(path) in written


@pytest.mark.parametrize("case", CASES)
def test_kustomize_reaches_every_image_but_the_pipelines(case: str) -> None:
    missed = {each["kind"] for each in objects(case) for path, _ in images(each) if not reached(each["kind"], path)}
    assert missed == {"PipelineVersion"}


@pytest.mark.parametrize("case", CASES)
def test_the_registry_that_compile_is_told_reaches_every_image(case: str) -> None:
    found = [image for each in objects(case) for _, image in images(each)]
    assert found
    assert all(image.startswith(f"{REGISTRY}/fasttrack/") for image in found)


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_with_other_images_is_another_version(case: str) -> None:
    """KFP lets nobody change a version: with its images changed under the same name it would be refused."""
    names = [
        each["metadata"]["name"]
        for registry in ("", REGISTRY, f"{REGISTRY}/other")
        for each in objects(case, registry)
        if each["kind"] == "PipelineVersion"
    ]
    assert len(set(names)) == len(names) == 3
