"""`fasttrack compile` of the flights use case: the golden files, and what has to hold for any use case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import fasttrack
from fasttrack.errors import StorageError, UseCaseError
from fasttrack.kubeflow import compile as compiling
from fasttrack.kubeflow.compile import canonical_text, compile_usecase, render
from fasttrack.kubeflow.experiment import short_name
from fasttrack.usecase import dump, load, parse

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "examples/flights/usecase.yaml"
GOLDEN = ROOT / "tests/golden/flights"


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def flights() -> dict[str, str]:
    return render(load(FLIGHTS))


def test_the_output_equals_the_golden_files(flights: dict[str, str]) -> None:
    golden = {path.relative_to(GOLDEN).as_posix(): path.read_text() for path in GOLDEN.rglob("*.*") if path.is_file()}
    assert sorted(flights) == sorted(golden), "run `make golden`"
    for name, text in flights.items():
        assert text == golden[name], f"{name} has changed; if it should, run `make golden`"


def test_the_same_use_case_gives_the_same_bytes_in_another_folder(tmp_path: Path, flights: dict[str, str]) -> None:
    copy = tmp_path / "elsewhere" / "usecase.yaml"
    copy.parent.mkdir()
    copy.write_text("# a comment changes nothing\n" + FLIGHTS.read_text())
    paths = compile_usecase(copy, tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in paths} == flights


def test_what_kubectl_would_apply_is_all_objects_in_the_namespace(flights: dict[str, str]) -> None:
    for name, text in render(load(FLIGHTS), namespace="team-a").items():
        if "/" not in name:
            for document in documents(text):
                assert document["apiVersion"] and document["kind"]
                assert document["metadata"]["namespace"] == "team-a"


def test_images_carry_registry_step_and_version() -> None:
    spec = documents(render(load(FLIGHTS), registry="registry.example.com/team")["kfp/training.yaml"])[0]
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert f"registry.example.com/team/fasttrack/drain:{fasttrack.__version__}" in images
    assert len(images) == 11


def test_the_pipeline_carries_the_whole_use_case_and_asks_for_the_runs_name(flights: dict[str, str]) -> None:
    inputs = documents(flights["kfp/training.yaml"])[0]["root"]["inputDefinitions"]["parameters"]
    assert dump(parse(inputs["usecase"]["defaultValue"])) == dump(load(FLIGHTS))
    assert "defaultValue" not in inputs["run_id"]


def test_small_numbers_survive_the_way_through_yaml() -> None:
    usecase = parse(FLIGHTS.read_text().replace("low: 0.0005, high: 0.01", "low: 0.00005, high: 0.01"))
    assert dump(parse(canonical_text(usecase))) == dump(usecase)


def test_a_refusal_leads_to_as_many_rounds_as_the_use_case_allows() -> None:
    text = FLIGHTS.read_text()
    for rounds in (1, 3):
        usecase = parse(text.replace("rounds: 2", f"rounds: {rounds}"))
        components = documents(render(usecase)["kfp/training.yaml"])[0]["components"]
        assert len([name for name in components if re.fullmatch(r"comp-tune(-\d+)?", name)]) == rounds
        assert len([name for name in components if re.fullmatch(r"comp-register(-\d+)?", name)]) == rounds
        assert len([name for name in components if re.fullmatch(r"comp-refuse(-\d+)?", name)]) == 1


def test_every_step_gets_its_settings_and_no_cache(flights: dict[str, str]) -> None:
    spec, platform = documents(flights["kfp/training.yaml"])
    executors = spec["deploymentSpec"]["executors"]
    settled = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(settled) == set(executors)
    graphs = [spec["root"], *(c for c in spec["components"].values() if "dag" in c)]
    tasks = [task for graph in graphs for task in graph["dag"]["tasks"].values()]
    leaves = [task for task in tasks if "dag" not in spec["components"][task["componentRef"]["name"]]]
    assert leaves and all(not task.get("cachingOptions", {}).get("enableCache") for task in leaves)


def test_a_version_is_named_by_its_content(flights: dict[str, str]) -> None:
    def version(text: str) -> str:
        name: str = documents(text)[1]["metadata"]["name"]
        return name

    changed = render(parse(FLIGHTS.read_text().replace("epochs: 6", "epochs: 7")))
    assert version(flights["pipeline.yaml"]) != version(changed["pipeline.yaml"])
    assert version(flights["pipeline.yaml"]) == documents((GOLDEN / "pipeline.yaml").read_text())[1]["metadata"]["name"]


def test_the_experiment_searches_what_the_use_case_says(flights: dict[str, str]) -> None:
    usecase = load(FLIGHTS)
    spec = documents(flights["experiment.yaml"])[0]["spec"]
    names = [f"{candidate.architecture}_{name}" for candidate in usecase.models for name in candidate.search]
    assert [parameter["name"] for parameter in spec["parameters"]] == ["architecture", *names]
    assert spec["algorithm"]["algorithmName"] == usecase.tuning.algorithm
    assert (spec["maxTrialCount"], spec["objective"]["objectiveMetricName"]) == (6, "auc")
    flags = spec["trialTemplate"]["trialSpec"]["spec"]["trainer"]["args"]
    for parameter in spec["trialTemplate"]["trialParameters"]:
        assert f"--set={parameter['reference']}=${{trialParameters.{parameter['name']}}}" in flags
    for parameter in spec["parameters"]:
        for value in parameter["feasibleSpace"].values():
            assert all(isinstance(word, str) for word in (value if isinstance(value, list) else [value]))


def test_names_fit_into_labels_and_stay_apart() -> None:
    long = ["a" * 42 + "-tune", "a" * 42 + "-tunes"]
    short = [short_name(name) for name in long]
    assert all(len(name) <= 39 for name in short)
    assert len(set(short)) == 2
    assert short_name("flights-mlp") == "flights-mlp"


def test_the_use_case_as_json_reads_back(flights: dict[str, str]) -> None:
    assert orjson.loads(flights["kfp/usecase.json"]) == dump(load(FLIGHTS))


def test_a_malformed_use_case_writes_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "usecase.yaml"
    broken.write_text(FLIGHTS.read_text().replace("rounds: 2", "rouns: 2"))
    with pytest.raises(UseCaseError, match="rounds"):
        compile_usecase(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        compile_usecase(FLIGHTS, tmp_path / "taken" / "out")


def test_an_image_that_is_not_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_PREFIX", "other/")
    with pytest.raises(compiling.ConfigurationError, match="a step has the image"):
        render(load(FLIGHTS))
