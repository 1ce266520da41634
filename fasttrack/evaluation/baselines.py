"""Baselines in the same report: a group's mean, and gradient-boosted trees on the same features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fasttrack.evaluation.metrics import Forecast
from fasttrack.models.batch import Array
from fasttrack.models.encoding import Encoder
from fasttrack.training.data import Rows
from fasttrack.usecase import UseCase

# scikit-learn's limit on the codes of a native category.
_MAX_CATEGORIES = 254


def group_mean(usecase: UseCase, train: Rows, test: Rows) -> Forecast:
    """Rate and mean of the first slice column's group (all rows together without one, or for a new group)."""
    rate, mean = float(train.positive.mean()), float(train.label.mean())
    probability, value = np.full(len(test), rate), np.full(len(test), mean)
    if usecase.gate.slices:
        column = usecase.gate.slices[0]
        groups = train.columns[column]
        for group in sorted({group for group in groups.tolist() if group is not None}):
            learnt, asked = groups == group, test.columns[column] == group
            probability[asked], value[asked] = train.positive[learnt].mean(), train.label[learnt].mean()
    return Forecast(probability, value)


def hist_gradient_boosting(usecase: UseCase, encoder: Encoder, train: Rows, test: Rows) -> Forecast:
    """scikit-learn's defaults, same columns: categories native, each event of the sequence as columns of its own."""
    # Imported here: only this baseline needs scikit-learn.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    learn, native = _matrix(usecase, encoder, train)
    asked, _ = _matrix(usecase, encoder, test)
    # A column without any value in training teaches nothing, and the library's binning fails on it.
    filled = ~np.isnan(learn).all(axis=0)
    learn, asked = learn[:, filled], asked[:, filled]
    options = {
        "categorical_features": np.asarray(native)[filled],
        "early_stopping": False,
        "random_state": usecase.training.seed,
    }

    def classify() -> Array:
        with threadpool_limits(1, user_api="openmp"):
            fitted = HistGradientBoostingClassifier(**options).fit(learn, train.positive)
            found: Array = fitted.predict_proba(asked)[:, 1]
            return found

    def regress() -> Array:
        with threadpool_limits(1, user_api="openmp"):
            found: Array = HistGradientBoostingRegressor(**options).fit(learn, train.label).predict(asked)
            return found

    # Each on one OpenMP thread, side by side: OpenMP's barriers cost minutes on a machine that is busy otherwise, and
    # sums split over threads would depend on their number.
    with ThreadPoolExecutor(2) as pool:
        probability, value = pool.submit(classify), pool.submit(regress)
        return Forecast(probability.result(), value.result())


def _matrix(usecase: UseCase, encoder: Encoder, rows: Rows) -> tuple[Array, list[bool]]:
    """Columns as trees like them: raw numbers with NaN for missing, category codes; and which are codes."""
    codes = {column.name: {word: code for code, word in enumerate(column.words)} for column in encoder.category}
    parts: list[Array] = []
    native: list[bool] = []
    for column in usecase.columns():
        values = rows.columns[column.name]
        if column.role == "category":
            known = codes[column.name]
            parts.append(np.array([known.get(word, np.nan) for word in values.tolist()], np.float32)[:, None])
            native.append(len(known) <= _MAX_CATEGORIES)
        else:
            parts.append(values.reshape(len(rows), -1))
            native.extend([False] * parts[-1].shape[1])
    return np.concatenate(parts, axis=1), native
