"""Predictor and explainer as processes over an int8 package: they give the numbers of what was evaluated."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from fasttrack.models.inference import Predictor
from fasttrack.models.int8 import computes_integers
from fasttrack.settings import Settings
from tests.integration import serving_package as made
from tests.integration.gateway_redis import redis_server
from tests.integration.serving_processes import NAME, post, started, wait_ready

OUTPUTS = ("probability", "value", "lower", "upper")
DATATYPES = {"numeric": "FP32", "categorical": "INT64", "sequence": "FP32", "length": "INT64"}


@pytest.fixture(scope="module", params=["mlp", "lstm"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variant")
    built = made.build(folder / "package", request.param, quantization="int8")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        online = Settings(lake=str(folder / "lake"), redis=redis.url)
        settings = {**online.to_environment(), "FASTTRACK_VERIFY_KEY": str(built.verify_key)}
        predictor = stack.enter_context(started("predictor", built.path, settings, folder, "--model_version", "7"))
        usecase = ("--usecase", str(made.USECASE_FILE))
        explainer = stack.enter_context(started("explainer", built.path, settings, folder, *usecase))
        wait_ready(predictor)
        wait_ready(explainer)
        oracle = Predictor.from_files({path.name: path.read_bytes() for path in built.path.iterdir()})
        assert computes_integers(oracle.network)
        yield built, predictor, explainer, oracle


def inputs(batch):
    return [
        {"name": name, "datatype": DATATYPES[name], "shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, array in batch.tensors().items()
    ]


@pytest.mark.parametrize("count", [1, 20])
def test_v2_gives_the_numbers_of_the_evaluations_predictor(served, count):
    built, predictor, _, oracle = served
    batch = oracle.encoder.encode_rows([made.raw_row(built, index) for index in range(count)])
    status, document, _ = post(f"{predictor.url}/v2/models/{NAME}/infer", {"inputs": inputs(batch)})
    assert status == 200, document
    expected = oracle.predict(batch)
    found = {output["name"]: output["data"] for output in document["outputs"]}
    for name in OUTPUTS:
        np.testing.assert_allclose(np.asarray(found[name], np.float32), getattr(expected, name), rtol=1e-6)


@pytest.mark.parametrize("method", ["shap", "permutation"])
def test_an_explanation_adds_up_to_what_the_predictor_serves(served, method):
    built, predictor, explainer, oracle = served
    row = made.raw_row(built, 3)
    asked = {"inputs": inputs(oracle.encoder.encode_rows([row]))}
    document = post(f"{predictor.url}/v2/models/{NAME}/infer", asked)[1]
    answered = next(output["data"][0] for output in document["outputs"] if output["name"] == "probability")
    body = {"instances": [row], "method": method, "top": len(built.usecase.columns())}
    status, explained, _ = post(f"{explainer.url}/v1/models/{NAME}:explain", body)
    assert status == 200, explained
    (found,) = explained["explanations"]
    assert found["prediction"] == pytest.approx(answered, abs=1e-6)
    total = found["base_value"] + sum(each["contribution"] for each in found["attributions"])
    assert total == pytest.approx(answered, abs=1e-6)
