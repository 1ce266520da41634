"""Judge a fitted model: calibrate on validation, report on test, write what is left of the model package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import IntegrityError, NotFoundError
from fasttrack.evaluation import novelty
from fasttrack.evaluation.background import background
from fasttrack.evaluation.baselines import group_mean, hist_gradient_boosting
from fasttrack.evaluation.compression import compressed, work
from fasttrack.evaluation.gate import Decision, decide
from fasttrack.evaluation.metrics import Forecast, report, score
from fasttrack.evaluation.signature import signature
from fasttrack.evaluation.variant import Standing, choose, outcome
from fasttrack.models.batch import Batch
from fasttrack.models.calibration import Conformal, Platt
from fasttrack.models.encoding import Encoder
from fasttrack.models.inference import Predictor
from fasttrack.progress import note, track
from fasttrack.training.data import Splits, load_splits
from fasttrack.training.files import dump_json, write_file
from fasttrack.usecase import UseCase, dump

#: Rows kept for explanations: SHAP's time grows with them, and a hundred give a steady base value.
BACKGROUND_ROWS = 128
_MODEL = "model"


@dataclass(frozen=True)
class Evaluation:
    """A judged model.

    Attributes:
        folder: now holds every file of the model package but lineage and manifest.
        metrics: the content of metrics.json: ``model`` and ``baselines`` (scores on the test split), ``slices`` and
            ``baseline_slices`` (by column and value), ``rows`` (of each split), ``novelty`` (the share of unusual test
            rows), ``gate`` (the decision), and ``variant`` where the use case asks for one (see
            `fasttrack.evaluation.variant.choose`).
        decision: the gate's answer.
    """

    folder: Path
    metrics: dict[str, Any]
    decision: Decision


def evaluate(usecase: UseCase, features_path: str | Path, model_dir: str | Path, *, sample: float = 1.0) -> Evaluation:
    """Calibrate, measure, compare, decide; write the package's files into `model_dir`.

    Probabilities and intervals are calibrated on the validation split alone; the test split is only reported on. A
    variant that the use case asks for is judged in the same way, and takes the model's place where it is good enough.
    The same inputs give the same bytes.

    Args:
        usecase: the use case.
        features_path: the feature table that the model was fitted on.
        model_dir: folder of a finished fit.
        sample: share of the training rows that baselines learn from; give what `fit` was given.

    Raises:
        NotFoundError: there is no fitted model, or no feature table.
        IntegrityError: the model's files are damaged.
        DataQualityError: a split is too small.
        UseCaseError: the gate names a metric that doesn't exist.
    """
    folder = Path(model_dir)
    files = _read_fit(folder)
    variant = usecase.serving.variant
    splits = load_splits(usecase, features_path, sample, usecase.training.seed)
    parts = 4 if variant is None else 5 + work(usecase, len(splits.train))
    with track("Evaluating", total=parts, unit="parts") as bar:
        encoder = Predictor.uncalibrated(files).encoder
        judged_on = _JudgedOn.of(splits, encoder)
        baselines = {
            "group_mean": group_mean(usecase, splits.train, splits.test),
            "hist_gradient_boosting": hist_gradient_boosting(usecase, encoder, splits.train, splits.test),
        }
        bar.advance()
        packaged = _judge(usecase, files, judged_on, baselines)
        bar.advance()
        section = None
        if variant is not None:
            lighter = compressed(usecase, variant, files, splits.train, bar.advance)
            smaller = _judge(usecase, lighter, judged_on, baselines)
            section = choose(usecase, variant, packaged.standing(judged_on), smaller.standing(judged_on))
            if section["packaged"]:
                _keep_full(folder, files)
                packaged = smaller
            bar.advance()
        metrics = {**packaged.metrics, "gate": packaged.decision.to_json()}
        if section is not None:
            metrics["variant"] = section
        found = {**packaged.files, **_described(usecase, features_path, encoder, splits)}
        found["novelty.json"], metrics["novelty"] = _novelty(usecase, encoder, judged_on)
        found["metrics.json"] = dump_json(metrics)
        bar.advance()
        # The configuration says whose weights come next; see _read_fit.
        for name in sorted(found):
            write_file(folder / name, found[name])
        bar.advance()
    if section is not None:
        note(outcome(metrics))
    return Evaluation(folder, metrics, packaged.decision)


@dataclass(frozen=True)
class _JudgedOn:
    """The splits, and two of them as the model reads them; a variant of it reads them alike."""

    splits: Splits
    validate: Batch
    test: Batch

    @classmethod
    def of(cls, splits: Splits, encoder: Encoder) -> _JudgedOn:
        validate, test = (encoder.encode(rows.columns, strict=False) for rows in (splits.validate, splits.test))
        return cls(splits, validate, test)


@dataclass(frozen=True)
class _Judged:
    """A calibrated model and what was found of it."""

    files: dict[str, bytes]
    metrics: dict[str, Any]
    decision: Decision

    def standing(self, on: _JudgedOn) -> Standing:
        rows = on.splits.validate
        found = score(rows.positive, rows.label, _forecast(Predictor.from_files(self.files), on.validate))
        return Standing(found, self.metrics["model"], self.decision, len(self.files["model.safetensors"]))


def _judge(usecase: UseCase, fitted: Mapping[str, bytes], on: _JudgedOn, baselines: Mapping[str, Forecast]) -> _Judged:
    """Calibrate on the validation split what a fit or a compression left, and report on the test split."""
    files = dict(fitted)
    calibration, conformal = _calibrate(usecase, Predictor.uncalibrated(files), on)
    files["config.json"] = _with_calibration(files["config.json"], calibration)
    files["conformal.json"] = dump_json(conformal.to_json())
    forecast = _forecast(Predictor.from_files(files), on.test)
    metrics = _report(usecase, on.splits, {_MODEL: forecast, **baselines})
    return _Judged(files, metrics, decide(usecase, metrics))


def _described(usecase: UseCase, features_path: str | Path, encoder: Encoder, splits: Splits) -> dict[str, bytes]:
    """The files that are alike for a full model and its variant."""
    return {
        "signature.json": dump_json(signature(usecase, encoder, splits.train)),
        "features.json": dump_json(_features(usecase, features_path)),
        "background.parquet": background(usecase.columns(), splits.train, BACKGROUND_ROWS, usecase.training.seed),
    }


#: What a model package takes from the folder; lineage, manifest and signature are the registry's.
PACKAGE_FILES = (
    "model.safetensors",
    "config.json",
    "signature.json",
    "features.json",
    "background.parquet",
    "conformal.json",
    "metrics.json",
    "novelty.json",
)


def package_files(model_dir: str | Path) -> dict[str, bytes]:
    """The bytes of `PACKAGE_FILES`.

    Raises:
        NotFoundError: one is absent: the model was not evaluated.
    """
    folder = Path(model_dir)
    absent = [name for name in PACKAGE_FILES if not (folder / name).is_file()]
    if absent:
        raise NotFoundError(f"there is no {absent[0]}.", where=str(folder), fix="Run the evaluate step first.")
    return {name: (folder / name).read_bytes() for name in PACKAGE_FILES}


_FITTED = ("model.safetensors", "config.json")
#: Where the full model's files lie when a variant of it has taken their place.
_FULL = "full"


def _read_fit(folder: Path) -> dict[str, bytes]:
    config = folder / "config.json"
    if config.is_file() and "variant_of" in _document(config):
        folder = folder / _FULL
    absent = [name for name in _FITTED if not (folder / name).is_file()]
    if absent:
        raise NotFoundError(f"there is no {absent[0]}.", where=str(folder), fix="Run the train step first.")
    return {name: (folder / name).read_bytes() for name in _FITTED}


def _document(config: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(config.read_bytes())
    except orjson.JSONDecodeError as error:
        raise IntegrityError(f"not JSON: {error}.", where=str(config), fix="Run the train step again.") from error
    return found


def _keep_full(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in _FITTED:
        write_file(folder / _FULL / name, files[name])


def _calibrate(usecase: UseCase, predictor: Predictor, on: _JudgedOn) -> tuple[Platt, Conformal]:
    raw, rows = predictor.raw(on.validate), on.splits.validate
    conformal = Conformal.fit(rows.label, (raw.lower, raw.upper), usecase.gate.coverage, raw.logit)
    return Platt.fit(raw.logit, rows.positive), conformal


def _with_calibration(content: bytes, calibration: Platt) -> bytes:
    return dump_json({**orjson.loads(content), "calibration": calibration.to_json()})


def _forecast(predictor: Predictor, batch: Batch) -> Forecast:
    found = predictor.predict(batch)
    return Forecast(found.probability, found.value, found.lower, found.upper)


def _report(usecase: UseCase, splits: Splits, forecasts: Mapping[str, Forecast]) -> dict[str, Any]:
    found = report(splits.test, forecasts, usecase.gate.slices)
    baselines = [name for name in forecasts if name != _MODEL]
    return {
        "split": "test",
        "rows": {"train": len(splits.train), "validate": len(splits.validate), "test": len(splits.test)},
        "model": found[_MODEL]["overall"],
        "slices": found[_MODEL]["slices"],
        "baselines": {name: found[name]["overall"] for name in baselines},
        "baseline_slices": {name: found[name]["slices"] for name in baselines},
    }


def _novelty(usecase: UseCase, encoder: Encoder, on: _JudgedOn) -> tuple[bytes, dict[str, Any]]:
    """The package's file, and how many of the test rows are unusual by it."""
    train = encoder.encode(novelty.spaced(on.splits.train).columns, strict=False)
    found = novelty.fit(train, novelty.spaced(on.validate))
    level = usecase.serving.novelty_level
    share = float((found.scores(on.test) > found.threshold(level)).mean())
    return dump_json(found.to_json()), {"level": level, "held_out_rows": found.rows, "share_of_test_rows": share}


def _features(usecase: UseCase, features_path: str | Path) -> dict[str, Any]:
    return {
        # The table's folder is called by its fingerprint.
        "fingerprint": str(features_path).rstrip("/").rsplit("/", 1)[-1],
        "definitions": dump(usecase)["features"],
        "columns": [
            {"name": column.name, "role": column.role, "definition": column.definition} for column in usecase.columns()
        ],
    }
