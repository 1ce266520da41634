"""All metrics of the report, for the whole split and slice by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fasttrack.models.batch import Array
from fasttrack.training.data import Rows
from fasttrack.training.scores import auc, average_precision, log_loss, mae

Scores = dict[str, float | None]

#: Digits kept in reports: more would show the order of summation, which differs between machines.
_DIGITS = 6
_BINS = 10


@dataclass(frozen=True)
class Forecast:
    """What a model or baseline says about B rows; the interval may be absent. Value and interval in label units."""

    probability: Array
    value: Array
    lower: Array | None = None
    upper: Array | None = None

    def take(self, index: Array) -> Forecast:
        """The rows at `index`."""
        ends = [None if end is None else end[index] for end in (self.lower, self.upper)]
        return Forecast(self.probability[index], self.value[index], *ends)


def brier(positive: Array, probability: Array) -> float:
    """Mean squared error of the probability."""
    return float(((np.asarray(probability, np.float64) - np.asarray(positive, np.float64)) ** 2).mean())


def calibration_error(positive: Array, probability: Array, bins: int = _BINS) -> float:
    """Expected calibration error: mean distance of rate and mean probability over bins of equal width, by rows."""
    p, truth = np.asarray(probability, np.float64), np.asarray(positive, np.float64)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=truth - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def rmse(label: Array, value: Array) -> float:
    """Root of the mean squared error, in label units."""
    return float(np.sqrt(((np.asarray(label, np.float64) - np.asarray(value, np.float64)) ** 2).mean()))


def score(positive: Array, label: Array, forecast: Forecast) -> Scores:
    """Every metric by name; None where it isn't defined (AUC of one class, coverage without intervals)."""
    found: dict[str, float] = {
        "auc": auc(positive, forecast.probability),
        "average_precision": average_precision(positive, forecast.probability),
        "log_loss": log_loss(positive, forecast.probability),
        "brier": brier(positive, forecast.probability),
        "calibration_error": calibration_error(positive, forecast.probability),
        "mae": mae(label, forecast.value),
        "rmse": rmse(label, forecast.value),
    }
    if forecast.lower is not None and forecast.upper is not None:
        found["interval_coverage"] = float(((label >= forecast.lower) & (label <= forecast.upper)).mean())
        found["interval_width"] = float((forecast.upper - forecast.lower).astype(np.float64).mean())
    return {name: round(value, _DIGITS) if math.isfinite(value) else None for name, value in found.items()}


def score_slices(rows: Rows, forecast: Forecast, slices: tuple[str, ...]) -> dict[str, dict[str, Scores]]:
    """By slice column and value: ``rows``, ``positive_rate`` and every metric; missing values are no slice."""
    found: dict[str, dict[str, Scores]] = {}
    for column in slices:
        values = rows.columns[column]
        found[column] = {}
        for value in sorted({value for value in values.tolist() if value is not None}):
            index = np.flatnonzero(values == value)
            positive = rows.positive[index]
            scores = score(positive, rows.label[index], forecast.take(index))
            rate = round(float(positive.mean()), _DIGITS)
            found[column][value] = {"rows": float(len(index)), "positive_rate": rate, **scores}
    return found


def report(rows: Rows, forecasts: Mapping[str, Forecast], slices: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """By forecast name: ``overall`` scores and ``slices``."""
    return {
        name: {
            "overall": score(rows.positive, rows.label, forecast),
            "slices": score_slices(rows, forecast, slices),
        }
        for name, forecast in forecasts.items()
    }
