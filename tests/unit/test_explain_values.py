"""SHAP and LIME on models whose true attributions are known."""

from __future__ import annotations

import numpy as np
import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.explain import FeatureSpace, stratified_background
from fasttrack.explain.alibi_anchors import anchor
from fasttrack.explain.importance import global_importance
from fasttrack.explain.lime_values import LimeExplainer
from fasttrack.explain.shap_values import ShapExplainer

FEATURES = 8
RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(FEATURES, FEATURES))
BACKGROUND = RANDOM.normal(size=(12, FEATURES))


def curved(rows):
    """A probability with interactions of every order."""
    return 1 / (1 + np.exp(-(0.3 * np.einsum("bi,ij,bj->b", rows, WEIGHTS, rows) + 0.5 * rows.sum(axis=1))))


def pairwise(rows):
    return 0.01 * np.einsum("bi,ij,bj->b", rows, WEIGHTS, rows)


def space(predict, owner=None, count=FEATURES):
    return FeatureSpace(tuple(f"f{i}" for i in range(count)), np.arange(FEATURES) if owner is None else owner, predict)


def exact(predict, row):
    from shap import explainers, maskers

    return explainers.ExactExplainer(predict, maskers.Independent(BACKGROUND, max_samples=12))(row[None]).values[0]


def test_shap_is_additive_to_rounding():
    explainer = ShapExplainer(space(curved), BACKGROUND, permutations=2)
    for row in RANDOM.normal(size=(20, FEATURES)):
        base, contributions = explainer.contributions(row)
        assert abs(base + contributions.sum() - curved(row[None])[0]) < 1e-9
        assert base == pytest.approx(curved(BACKGROUND).mean(), abs=1e-12)


def test_one_pair_of_permutations_is_exact_for_pairwise_interactions():
    row = RANDOM.normal(size=FEATURES)
    _, contributions = ShapExplainer(space(pairwise), BACKGROUND, permutations=1).contributions(row)
    np.testing.assert_allclose(contributions, exact(pairwise, row), atol=1e-12)


def test_shap_converges_to_the_exact_values():
    row = 1.3 * BACKGROUND[3]
    truth = exact(curved, row)
    error = {
        count: np.linalg.norm(
            ShapExplainer(space(curved), BACKGROUND, permutations=count).contributions(row)[1] - truth
        )
        / np.linalg.norm(truth)
        for count in (4, 256)
    }
    assert error[256] < 0.03
    assert error[256] < error[4]


def test_shap_of_a_group_is_the_shapley_value_of_the_group_as_one_player():
    owner = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    row = RANDOM.normal(size=FEATURES)
    grouped = space(curved, owner, 4)
    _, contributions = ShapExplainer(grouped, BACKGROUND, permutations=400).contributions(row)
    from itertools import permutations

    truth = np.zeros(4)
    orders = list(permutations(range(4)))
    for order in orders:
        present = np.zeros((5, 4), dtype=bool)
        for step, feature in enumerate(order, start=1):
            present[step:, feature] = True
        values = [curved(rows).mean() for rows in grouped.masked(present, row, BACKGROUND)]
        truth[list(order)] += np.diff(values) / len(orders)
    np.testing.assert_allclose(contributions, truth, atol=0.01)


def test_a_feature_that_equals_the_background_gets_nothing():
    background = BACKGROUND.copy()
    background[:, 2] = 5.0
    row = RANDOM.normal(size=FEATURES)
    row[2] = 5.0
    _, contributions = ShapExplainer(space(curved), background).contributions(row)
    assert contributions[2] == 0.0
    assert np.all(contributions[np.arange(FEATURES) != 2] != 0.0)


def test_a_row_of_the_only_background_row_has_no_contributions():
    base, contributions = ShapExplainer(space(curved), BACKGROUND[:1]).contributions(BACKGROUND[0])
    assert not contributions.any()
    assert base == curved(BACKGROUND[:1])[0]


def test_the_same_row_gets_the_same_explanation():
    explainer = ShapExplainer(space(curved), BACKGROUND)
    first = explainer.contributions(BACKGROUND[1])[1]
    explainer.contributions(BACKGROUND[2])
    np.testing.assert_array_equal(first, explainer.contributions(BACKGROUND[1])[1])


def test_attributions_are_ranked_and_cut():
    found = ShapExplainer(space(curved), BACKGROUND).explain(BACKGROUND[4], list(range(FEATURES)))
    sizes = [abs(a.contribution) for a in found.attributions]
    assert sizes == sorted(sizes, reverse=True)
    assert found.prediction == curved(BACKGROUND[4:5])[0]
    document = found.to_json(3)
    assert len(document["attributions"]) == 3
    assert set(document) == {"method", "base_value", "prediction", "attributions"}
    assert all(a.feature == f"f{a.value}" for a in found.attributions)


def test_global_importance_finds_the_features_that_matter():
    def two_features(rows):
        return 0.5 + 0.1 * rows[:, 5] - 0.01 * rows[:, 1]

    found = global_importance(ShapExplainer(space(two_features), BACKGROUND), BACKGROUND)
    assert list(found)[:2] == ["f5", "f1"]
    assert found["f5"] == pytest.approx(0.1 * np.abs(BACKGROUND[:, 5] - BACKGROUND[:, 5].mean()).mean())
    assert all(value == 0 for value in list(found.values())[2:])


def test_stratified_background_keeps_the_mean_prediction():
    rows = RANDOM.normal(size=(1000, FEATURES))
    picked = stratified_background(rows, curved, 16)
    assert picked.shape == (16, FEATURES)
    assert abs(curved(picked).mean() - curved(rows).mean()) < 0.01
    assert stratified_background(rows[:5], curved, 16) is not None
    assert len(stratified_background(rows[:5], curved, 16)) == 5


def test_lime_recovers_a_linear_model_of_categories():
    background = RANDOM.integers(0, 3, size=(300, FEATURES)).astype(float)

    def linear(rows):
        return 0.5 + 0.2 * (rows[:, 0] == 1) - 0.1 * (rows[:, 6] == 2)

    row = np.array([1.0, 0, 0, 0, 0, 0, 2, 0])
    found = LimeExplainer(space(linear), background).explain(row, row.tolist())
    by_name = {a.feature: a.contribution for a in found.attributions}
    assert [a.feature for a in found.attributions[:2]] == ["f0", "f6"]
    assert by_name["f0"] == pytest.approx(0.2, abs=0.01)
    assert by_name["f6"] == pytest.approx(-0.1, abs=0.01)
    assert all(abs(by_name[f"f{i}"]) < 0.01 for i in (1, 2, 3, 4, 5, 7))
    assert found.method == "lime"
    assert found.prediction == pytest.approx(0.6)


def test_lime_is_deterministic_and_keeps_a_value_that_the_background_has_not():
    background = RANDOM.normal(size=(300, FEATURES))

    def jump(rows):
        return 0.1 + 0.8 * (rows[:, 3] > 50)

    row = np.zeros(FEATURES)
    row[3] = 100.0
    explainer = LimeExplainer(space(jump), background)
    found = explainer.explain(row, row.tolist())
    assert found.prediction == pytest.approx(0.9)
    assert found.attributions[0].feature == "f3"
    assert found.attributions[0].contribution == pytest.approx(0.8, abs=0.02)
    assert found == explainer.explain(row, row.tolist())


def test_a_space_whose_columns_nobody_owns_is_refused():
    with pytest.raises(ConfigurationError, match="own"):
        FeatureSpace(("a", "b", "c"), np.array([0, 0, 1]), curved)


@pytest.mark.parametrize("kind", [ShapExplainer, LimeExplainer])
def test_no_background_is_refused(kind):
    with pytest.raises(ConfigurationError, match="background"):
        kind(space(curved), np.empty((0, FEATURES)))


def test_anchors_without_alibi_say_what_to_install():
    with pytest.raises(ConfigurationError, match="Business Source License") as caught:
        anchor(np.zeros(2), curved, np.zeros((3, 2)), ["a", "b"])
    assert "fasttrack[alibi]" in str(caught.value)
    assert "is not installed" in str(caught.value)


def test_an_alibi_that_lacks_something_is_not_called_absent(tmp_path, monkeypatch):
    (tmp_path / "alibi").mkdir()
    (tmp_path / "alibi/__init__.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="No module named 'a_module_that_nobody_has'"):
        anchor(np.zeros(2), curved, np.zeros((3, 2)), ["a", "b"])
