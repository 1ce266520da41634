"""The amortized explainer: trained beside a model, its files in the package, its error reported and recomputed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import orjson
import pytest

from fasttrack.errors import IntegrityError, InvalidRequestError
from fasttrack.explain import amortized_fit
from fasttrack.explain.amortized import NOTE, WEIGHTS, load
from fasttrack.explain.amortized_fit import errors, fit, prepared
from fasttrack.models.threads import single_thread
from fasttrack.registry import keys, package
from fasttrack.serving.explainer import ExplainerModel
from fasttrack.serving.package import ServedPackage
from tests.integration import serving_package


@dataclass
class Fitted:
    built: serving_package.Built
    files: dict
    batch: object
    made: dict
    shap: object
    background: np.ndarray

    def explainer(self):
        return load(self.shap, {**self.files, **self.made})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def fitted(one_thread, tmp_path_factory):
    built = serving_package.build(tmp_path_factory.mktemp("package"), count=1000, steps=25)
    files = package.load_verified(built.path, built.verify_key.read_bytes())
    shap, background = prepared(files)
    batch = shap.model.encoded.encoder.encode(built.rows.columns)
    return Fitted(built, files, batch, short(files, batch), shap, background)


def short(files, batch, rows=800, epochs=100):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortized_fit, "HELD_OUT", 6)
        patch.setattr(amortized_fit, "_PERMUTATIONS", 16)
        return fit(files, batch, epochs=epochs, rows=rows)


def test_contributions_add_up(fitted):
    explainer = fitted.explainer()
    for row in fitted.background[:20]:
        found = explainer.explain(row, [None] * len(explainer.model.names))
        total = found.base_value + sum(a.contribution for a in found.attributions)
        assert abs(total - found.prediction) < 1e-9
        assert found.prediction == pytest.approx(fitted.shap.explain(row, [None] * 56).prediction, abs=1e-6)
        assert found.base_value == fitted.shap.base


def test_the_reported_error_is_what_one_finds_again(fitted, monkeypatch):
    monkeypatch.setattr(amortized_fit, "HELD_OUT", 6)
    monkeypatch.setattr(amortized_fit, "_PERMUTATIONS", 16)
    reported = orjson.loads(fitted.made[NOTE])["error"]
    again = errors(fitted.shap, fitted.explainer(), fitted.background)
    for name in ("shap", "amortized"):
        assert again[name] == pytest.approx(reported[name])
    assert again["standard_error"] == pytest.approx(reported["standard_error"])
    assert reported["rows"] == 6
    assert reported["additivity"] < 1e-6
    assert reported["shap"]["median"] < reported["amortized"]["median"] < 0.7
    assert reported["amortized"]["median"] <= reported["amortized"]["p95"]


def test_it_learnt(fitted):
    """Better than saying the same of every row."""
    rows = fitted.background[-30:]
    truth = np.stack([fitted.shap.contributions(row)[1] for row in rows])
    explainer = fitted.explainer()
    found = np.stack([explainer.contributions(row)[1] for row in rows])
    assert np.linalg.norm(found - truth) < 0.5 * np.linalg.norm(truth - truth.mean(axis=0))


def test_background_rows_are_kept_out_of_training(fitted, monkeypatch):
    kept = {row.tobytes() for row in fitted.background}
    every = fitted.shap.model.encoded.flatten(fitted.batch)
    assert any(row.tobytes() in kept for row in every)
    drawn = amortized_fit._drawn(fitted.shap, fitted.batch, fitted.background, 5000, 0)
    assert len(drawn) == sum(row.tobytes() not in kept for row in every)
    assert not any(row.tobytes() in kept for row in drawn)


def test_the_same_inputs_give_the_same_bytes(fitted):
    one, two = (short(fitted.files, fitted.batch, rows=40, epochs=2) for _ in range(2))
    assert one == two
    assert one[WEIGHTS] != fitted.made[WEIGHTS]


def signed(fitted, folder, **changed):
    private, public = keys.new_key_pair()
    (folder / "verify.pem").write_bytes(public)
    path = package.write(package.build({**fitted.files, **fitted.made, **changed}, private), folder / "packages")
    return ServedPackage.open(path, folder / "verify.pem")


def ask(model, body):
    return asyncio.run(model.explain(body))


def test_it_is_served_from_a_signed_package(fitted, tmp_path):
    model = ExplainerModel("flights", signed(fitted, tmp_path), None)
    model._prepare()
    row = serving_package.raw_row(fitted.built, 0)
    (found,) = ask(model, {"instances": [row], "method": "amortized"})["explanations"]
    assert found["method"] == "amortized"
    total = found["base_value"] + sum(a["contribution"] for a in found["attributions"])
    assert total == pytest.approx(found["prediction"], abs=1e-6)
    (slow,) = ask(model, {"instances": [row], "method": "shap"})["explanations"]
    assert found["base_value"] == slow["base_value"]
    assert found["prediction"] == pytest.approx(slow["prediction"], abs=1e-6)


def test_a_package_without_one_says_so(fitted):
    model = ExplainerModel("flights", ServedPackage.open(fitted.built.path, fitted.built.verify_key), None)
    model._prepare()
    with pytest.raises(InvalidRequestError, match="no amortized explainer") as caught:
        ask(model, {"instances": [serving_package.raw_row(fitted.built, 0)], "method": "amortized"})
    assert "shap or lime" in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {WEIGHTS: b"\x80\x04not tensors"},
        {NOTE: b"{}"},
        {NOTE: b"{"},
        {NOTE: orjson.dumps({"features": ["another"]})},
    ],
)
def test_files_that_do_not_belong_together_are_refused(fitted, changed):
    with pytest.raises(IntegrityError, match="belong together"):
        load(fitted.shap, {**fitted.files, **fitted.made, **changed})


def test_half_an_explainer_makes_no_package(fitted):
    private, _ = keys.new_key_pair()
    with pytest.raises(IntegrityError, match=r"explainer\.json missing"):
        package.build({**fitted.files, WEIGHTS: fitted.made[WEIGHTS]}, private)


def test_the_explainer_is_part_of_what_is_signed(fitted, tmp_path):
    private, public = keys.new_key_pair()
    made = package.build({**fitted.files, **fitted.made}, private)
    assert made.digest != package.build(fitted.files, private).digest
    path = package.write(made, tmp_path)
    assert package.load_verified(path, public) == {**fitted.files, **fitted.made}
    for name in (WEIGHTS, NOTE):
        held = (path / name).read_bytes()
        (path / name).chmod(0o644)
        (path / name).write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="SHA-256"):
            package.load_verified(path, public)
        (path / name).write_bytes(held)
    (path / NOTE).unlink()
    with pytest.raises(IntegrityError):
        package.load_verified(path, public)
