from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from fasttrack.evaluation.baselines import group_mean, hist_gradient_boosting
from fasttrack.evaluation.metrics import Forecast, calibration_error, score, score_slices
from tests.unit.learning_table import encoded


def test_scores_equal_scikit_learn_s() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(800).astype(np.float32)
    positive = rng.random(800) < p
    label, value = rng.normal(size=800), rng.normal(size=800)
    found = score(positive, label, Forecast(p, value, value - 1, value + 1))
    expected = {
        "auc": reference.roc_auc_score(positive, p),
        "average_precision": reference.average_precision_score(positive, p),
        "log_loss": reference.log_loss(positive, p.astype(np.float64)),
        "brier": reference.brier_score_loss(positive, p),
        "mae": reference.mean_absolute_error(label, value),
        "rmse": reference.root_mean_squared_error(label, value),
        "interval_coverage": float((np.abs(label - value) <= 1).mean()),
        "interval_width": 2.0,
    }
    for name, number in expected.items():
        assert found[name] == pytest.approx(number, abs=2e-6), name


def test_calibration_error_by_hand() -> None:
    # Ten rows said 0.25 of which half came true, ten rows said 0.95 of which all came true.
    p = np.array([0.25] * 10 + [0.95] * 10)
    positive = np.array([1, 0] * 5 + [1] * 10)
    assert calibration_error(positive, p) == pytest.approx((0.25 * 10 + 0.05 * 10) / 20)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0.0


def test_what_is_not_defined_is_none() -> None:
    found = score(np.zeros(5), np.zeros(5), Forecast(np.full(5, 0.1), np.zeros(5)))
    assert found["auc"] is None
    assert found["average_precision"] is None
    assert "interval_coverage" not in found
    assert found["mae"] == 0.0


def test_slices_add_up(tmp_path: Path) -> None:
    _, rows, _ = encoded(tmp_path)
    forecast = Forecast(np.linspace(0, 1, len(rows)), rows.label + 1)
    found = score_slices(rows, forecast, ("depot", "courier"))
    assert sum(slice_["rows"] or 0 for slice_ in found["depot"].values()) == len(rows)
    missing = sum(word is None for word in rows.columns["courier"].tolist())
    assert missing > 0
    assert sum(slice_["rows"] or 0 for slice_ in found["courier"].values()) == len(rows) - missing
    east = rows.columns["depot"] == "east"
    assert found["depot"]["east"]["auc"] == score(rows.positive[east], rows.label[east], forecast.take(east))["auc"]


def test_group_mean_by_hand(tmp_path: Path) -> None:
    usecase, rows, _ = encoded(tmp_path)
    train, test = rows.take(np.arange(300)), rows.take(np.arange(300, len(rows)))
    found = group_mean(usecase, train, test)
    for depot in ("east", "west"):
        learnt, asked = train.columns["depot"] == depot, test.columns["depot"] == depot
        assert found.value[asked] == pytest.approx(train.label[learnt].mean())
        assert found.probability[asked] == pytest.approx(train.positive[learnt].mean())


def test_a_group_that_training_never_saw_gets_the_mean_of_all(tmp_path: Path) -> None:
    usecase, rows, _ = encoded(tmp_path)
    east = rows.take(rows.columns["depot"] == "east")
    west = rows.take(rows.columns["depot"] == "west")
    assert group_mean(usecase, east, west).value == pytest.approx(east.label.mean())


def test_boosted_trees_learn_and_repeat(tmp_path: Path) -> None:
    usecase, rows, encoder = encoded(tmp_path, 1500)
    train, test = rows.take(np.arange(1000)), rows.take(np.arange(1000, len(rows)))
    first, second = (hist_gradient_boosting(usecase, encoder, train, test) for _ in range(2))
    np.testing.assert_array_equal(first.probability, second.probability)
    assert (score(test.positive, test.label, first)["auc"] or 0) > 0.85


def test_boosted_trees_do_without_a_column_that_is_missing_throughout(tmp_path: Path) -> None:
    usecase, rows, encoder = encoded(tmp_path, 1500)
    train, test = rows.take(np.arange(1000)), rows.take(np.arange(1000, len(rows)))
    name = next(column.name for column in usecase.columns() if column.role == "numeric")
    train.columns[name][:] = np.nan
    found = hist_gradient_boosting(usecase, encoder, train, test)
    assert np.isfinite(found.probability).all() and np.isfinite(found.value).all()
