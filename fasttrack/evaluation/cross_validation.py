"""Cross-validation that respects time: learn from the past, be tested on what came next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fasttrack.evaluation.metrics import Forecast, Scores, score
from fasttrack.models.calibration import sigmoid
from fasttrack.models.inference import Predictor
from fasttrack.progress import track
from fasttrack.training.artifacts import model_files
from fasttrack.training.data import folds, load_splits
from fasttrack.training.loop import train
from fasttrack.training.module import Plan
from fasttrack.training.prepare import prepare
from fasttrack.usecase import UseCase


@dataclass(frozen=True)
class CrossValidation:
    """Scores of each fold, oldest first, and their mean and standard deviation by metric."""

    folds: list[Scores]
    mean: dict[str, float]
    deviation: dict[str, float]


def cross_validate(
    usecase: UseCase,
    features_path: str | Path,
    architecture: str,
    parameters: Mapping[str, Any],
    *,
    count: int | None = None,
    sample: float | None = None,
) -> CrossValidation:
    """Fit and test on expanding windows of the training split; the epochs are those of tuning, without early stopping.

    Nothing is chosen on a fold's test rows, so its scores are honest.

    Args:
        usecase: the use case.
        features_path: the feature table.
        architecture: candidate.
        parameters: its hyperparameters.
        count: folds; default ``usecase.tuning.folds``, at least 2.
        sample: share of the training rows; default ``usecase.tuning.sample``.

    Raises:
        DataQualityError: a fold has rows of one class only.
    """
    tuning = usecase.tuning
    splits = load_splits(usecase, features_path, tuning.sample if sample is None else sample, tuning.seed)
    pairs = folds(splits.train, max(2, tuning.folds) if count is None else count)
    plan = Plan(tuning.epochs, usecase.training.batch_size, 0, tuning.seed, "log_loss", usecase.gate.coverage)
    found: list[Scores] = []
    with track("Cross-validating", total=len(pairs), unit="folds") as bar:
        for learn, held_out in pairs:
            # The tail of the window says when to stop nothing (patience 0); it only lets the loop report its scores.
            prepared = prepare(usecase, learn, learn.take(np.arange(len(learn) // 2, len(learn))))
            trained = train(prepared, architecture, parameters, plan)
            predictor = Predictor.uncalibrated(model_files(trained, prepared, architecture, parameters))
            raw = predictor.raw(predictor.encoder.encode(held_out.columns, strict=False))
            forecast = Forecast(sigmoid(raw.logit), raw.value, raw.lower, raw.upper)
            found.append(score(held_out.positive, held_out.label, forecast))
            bar.advance()
    table = {
        name: np.array([np.nan if fold[name] is None else fold[name] for fold in found], float) for name in found[0]
    }
    return CrossValidation(
        found,
        {name: float(np.nanmean(values)) for name, values in table.items()},
        {name: float(np.nanstd(values)) for name, values in table.items()},
    )
