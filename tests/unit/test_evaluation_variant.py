"""Variants of a model: made, judged like the model itself, packaged or refused, and the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fasttrack.errors import IntegrityError
from fasttrack.evaluation.evaluate import evaluate, package_files
from fasttrack.evaluation.gate import Decision
from fasttrack.evaluation.metrics import Forecast, score
from fasttrack.evaluation.variant import Standing, choose, outcome, tolerated
from fasttrack.explain.amortized import load
from fasttrack.explain.amortized_fit import fit, prepared
from fasttrack.explain.shap_values import ShapExplainer
from fasttrack.models.inference import Predictor
from fasttrack.models.int8 import computes_integers
from fasttrack.settings import Settings
from fasttrack.steps.evaluate import evaluate as step
from fasttrack.training.data import load_splits
from fasttrack.usecase import UseCase
from fasttrack.usecase.serving import Variant
from tests.unit.learning_table import USECASE, usecase, write
from tests.unit.test_evaluation_evaluate import fitted

GENEROUS = 0.5


def asking(threshold: float = 0.6, **variant: Any) -> UseCase:
    gate = {"thresholds": [{"metric": "auc", "at_least": threshold}]}
    return usecase(serving={"variant": {"tolerance": GENEROUS, **variant}}, gate=gate)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table"), 2500)


@pytest.fixture(scope="module")
def fit_folder(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("model"), features)


@pytest.fixture
def folder(fit_folder: Path, tmp_path: Path) -> Path:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((fit_folder / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def packages(features: Path, fit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """By name: the full model's package, and those of variants that are good enough."""
    found = {}
    variants: dict[str, dict[str, Any]] = {
        "int8": {"quantization": "int8"},
        "pruned": {"pruning": 0.5},
        "both": {"quantization": "int8", "pruning": 0.5},
    }
    for name, asked in {"full": None, **variants}.items():
        folder = tmp_path_factory.mktemp(name)
        for file in ("model.safetensors", "config.json"):
            (folder / file).write_bytes((fit_folder / file).read_bytes())
        evaluate(usecase() if asked is None else asking(**asked), features, folder)
        found[name] = package_files(folder)
    return found


def document(package: dict[str, bytes], name: str) -> Any:
    return json.loads(package[name])


@pytest.mark.parametrize("name", ["int8", "pruned", "both"])
def test_a_variant_that_is_good_enough_is_packaged(packages: dict[str, dict[str, bytes]], name: str) -> None:
    package, full = packages[name], packages["full"]
    section = document(package, "metrics.json")["variant"]
    assert section["packaged"] is True
    assert section["reasons"] == []
    assert section["full"]["test"] == document(full, "metrics.json")["model"]
    assert section["compressed"]["test"] == document(package, "metrics.json")["model"]
    sizes = [len(found["model.safetensors"]) for found in (full, package)]
    assert [section["full"]["bytes"], section["compressed"]["bytes"]] == sizes
    assert sizes[1] < sizes[0]
    assert document(package, "config.json").get("quantization") == (None if name == "pruned" else "int8")
    assert document(package, "config.json")["parameters"]["hidden"] == (16 if name == "int8" else 8)
    assert computes_integers(Predictor.from_files(package).network) == (name != "pruned")


@pytest.mark.parametrize("name", ["int8", "pruned", "both"])
def test_what_was_judged_is_what_is_loaded(packages: dict[str, dict[str, bytes]], features: Path, name: str) -> None:
    predictor, rows = Predictor.from_files(packages[name]), load_splits(usecase(), features).test
    found = predictor.predict(predictor.encoder.encode(rows.columns, strict=False))
    forecast = Forecast(found.probability, found.value, found.lower, found.upper)
    assert score(rows.positive, rows.label, forecast) == document(packages[name], "metrics.json")["model"]


@pytest.mark.parametrize("name", ["int8", "pruned", "both"])
def test_it_is_calibrated_for_itself(packages: dict[str, dict[str, bytes]], name: str) -> None:
    assert packages[name]["conformal.json"] != packages["full"]["conformal.json"]
    calibrations = [document(packages[which], "config.json")["calibration"] for which in (name, "full")]
    assert calibrations[0] != calibrations[1]
    metrics = document(packages[name], "metrics.json")
    tolerance = 4 * np.sqrt(0.09 / metrics["rows"]["test"] + 0.09 / metrics["rows"]["validate"])
    assert abs(metrics["model"]["interval_coverage"] - 0.9) < tolerance


def test_the_same_inputs_give_the_same_package_again_and_again(
    packages: dict[str, dict[str, bytes]], features: Path, folder: Path
) -> None:
    for _ in range(2):
        evaluate(asking(quantization="int8", pruning=0.5), features, folder)
        assert package_files(folder) == packages["both"]
    # And back: the full model is still there.
    evaluate(usecase(), features, folder)
    assert package_files(folder) == packages["full"]


def test_a_variant_that_is_too_much_worse_is_refused(
    packages: dict[str, dict[str, bytes]], features: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(asking(pruning=0.9, tolerance=0.0), features, folder)
    section = found.metrics["variant"]
    assert not section["packaged"]
    assert section["compressed"]["validate"]["auc"] < section["full"]["validate"]["auc"]
    assert any("auc (validation)" in reason for reason in section["reasons"])
    package = package_files(folder)
    assert {name for name in package if package[name] != packages["full"][name]} == {"metrics.json"}
    assert found.decision.accepted
    assert "Variant (90% pruned): refused, the full model is packaged" in capsys.readouterr().err


def test_a_variant_that_the_gate_refuses_leaves_the_accepted_full_model(
    packages: dict[str, dict[str, bytes]], features: Path, folder: Path
) -> None:
    worse = evaluate(asking(pruning=0.9), features, folder).metrics["variant"]
    scores = worse["compressed"]["test"]["auc"], worse["full"]["test"]["auc"]
    assert scores[0] < scores[1]
    found = evaluate(asking(sum(scores) / 2, pruning=0.9), features, folder)
    assert found.decision.accepted
    assert found.metrics["model"]["auc"] == scores[1]
    assert found.metrics["variant"]["gate"] == {"accepted": False, "full_model_accepted": True}
    assert [reason.split(":")[0] for reason in found.metrics["variant"]["reasons"]] == ["the gate refuses it"]
    assert package_files(folder)["model.safetensors"] == packages["full"]["model.safetensors"]


@pytest.mark.parametrize("name", ["int8", "both"])
def test_explanations_add_up_to_what_is_served(packages: dict[str, dict[str, bytes]], name: str) -> None:
    package = packages[name]
    shap, background = prepared(package)
    predictor, encoded = Predictor.from_files(package), shap.model.encoded  # type: ignore[attr-defined]
    walks = ShapExplainer(encoded.space, background)
    for number, row in enumerate(background[:40]):
        served = float(predictor.predict(encoded.unflatten(row[None])).probability[0])
        for explainer in (shap, walks) if number < 3 else (shap,):
            found = explainer.explain(row, [None] * len(shap.model.names))
            assert found.prediction == pytest.approx(served, abs=1e-6)
            total = found.base_value + sum(each.contribution for each in found.attributions)
            assert total == pytest.approx(served, abs=1e-6)


def test_an_amortized_explainer_learns_from_the_variant(packages: dict[str, dict[str, bytes]], features: Path) -> None:
    package, rows = packages["both"], load_splits(usecase(), features).train
    predictor = Predictor.from_files(package)
    made = fit(package, predictor.encoder.encode(rows.columns, strict=False), epochs=2, rows=64)
    shap, background = prepared(package)
    explainer = load(shap, {**package, **made})
    assert explainer is not None
    for row in background[:10]:
        served = float(predictor.predict(shap.model.encoded.unflatten(row[None])).probability[0])  # type: ignore[attr-defined]
        base, contributions = explainer.contributions(row)
        assert base + contributions.sum() == pytest.approx(served, abs=1e-6)


@pytest.mark.parametrize("change", [{"quantization": "int4"}, {"quantization": None}, {"quantization": ["int8"]}])
def test_a_configuration_that_says_something_else_of_the_weights_is_refused(
    packages: dict[str, dict[str, bytes]], change: dict[str, Any]
) -> None:
    config = document(packages["int8"], "config.json") | change
    with pytest.raises(IntegrityError, match="belong together"):
        Predictor.from_files({**packages["int8"], "config.json": json.dumps(config).encode()})


def test_float_weights_are_not_taken_for_int8(packages: dict[str, dict[str, bytes]]) -> None:
    config = document(packages["full"], "config.json") | {"quantization": "int8"}
    with pytest.raises(IntegrityError, match="int8"):
        Predictor.from_files({**packages["full"], "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("damage", ["absent", "short", "float64"])
def test_damaged_scales_are_refused(packages: dict[str, dict[str, bytes]], damage: str) -> None:
    state = safetensors.torch.load(packages["int8"]["model.safetensors"])
    name = "trunk.body.4.weight_scale"
    scale = state.pop(name)
    if damage == "short":
        state[name] = scale[:-1].clone()
    if damage == "float64":
        state[name] = scale.to(torch.float64)
    with pytest.raises(IntegrityError, match="belong together"):
        Predictor.from_files({**packages["int8"], "model.safetensors": safetensors.torch.save(state)})


SCORES = st.floats(0, 100).map(lambda value: round(value, 6))


@given(SCORES, SCORES, st.floats(0, 0.5), st.booleans())
def test_what_is_no_worse_is_always_tolerated(full: float, gain: float, tolerance: float, rising: bool) -> None:
    threshold = {"metric": "mae", "at_least" if rising else "at_most": 1.0}
    better = full + gain if rising else full - gain
    (check,) = tolerated(usecase(gate={"thresholds": [threshold]}), tolerance, {"mae": full}, {"mae": better})
    assert check.passed


@given(st.floats(0.001, 100), st.floats(0, 0.4), st.booleans())
def test_what_is_worse_by_more_than_the_tolerance_is_not(full: float, tolerance: float, rising: bool) -> None:
    threshold = {"metric": "mae", "at_least" if rising else "at_most": 1.0}
    gap = full * (tolerance + 0.05)
    worse = full - gap if rising else full + gap
    (check,) = tolerated(usecase(gate={"thresholds": [threshold]}), tolerance, {"mae": full}, {"mae": worse})
    assert not check.passed


def test_a_score_that_is_not_defined_is_not_tolerated() -> None:
    (check,) = tolerated(usecase(), 0.5, {"auc": 0.7}, {"auc": None})
    assert not check.passed


def test_the_outcome_is_one_line() -> None:
    accepted = Decision(True, [], [])
    full, small = (
        Standing({"auc": 0.72}, {"auc": value}, accepted, size) for value, size in ((0.71, 400), (0.709, 100))
    )
    section = choose(usecase(), Variant(quantization="int8", pruning=0.5), full, small)
    assert outcome({"variant": section}) == (
        "Variant (int8, 50% pruned): packaged; auc 0.7090 instead of 0.7100, 25% of the bytes"
    )
    assert outcome({}) == ""


@pytest.mark.parametrize(
    "variant", [{}, {"pruning": 0.0}, {"pruning": 0.95}, {"quantization": "int4"}, {"quantization": "int8", "bits": 8}]
)
def test_a_variant_that_says_nothing_or_too_much_is_refused(variant: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asking(**variant)


def test_the_step_judges_again_when_another_variant_is_asked_for(
    features: Path,
    fit_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(runs=str(tmp_path / "runs"), lake=str(tmp_path / "lake"), packages=str(tmp_path / "packages"))
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    texts = [USECASE, f"{USECASE}serving: {{variant: {{quantization: int8, tolerance: 0.5}}}}\n"]
    folders = [
        Path(step(text, "one", str(features), str(fit_folder), number).path)
        for number, text in enumerate([*texts, texts[1]], start=1)
    ]
    assert folders[0] != folders[1] == folders[2]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Variant (int8): packaged")]
    assert len(said) == 1
    quantizations = [json.loads((folder / "config.json").read_bytes()).get("quantization") for folder in folders]
    assert quantizations == [None, "int8", "int8"]
    # What was fitted stays as it was.
    assert "variant_of" not in json.loads((fit_folder / "config.json").read_bytes())
