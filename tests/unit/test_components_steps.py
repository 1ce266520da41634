"""Components called as functions (``.python_func``), as far as they go without servers; the rest is in integration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from fasttrack.errors import GateError, NotFoundError
from fasttrack.kubeflow.definitions import component
from fasttrack.runs import write_record
from fasttrack.settings import Settings
from fasttrack.steps.metrics import scores

FLIGHTS = Path(__file__).parents[2] / "examples/flights/usecase.yaml"


@pytest.fixture
def text() -> str:
    document = yaml.safe_load(FLIGHTS.read_text())
    document["gate"] = {"thresholds": [{"metric": "auc", "at_least": 0.7}], "rounds": 2}
    return yaml.safe_dump(document, sort_keys=False)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    found = Settings(
        runs=str(tmp_path / "runs"),
        lake=str(tmp_path / "lake"),
        packages=str(tmp_path / "packages"),
        kafka="127.0.0.1:1",
        schema_registry="http://127.0.0.1:1",
        postgres="postgresql://127.0.0.1:1/none",
    )
    for name, value in found.to_environment().items():
        monkeypatch.setenv(name, value)
    return found


def model(folder: Path, auc: float) -> str:
    folder.mkdir()
    metrics = {"model": {"auc": auc, "rows": 10}, "baselines": {"group_mean": {"auc": 0.5}}, "slices": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


def record(settings: Settings, run_id: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(settings.runs) / "flights" / run_id / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize(("auc", "answer"), [(0.8, "accepted"), (0.6, "refused")])
def test_gate_answers_with_one_word_and_keeps_the_reasons(
    auc: float, answer: str, text: str, settings: Settings, tmp_path: Path
) -> None:
    assert component("gate").python_func(text, "one", model(tmp_path / "model", auc), 1) == answer
    kept = record(settings, "one", "gate-1")
    assert kept["decision"] == answer
    assert bool(kept["reasons"]) == (answer == "refused")


def test_gate_says_what_became_of_a_variant(
    text: str, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model(tmp_path / "model", 0.8)
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    reason = "auc (validation) of the variant - full model is -0.1000, but must be >= -0.008"
    metrics["variant"] = {"quantization": "int8", "pruning": 0.9, "packaged": False, "reasons": [reason]}
    (Path(folder) / "metrics.json").write_text(json.dumps(metrics))
    assert component("gate").python_func(text, "one", folder, 1) == "accepted"
    said = f"Variant (int8, 90% pruned): refused, the full model is packaged; {reason}"
    assert record(settings, "one", "gate-1")["variant"] == said
    assert said in capsys.readouterr().err


def test_gate_needs_an_evaluated_model(text: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no metrics"):
        component("gate").python_func(text, "one", str(tmp_path), 1)
    assert record(settings, "one", "gate-1")["status"] == "failed"


def test_refuse_fails_with_what_the_gate_said_in_each_round(text: str, settings: Settings, tmp_path: Path) -> None:
    for number, auc in ((1, 0.6), (2, 0.65)):
        component("gate").python_func(text, "one", model(tmp_path / f"model-{number}", auc), number)
    with pytest.raises(GateError) as caught:
        component("refuse").python_func(text, "one", 2)
    assert "round 1: auc is 0.6000, but must be >= 0.7" in str(caught.value)
    assert "round 2: auc is 0.6500, but must be >= 0.7" in str(caught.value)


def test_register_takes_no_model_that_the_gate_refused(text: str, settings: Settings, tmp_path: Path) -> None:
    refused = model(tmp_path / "model", 0.6)
    component("gate").python_func(text, "one", refused, 1)
    with pytest.raises(GateError, match="did not accept"):
        component("register").python_func(text, "one", "{}", refused, 1, dsl.Model(uri=str(tmp_path / "m")))


def test_report_takes_kfps_final_status(text: str, settings: Settings) -> None:
    write_record(
        settings,
        "flights",
        "one",
        "drain",
        {"status": "failed", "error": "no broker", "started_at": "2026-01-01T00:00:00+00:00"},
    )
    status = dsl.PipelineTaskFinalStatus("FAILED", "job", "exit-handler-1", 1, "Task exit-handler-1 failed.")
    assert component("report").python_func(text, "one", status) == "failed"
    found = record(settings, "one", "report")
    assert (found["message"], found["problems"]) == ("Task exit-handler-1 failed.", ["drain: no broker"])


def test_scores_are_named_flat_for_kubeflows_pages() -> None:
    metrics = {"model": {"auc": 0.7, "note": "x"}, "baselines": {"group_mean": {"auc": 0.5}}, "slices": {"a": {}}}
    assert scores(metrics) == {"auc": 0.7, "group_mean.auc": 0.5}
