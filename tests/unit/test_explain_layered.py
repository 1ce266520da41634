"""Networks of all architectures, seen from their first layer: the same model, named feature by named feature."""

from __future__ import annotations

import numpy as np
import pytest

from fasttrack.explain.batched_shap import BatchedShap
from fasttrack.explain.layered import LayeredModel
from fasttrack.explain.long_run import long_run, relative_error
from fasttrack.models.inference import Predictor
from fasttrack.models.threads import single_thread
from fasttrack.registry import package
from tests.integration import serving_package


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module", params=["mlp", "lstm", "transformer"])
def built(one_thread, request, tmp_path_factory):
    return serving_package.build(tmp_path_factory.mktemp("package"), request.param, count=600, steps=25)


@pytest.fixture(scope="module")
def model(built):
    return LayeredModel(Predictor.from_files(package.load_verified(built.path, built.verify_key.read_bytes())))


@pytest.fixture(scope="module")
def rows(built, model):
    return model.encoded.flatten(model.encoded.encoder.encode(built.rows.columns))


def test_it_predicts_what_the_network_predicts(model, rows):
    found = model.probability(model.shares(rows[:200]).sum(dim=1) + model.bias).numpy()
    np.testing.assert_allclose(found, model.encoded.predict(rows[:200]), atol=2e-6)


def test_a_share_changes_with_its_own_feature_only(model, rows):
    """Also of categories (one embedding), of numbers with bins and indicator, and of the sequence with its length."""
    owner = model.encoded.space.owner
    for feature, name in enumerate(model.names):
        changed = rows[:40].copy()
        changed[:, owner == feature] = rows[40:80][:, owner == feature]
        differs = (model.shares(changed) != model.shares(rows[:40])).any(dim=2).numpy()
        others = np.arange(len(model.names)) != feature
        assert not differs[:, others].any(), name
        assert differs[:, feature].any(), name


def test_the_names_are_those_of_the_use_case(built, model):
    assert sorted(model.names) == sorted(column.name for column in built.usecase.columns())


def test_estimates_are_near_to_a_long_run(model, rows):
    explainer = BatchedShap(model, rows[:200])
    errors = []
    for row in rows[-3:]:
        truth, _ = long_run(model, explainer.background, row, permutations=16)
        errors.append(relative_error(explainer.contributions(row)[1], truth))
    assert np.median(errors) < 0.06
