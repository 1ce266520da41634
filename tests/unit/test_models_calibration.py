from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import DataQualityError
from fasttrack.models.calibration import Conformal, Platt, sigmoid


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.8, 0.9]), st.booleans(), st.booleans())
def test_intervals_cover_exchangeable_rows(seed: int, coverage: float, wide: bool, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    count = 4000
    value = rng.normal(0, 10, 2 * count)
    label = value + rng.standard_t(3, 2 * count) * (1 + np.abs(value))
    spread = (30.0 if wide else 0.1) * (1 + np.abs(value) / 10)
    logit = value / 5
    first, second = slice(0, count), slice(count, None)
    low, high = value - spread, value + spread
    conformal = Conformal.fit(label[first], (low[first], high[first]), coverage, logit[first] if grouped else None)
    assert len(conformal.margins) == (8 if grouped else 0)
    lower, upper = conformal.apply(value[second], (low[second], high[second]), logit[second])
    covered = ((label[second] >= lower) & (label[second] <= upper)).mean()
    # Six standard deviations of a binomial whose share itself is only known from as many rows: of all the seeds that
    # may be drawn, a few are beyond four.
    assert abs(covered - coverage) < 6 * np.sqrt(2 * coverage * (1 - coverage) / count)
    assert (lower <= value[second]).all()
    assert (value[second] <= upper).all()


def test_the_average_coverage_over_many_small_calibrations_is_at_least_nominal() -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(4000):
        label = rng.normal(size=20)
        zero = np.zeros(19)
        conformal = Conformal.fit(label[:19], (zero - 0.5, zero + 0.5), 0.9)
        lower, upper = conformal.apply(np.zeros(1), (np.full(1, -0.5), np.full(1, 0.5)), np.zeros(1))
        covered.append(bool(lower[0] <= label[19] <= upper[0]))
    # ceil(20 * 0.9) / 20 = 0.9 exactly, plus what stretching to the value adds; 3 standard deviations of 4,000 draws.
    assert np.mean(covered) >= 0.9 - 3 * np.sqrt(0.09 / 4000)


def test_a_season_with_more_risky_rows_keeps_its_coverage() -> None:
    rng = np.random.default_rng(8)
    logit = np.concatenate([rng.uniform(-2, 0, 9000), rng.uniform(0, 2, 1000)])
    label = rng.normal(size=10_000) * np.where(logit > 0, 10.0, 1.0)
    ends = (np.full(10_000, -1.0), np.full(10_000, 1.0))
    risky = np.flatnonzero(logit > 0)
    covered = {}
    for name, by in (("pooled", None), ("grouped", logit)):
        lower, upper = Conformal.fit(label, ends, 0.9, by).apply(np.zeros(10_000), ends, logit)
        covered[name] = ((label >= lower) & (label <= upper))[risky].mean()
    assert covered["pooled"] < 0.6
    assert covered["grouped"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("logit", [None, np.zeros(8)])
def test_too_few_rows_for_an_interval_are_refused(logit: np.ndarray | None) -> None:
    few = np.zeros(8)
    with pytest.raises(DataQualityError, match="too few"):
        Conformal.fit(few, (few, few), 0.9, logit)


def test_equal_logits_leave_one_group() -> None:
    label = np.arange(5000.0)
    conformal = Conformal.fit(label, (np.zeros(5000), np.zeros(5000)), 0.9, np.zeros(5000))
    lower, upper = conformal.apply(np.zeros(3), (np.zeros(3), np.zeros(3)), np.array([-1.0, 0.0, 1.0]))
    assert (upper >= 4500).all()
    assert (lower <= 0).all()


def test_platt_recovers_a_known_distortion_and_keeps_the_order() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 2, 40_000)
    positive = rng.random(40_000) < sigmoid(truth)
    distorted = (truth - 1.0) / 0.5
    platt = Platt.fit(distorted, positive)
    assert platt.slope == pytest.approx(0.5, abs=0.03)
    assert platt.intercept == pytest.approx(1.0, abs=0.06)
    assert (np.diff(platt.apply(np.sort(distorted))) >= 0).all()


@pytest.mark.parametrize("positive", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_platt_stays_finite_and_increasing_on_separable_rows(positive: list[int]) -> None:
    platt = Platt.fit(np.array([-9.0, -8.0, 8.0, 9.0]), np.array(positive))
    assert np.isfinite([platt.slope, platt.intercept]).all()
    assert platt.slope > 0


def test_both_survive_json() -> None:
    platt = Platt(0.7, -0.2)
    assert Platt.from_json(platt.to_json()) == platt
    for conformal in (Conformal(0.9, 3.5, 100), Conformal(0.9, 3.5, 1000, (0.5,), (1.0, -2.0))):
        assert Conformal.from_json(conformal.to_json()) == conformal


def test_margins_that_do_not_belong_to_the_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="don't belong"):
        Conformal.from_json({**Conformal(0.9, 3.5, 100).to_json(), "margins": [1.0, 2.0]})


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(sigmoid(np.array([-800.0, 0.0, 800.0])), [0.0, 0.5, 1.0], atol=1e-12)
