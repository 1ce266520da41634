"""`fasttrack compile` of the flights use case: the golden files, and what has to hold for any use case."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import fasttrack
from fasttrack.errors import ConfigurationError, StorageError, UseCaseError
from fasttrack.kubeflow import compile as compiling
from fasttrack.kubeflow import step_pods
from fasttrack.kubeflow.compile import Options, compile_usecase, render
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.kafka_objects import kafka_topics
from fasttrack.kubeflow.objects import documents as documents_of
from fasttrack.usecase import canonical_text, dump, load, parse
from tests.golden.refresh import CASES

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "examples/flights/usecase.yaml"
GOLDEN = ROOT / "tests/golden/flights"


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def flights() -> dict[str, str]:
    return render(load(FLIGHTS))


@pytest.mark.parametrize("case", CASES)
def test_the_output_equals_the_golden_files(case: str) -> None:
    path, options = CASES[case]
    made = render(load(ROOT / path), **options)
    folder = ROOT / "tests/golden" / case
    golden = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*") if path.is_file()}
    assert sorted(made) == sorted(golden), "run `make golden`"
    for name, text in made.items():
        assert text == golden[name], f"{name} has changed; if it should, run `make golden`"


def test_another_hash_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fasttrack", "compile", str(FLIGHTS), "-o", str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
    for path in GOLDEN.rglob("*.*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(GOLDEN)).read_bytes() == path.read_bytes()


def test_the_same_use_case_gives_the_same_bytes_in_another_folder(tmp_path: Path, flights: dict[str, str]) -> None:
    copy = tmp_path / "elsewhere" / "usecase.yaml"
    copy.parent.mkdir()
    copy.write_text("# a comment changes nothing\n" + FLIGHTS.read_text())
    paths = compile_usecase(copy, tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in paths} == flights


def test_what_kubectl_would_apply_is_all_objects_in_the_namespace(flights: dict[str, str]) -> None:
    for name, text in render(load(FLIGHTS), namespace="team-a").items():
        if not name.startswith("kfp/"):
            for document in documents(text):
                assert document["apiVersion"] and document["kind"]
                assert document["metadata"]["namespace"] == "team-a"


def test_images_carry_registry_step_and_version() -> None:
    spec = documents(render(load(FLIGHTS), registry="registry.example.com/team")["kfp/training.yaml"])[0]
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert f"registry.example.com/team/fasttrack/drain:{fasttrack.__version__}" in images
    assert len(images) == 11


def test_the_pipeline_carries_the_whole_use_case_and_names_its_runs_by_itself(flights: dict[str, str]) -> None:
    inputs = documents(flights["kfp/training.yaml"])[0]["root"]["inputDefinitions"]["parameters"]
    assert dump(parse(inputs["usecase"]["defaultValue"])) == dump(load(FLIGHTS))
    assert inputs["run_id"]["defaultValue"] == ""
    platform = documents(flights["kfp/training.yaml"])[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in platform.values():
        assert executor["fieldPathAsEnv"] == [
            {"name": "FASTTRACK_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]


def test_only_the_step_that_signs_sees_the_private_key(flights: dict[str, str]) -> None:
    platform = documents(flights["kfp/training.yaml"])[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    keys = {
        name: {secret["secretName"] for secret in executor.get("secretAsVolume", ())}
        for name, executor in platform.items()
    }
    signing = {name for name, secrets in keys.items() if "fasttrack-signing-key" in secrets}
    verifying = {name for name, secrets in keys.items() if "fasttrack-verify-key" in secrets}
    assert {re.sub(r"-\d+$", "", name) for name in signing} == {"exec-register"}
    assert {re.sub(r"-\d+$", "", name) for name in verifying} == {"exec-register", "exec-publish"}
    assert all(executor["pvcMount"][0]["mountPath"] == "/var/lib/fasttrack" for executor in platform.values())


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


@pytest.mark.parametrize(("stopping", "kept"), [("medianstop", True), ("none", None)])
def test_a_search_that_may_stop_trials_keeps_their_jobs(stopping: str, kept: bool | None) -> None:
    usecase = load(FLIGHTS)
    tuning = usecase.tuning.model_copy(update={"early_stopping": stopping})
    made = experiment(usecase.model_copy(update={"tuning": tuning}), image="trainer", namespace="space")
    # Katib waits for ever for the score of a stopped trial whose TrainJob it has deleted.
    assert made["spec"]["trialTemplate"].get("retain") is kept


def test_applying_the_folder_starts_nothing(flights: dict[str, str]) -> None:
    objects = {
        document["kind"]: document for name in flights if "/" not in name for document in documents(flights[name])
    }
    assert objects["SparkApplication"]["spec"]["suspend"] is True
    assert objects["ScheduledSparkApplication"]["spec"]["suspend"] is True
    assert objects["Experiment"]["spec"]["trialTemplate"]["trialSpec"]["spec"]["suspend"] is True
    assert objects["InferenceService"]["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    assert documents(flights["jobs/trainjob.yaml"])[0]["spec"]["suspend"] is True
    # The Trainer's webhook looks for the runtime, also in a dry run of both.
    assert "TrainJob" not in objects


def test_texts_that_look_like_numbers_to_other_readers_are_quoted() -> None:
    words = ["1e-05", "1E5", "1_000", "0o17", "y", "N", ".5"]
    text = compiling._yaml([{"words": words}])
    assert all(f"'{word}'" in text for word in words)
    assert yaml.safe_load(text)["words"] == words
    assert "0.1.0" in compiling._yaml([{"version": "fasttrack/x:0.1.0"}])


def test_a_part_without_an_operator_can_be_left_out() -> None:
    left = render(load(FLIGHTS), options=Options(leave_out=("kafka", "monitoring", "route", "schedules")))
    assert not {"kafka.yaml", "monitoring.yaml", "route.yaml", "schedules.yaml"} & set(left)
    with pytest.raises(ConfigurationError, match="can't be left out"):
        documents_of(load(FLIGHTS), Options(leave_out=("spark",)), "", "fasttrack")


@pytest.mark.parametrize(
    ("options", "namespace", "reason"),
    [
        (Options(retrain="every day"), "fasttrack", r"--retrain: .*is not a schedule"),
        (Options(refresh="0 3 * *"), "fasttrack", "is not a schedule"),
        (Options(graph_namespace="fasttrack"), "fasttrack", "names no seccomp profile"),
        (Options(), "Team_A", "is not a namespace"),
        (Options(), "n" * 60, "Shorten one"),
        (Options(hostname="not a host"), "fasttrack", "does not match"),
        (Options(kafka_cluster="a b"), "fasttrack", "is not the value of a label"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_first(options: Options, namespace: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        render(load(FLIGHTS), namespace=namespace, options=options)


@pytest.mark.parametrize("topic", ["a topic", "ü", "x" * 250, ".."])
def test_a_topic_that_kafka_cannot_have_names_its_stream(topic: str) -> None:
    text = FLIGHTS.read_text().replace("    key: origin\n", f"    key: origin\n    topic: {topic}\n")
    with pytest.raises(ConfigurationError, match="can't be a Kafka topic") as told:
        kafka_topics(parse(text), namespace="fasttrack", cluster="kafka")
    assert told.value.where == "streams.weather.topic"


def test_two_streams_of_one_topic_are_refused() -> None:
    text = FLIGHTS.read_text().replace("    key: origin\n", "    key: origin\n    topic: flights_landed\n")
    with pytest.raises(ConfigurationError, match="also the topic of stream 'landed'"):
        kafka_topics(parse(text), namespace="fasttrack", cluster="kafka")


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
    monkeypatch.setattr(step_pods, "PREFIX", "other/")
    with pytest.raises(ConfigurationError, match="a step has the image"):
        render(load(FLIGHTS))
