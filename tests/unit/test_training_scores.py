from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from fasttrack.training import scores


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60))
def test_ranking_scores_equal_scikit_learn_s_with_ties(pairs: list[tuple[bool, int]]) -> None:
    positive, score = np.array([p for p, _ in pairs]), np.array([s / 8 for _, s in pairs])
    if not positive.any():
        assert np.isnan(scores.average_precision(positive, score))
        return
    assert scores.average_precision(positive, score) == pytest.approx(metrics.average_precision_score(positive, score))
    if positive.all():
        assert np.isnan(scores.auc(positive, score))
    else:
        assert scores.auc(positive, score) == pytest.approx(metrics.roc_auc_score(positive, score))


def test_losses_equal_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    positive, p = rng.random(500) < 0.3, rng.random(500)
    label, value = rng.normal(size=500), rng.normal(size=500)
    assert scores.log_loss(positive, p) == pytest.approx(metrics.log_loss(positive, p))
    assert scores.mae(label, value) == pytest.approx(metrics.mean_absolute_error(label, value))


def test_a_certain_mistake_costs_much_but_not_infinity() -> None:
    assert 10 < scores.log_loss(np.array([1.0]), np.array([0.0])) < 20
