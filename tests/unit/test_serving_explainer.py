"""The explainer server's model in this process: methods, names, and what a deadline does."""

from __future__ import annotations

import asyncio
import time

import pytest

from fasttrack.errors import DeadlineError, InvalidRequestError
from fasttrack.models.threads import single_thread
from fasttrack.serving.explainer import ExplainerModel
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.trace import RequestContext, enter
from tests.integration import serving_package


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def built(one_thread, tmp_path_factory):
    return serving_package.build(tmp_path_factory.mktemp("package"), count=300, steps=5)


@pytest.fixture(scope="module")
def model(built):
    made = ExplainerModel("flights", ServedPackage.open(built.path, built.verify_key), None)
    made._prepare()
    yield made
    asyncio.run(made.close())


def ask(model, body, milliseconds=None):
    async def run():
        enter(RequestContext.read({} if milliseconds is None else {"x-request-deadline-ms": str(milliseconds)}))
        return await model.explain(body)

    return asyncio.run(run())


class Slow:
    """Takes a fifth of a second a part, of which there are ten."""

    def __init__(self):
        self.parts = 0

    def explain(self, row, values, check):
        for _ in range(10):
            check()
            self.parts += 1
            time.sleep(0.2)


@pytest.fixture
def slow(model, monkeypatch):
    found = Slow()
    monkeypatch.setitem(model._explainers, "shap", found)
    return found


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_each_named_feature_is_explained_once(model, built, method):
    row = serving_package.raw_row(built, 0)
    (found,) = ask(model, {"instances": [row], "method": method})["explanations"]
    names = [a["feature"] for a in found["attributions"]]
    assert sorted(names) == sorted(column.name for column in built.usecase.columns())
    if method == "shap":
        assert found["base_value"] + sum(a["contribution"] for a in found["attributions"]) == pytest.approx(
            found["prediction"], abs=1e-6
        )


def test_what_can_not_be_ready_is_refused_before_it_is_begun(model, built, slow, monkeypatch):
    monkeypatch.setitem(model._fastest, "shap", 1.0)
    with pytest.raises(DeadlineError, match=r"1 explanations by shap take 1000\.0 ms"):
        ask(model, {"instances": [serving_package.raw_row(built, 0)]}, 900)
    assert slow.parts == 0


def test_all_rows_of_a_request_have_to_fit(model, built, monkeypatch):
    monkeypatch.setitem(model._fastest, "shap", 1.0)
    rows = [serving_package.raw_row(built, index) for index in range(4)]
    with pytest.raises(DeadlineError, match="4 explanations"):
        ask(model, {"instances": rows}, 3500)
    assert len(ask(model, {"instances": rows}, 60_000)["explanations"]) == 4


def test_work_ends_soon_after_the_deadline(model, built, slow, monkeypatch):
    monkeypatch.setitem(model._fastest, "shap", 0.001)
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="has passed"):
        ask(model, {"instances": [serving_package.raw_row(built, 0)]}, 300)
    assert 1 <= slow.parts <= 2
    assert time.monotonic() - started < 1.5


def test_what_waited_too_long_for_others_is_not_begun(model, built, slow, monkeypatch):
    monkeypatch.setitem(model._fastest, "shap", 0.001)
    row = serving_package.raw_row(built, 0)

    async def one(milliseconds):
        enter(RequestContext.read({"x-request-deadline-ms": str(milliseconds)}))
        return await model.explain({"instances": [row]})

    async def both():
        return await asyncio.gather(
            asyncio.create_task(one(1000)), asyncio.create_task(one(100)), return_exceptions=True
        )

    first, second = asyncio.run(both())
    assert isinstance(first, DeadlineError)
    assert isinstance(second, DeadlineError)
    # All of the parts are the first one's.
    assert slow.parts <= 6


def test_a_fast_explanation_lowers_what_is_taken_for_possible(model, built, monkeypatch):
    monkeypatch.setitem(model._fastest, "shap", 100.0)
    ask(model, {"instances": [serving_package.raw_row(built, 0)]})
    assert model._fastest["shap"] < 5


def test_an_unknown_method_is_refused(model, built):
    with pytest.raises(InvalidRequestError, match="magic"):
        ask(model, {"instances": [serving_package.raw_row(built, 0)], "method": "magic"})
