"""Sizes of pods: said once at compile time, found in the compiled objects and in what a run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.compile import render
from fasttrack.kubeflow.footprint import footprint
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.quantities import jvm_bytes, quantity
from fasttrack.kubeflow.run_options import RunOptions
from fasttrack.kubeflow.sizes import PARTS, Size, parse_sizes, resized, sizes_text
from fasttrack.usecase import load

FLIGHTS = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
TEXTS = [f"{part}=1500m,{number}Gi" for number, part in enumerate(PARTS, start=2)]


@pytest.fixture(scope="module", params=[False, True], ids=["cpu", "gpu"])
def objects(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    options = Options(gpus=request.param, sizes=parse_sizes(TEXTS))
    contents = render(load(FLIGHTS), options=options)
    made = [each for name, text in contents.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {each["kind"]: each for each in made if each and "kind" in each}


def amounts(resources: dict[str, Any]) -> tuple[str, str, str]:
    return resources["requests"]["cpu"], resources["requests"]["memory"], resources["limits"]["memory"]


def test_every_compiled_object_has_the_sizes(objects: dict[str, dict[str, Any]]) -> None:
    nodes = [
        objects["TrainJob"]["spec"]["trainer"],
        objects["Experiment"]["spec"]["trialTemplate"]["trialSpec"]["spec"]["trainer"],
    ]
    assert [amounts(node["resourcesPerNode"]) for node in nodes] == [("1500m", "2Gi", "2Gi")] * 2
    served = objects["InferenceService"]["spec"]
    assert amounts(served["predictor"]["model"]["resources"]) == ("1500m", "5Gi", "5Gi")
    assert amounts(served["predictor"]["containers"][0]["resources"]) == ("1500m", "6Gi", "6Gi")
    assert amounts(served["explainer"]["containers"][0]["resources"]) == ("1500m", "7Gi", "7Gi")
    for spark in (objects["SparkApplication"]["spec"], objects["ScheduledSparkApplication"]["spec"]["template"]):
        for part, memory in (("driver", "3Gi"), ("executor", "4Gi")):
            assert spark[part]["coreRequest"] == "1500m"
            # What Spark asks Kubernetes for: heap and overhead.
            assert jvm_bytes(spark[part]["memory"]) + jvm_bytes(spark[part]["memoryOverhead"]) == quantity(memory)


def test_gpus_stay_beside_sizes(objects: dict[str, dict[str, Any]]) -> None:
    gpus = "gpu" in objects["TrainJob"]["spec"]["runtimeRef"]["name"]
    assert ("nvidia.com/gpu" in objects["TrainJob"]["spec"]["trainer"]["resourcesPerNode"]["limits"]) is gpus
    assert (
        "nvidia.com/gpu" in objects["InferenceService"]["spec"]["predictor"]["model"]["resources"]["limits"]
    ) is gpus


def test_the_footprint_counts_them(objects: dict[str, dict[str, Any]]) -> None:
    groups = {group.name: group.need for group in footprint([objects["SparkApplication"], objects["TrainJob"]]).groups}
    driver = next(need for name, need in groups.items() if name.endswith("driver"))
    assert (driver.requests["cpu"], driver.requests["memory"]) == (quantity("1500m"), quantity("3Gi"))


def test_launchers_get_the_same_sizes() -> None:
    options = RunOptions(sizes=parse_sizes(TEXTS))
    env = {each["name"]: each["value"] for each in options.variables()}
    assert RunOptions.from_environment(env) == options
    assert parse_sizes(sizes_text(options.sizes).split()) == options.sizes


def test_without_sizes_nothing_changes() -> None:
    obj = {"kind": "TrainJob", "spec": {}}
    assert resized(obj, {}) is obj
    assert parse_sizes([]) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train", "is no size"),
        ("gpu=1,2Gi", "the parts are train, driver"),
        ("train=2", "is no size"),
        ("train=two,2Gi", "is not a quantity"),
        ("train=0,2Gi", "too little"),
        ("executor=1,2", "64Mi or more"),
    ],
)
def test_a_malformed_size_says_how_to_write_it(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        parse_sizes([text])


def test_a_size_is_said_in_kubernetes_words() -> None:
    assert parse_sizes(["train=2,8Gi"]) == {"train": Size("2", "8Gi")}
