"""The batched SHAP estimator on models whose true values are known, by properties."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError, DeadlineError
from fasttrack.explain.batched_shap import BatchedShap, closed
from fasttrack.explain.coalitions import every, gradients
from fasttrack.explain.long_run import long_run, relative_error
from fasttrack.models.threads import single_thread

UNITS = 24


@dataclass
class Toy:
    """Columns of a row times weights (D, H), then any function of the sums."""

    weights: np.ndarray
    owner: np.ndarray
    function: object

    def __post_init__(self):
        self.names = tuple(f"f{i}" for i in range(self.owner.max() + 1))
        self.bias = torch.full((self.weights.shape[1],), 0.1)
        self.asked = 0

    def shares(self, rows):
        split = rows[:, None, :] * np.eye(len(self.names))[self.owner].T
        return torch.from_numpy((split @ self.weights).astype(np.float32))

    def inputs(self, rows):
        return torch.from_numpy(rows.astype(np.float32))

    def sums(self, inputs):
        return inputs @ torch.from_numpy(self.weights.astype(np.float32)) + self.bias

    def probability(self, sums):
        self.asked += len(sums)
        return self.function(sums)

    def predict(self, rows):
        return self.probability(self.shares(rows).sum(dim=1) + self.bias).double().numpy()


def curved(sums):
    return torch.sigmoid(torch.tanh(sums).sum(dim=1) / 2 + (sums[:, 0] * sums[:, 1]) / 4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_thread():
        yield


def toy(features, seed, function=curved, owner=None, scale=1.0):
    random = np.random.default_rng(seed)
    owner = np.arange(features) if owner is None else np.asarray(owner)
    weights = scale * random.normal(size=(len(owner), UNITS)) / np.sqrt(len(owner))
    return Toy(weights, owner, function), random.normal(size=(40, len(owner))), random.normal(size=len(owner))


def by_definition(model, background, row):
    """Shapley's formula, coalition by coalition."""
    features = len(model.names)

    def value(coalition):
        shown = np.isin(model.owner, list(coalition))
        return model.predict(np.where(shown, row, background)).mean()

    found = np.zeros(features)
    for i in range(features):
        others = [j for j in range(features) if j != i]
        for size in range(features):
            weight = factorial(size) * factorial(features - size - 1) / factorial(features)
            for chosen in combinations(others, size):
                found[i] += weight * (value({*chosen, i}) - value(set(chosen)))
    return found


@given(features=st.integers(1, 60), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_base_and_contributions_add_up_to_the_prediction(features, seed):
    model, background, row = toy(features, seed)
    found = BatchedShap(model, background).explain(row, [None] * features)
    total = found.base_value + sum(a.contribution for a in found.attributions)
    assert abs(total - found.prediction) < 1e-9
    assert found.prediction == pytest.approx(model.predict(row[None])[0], abs=1e-6)


@given(features=st.integers(1, 5), seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_few_features_are_explained_exactly(features, seed):
    model, background, row = toy(features, seed, scale=2.0)
    explainer = BatchedShap(model, background, background_rows=4)
    assert explainer.exact
    truth = by_definition(model, explainer.background, row)
    np.testing.assert_allclose(explainer.contributions(row)[1], truth, atol=2e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_group_of_columns_is_one_player(seed):
    model, background, row = toy(4, seed, owner=[0, 0, 0, 1, 1, 2, 3, 3], scale=2.0)
    explainer = BatchedShap(model, background, background_rows=4)
    truth = by_definition(model, explainer.background, row)
    np.testing.assert_allclose(explainer.contributions(row)[1], truth, atol=2e-6)


@given(features=st.integers(3, 50), seed=st.integers(0, 10_000), grouped=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_feature_that_changes_nothing_gets_exactly_nothing(features, seed, grouped):
    owner = [*range(features), *([0] if grouped else [])]
    model, background, row = toy(features, seed, owner=owner)
    model.weights[model.owner == 0] = 0
    row[model.owner == 1] = 5.0
    background[:, model.owner == 1] = 5.0
    found = BatchedShap(model, background).contributions(row)[1]
    assert found[0] == 0.0
    assert found[1] == 0.0


@given(features=st.integers(2, 7), seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_features_that_do_the_same_get_the_same(features, seed):
    model, background, row = toy(features, seed)
    model.weights[1] = model.weights[0]
    background[:, 1] = background[:, 0]
    row[1] = row[0]
    explainer = BatchedShap(model, background)
    assert explainer.exact
    found = explainer.contributions(row)[1]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_features_that_do_the_same_get_about_the_same_where_values_are_estimated():
    model, background, row = toy(40, 3)
    model.weights[1] = model.weights[0]
    background[:, 1] = background[:, 0]
    row[1] = row[0] = 2.0
    found = BatchedShap(model, background).contributions(row)[1]
    assert abs(found[0] - found[1]) < 0.1 * np.abs(found).max()


@given(features=st.integers(9, 60), seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_linear_model_has_its_closed_form(features, seed):
    model, background, row = toy(features, seed, lambda sums: sums.sum(dim=1))
    explainer = BatchedShap(model, background)
    assert not explainer.exact
    truth = model.weights.sum(axis=1) * (row - explainer.background.mean(axis=0))
    np.testing.assert_allclose(explainer.contributions(row)[1], truth, atol=2e-5)


@given(features=st.integers(9, 40), seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_interactions_of_pairs_are_halved(features, seed):
    model, background, row = toy(features, seed, lambda sums: (sums[:, 0] - 0.1) * (sums[:, 1] - 0.1))
    explainer = BatchedShap(model, background)
    assert not explainer.exact
    change = row - explainer.background
    mean = (row + explainer.background) / 2 @ model.weights[:, :2]
    truth = (change * (model.weights[:, 0] * mean[:, 1:] + model.weights[:, 1] * mean[:, :1])).mean(axis=0)
    np.testing.assert_allclose(explainer.contributions(row)[1], truth, atol=2e-5)


@pytest.mark.parametrize(("features", "most"), [(12, 0.07), (40, 0.05)])
def test_estimates_come_near_to_a_long_run_and_nearer_with_more_points(features, most):
    model, background, _ = toy(features, 5, scale=1.5)
    rows = np.random.default_rng(6).normal(size=(6, features))
    errors = {}
    kept = BatchedShap(model, background).background
    truths = [long_run(model, kept, row, permutations=96) for row in rows]
    assert all(np.linalg.norm(error) < 0.02 * np.linalg.norm(truth) for truth, error in truths)
    for pairs in (8, 24, 96):
        explainer = BatchedShap(model, background, pairs=pairs)
        known = zip(rows, truths, strict=True)
        errors[pairs] = np.median([relative_error(explainer.contributions(row)[1], truth) for row, (truth, _) in known])
    assert errors[24] < most
    assert errors[96] < errors[8]


def test_the_long_run_agrees_with_the_definition():
    model, background, row = toy(6, 8, scale=2.0)
    found, error = long_run(model, background[:4], row, permutations=256)
    truth = by_definition(model, background[:4], row)
    assert np.all(np.abs(found - truth) < 6 * error + 1e-6)
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(truth)


@given(background=st.integers(1, 20), features=st.integers(1, 60), pairs=st.integers(4, 40))
@settings(max_examples=30, deadline=None)
def test_points_are_balanced_and_have_the_moments_of_presence(background, features, pairs):
    drawn = gradients(background, features, pairs, 0)
    assert drawn.points.shape == drawn.weights.shape == (background, 2 * pairs, features)
    np.testing.assert_allclose(drawn.weights.sum(axis=1), 1 / background, rtol=1e-5)
    # The rule for a feature's own change integrates 1, z, z^2 and z^3 over [0, 1].
    for power in range(4):
        moment = (drawn.weights * (drawn.points.astype(float)) ** power).sum(axis=1)
        np.testing.assert_allclose(moment, 1 / (power + 1) / background, atol=1e-5)
    np.testing.assert_allclose(drawn.points.mean(axis=1), 0.5, atol=1e-6)


def test_points_vary_as_presence_does():
    points = gradients(200, 3, 40, 1).points
    assert points.var() == pytest.approx(0.25, abs=0.005)
    # Features are shown together: q is common to all of a point's features, and has variance 1/12.
    assert np.cov(points[..., 0].ravel(), points[..., 1].ravel())[0, 1] == pytest.approx(1 / 12, abs=0.01)


@given(features=st.integers(1, 10))
@settings(deadline=None)
def test_weights_of_all_coalitions_give_each_feature_all_or_nothing(features):
    found = every(features)
    # A game that is worth 1 when feature 0 is there gives it 1, and the others nothing.
    np.testing.assert_allclose(found.weights @ found.present[:, 0], np.eye(features)[0], atol=1e-12)
    np.testing.assert_allclose(found.weights @ np.ones(2**features), np.zeros(features), atol=1e-12)


def test_a_deadline_ends_the_work_between_chunks():
    model, background, row = toy(40, 2)
    explainer = BatchedShap(model, background)
    explainer.contributions(row)
    whole, model.asked = model.asked, 0
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise DeadlineError("the caller's deadline has passed.")

    with pytest.raises(DeadlineError):
        explainer.contributions(row, check)
    assert 0 < model.asked < 0.6 * whole


def test_the_same_row_gets_the_same_explanation_and_another_seed_another():
    model, background, row = toy(40, 2)
    first, second = (BatchedShap(model, background).contributions(row)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, BatchedShap(model, background, seed=1).contributions(row)[1])


def test_no_background_is_refused():
    model, background, _ = toy(4, 0)
    with pytest.raises(ConfigurationError, match="background"):
        BatchedShap(model, background[:0])


def test_a_gap_goes_to_where_the_contributions_are():
    np.testing.assert_allclose(closed(np.array([0.0, 3.0, -1.0]), 2.4), [0.0, 3.3, -0.9])
    np.testing.assert_allclose(closed(np.zeros(2), 0.5), [0.25, 0.25])
