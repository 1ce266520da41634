from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasttrack.errors import IntegrityError, InvalidRequestError, NotFoundError
from fasttrack.evaluation.background import read_background
from fasttrack.evaluation.cross_validation import cross_validate
from fasttrack.evaluation.evaluate import PACKAGE_FILES, evaluate, package_files
from fasttrack.models.batch import Batch
from fasttrack.models.encoding import Encoder
from fasttrack.models.inference import Predictor
from fasttrack.training.artifacts import model_files
from fasttrack.training.data import load_splits
from fasttrack.training.files import write_file
from fasttrack.training.loop import train
from fasttrack.training.prepare import prepare
from fasttrack.training.worker import final_plan
from tests.unit.learning_table import usecase, write

PARAMETERS = {"hidden": 16, "learning_rate": 0.01}


def fitted(folder: Path, features: Path) -> Path:
    found = usecase()
    splits = load_splits(found, features)
    prepared = prepare(found, splits.train, splits.validate)
    trained = train(prepared, "mlp", PARAMETERS, final_plan(found))
    for name, content in model_files(trained, prepared, "mlp", PARAMETERS).items():
        write_file(folder / name, content)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table"), 4000)


@pytest.fixture(scope="module")
def package(features: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = fitted(tmp_path_factory.mktemp("model"), features)
    evaluate(usecase(), features, folder)
    return package_files(folder)


def document(package: dict[str, bytes], name: str) -> Any:
    return json.loads(package[name])


def test_the_same_inputs_give_the_same_package(package: dict[str, bytes], features: Path, tmp_path: Path) -> None:
    folder = fitted(tmp_path, features)
    for _ in range(2):
        evaluate(usecase(), features, folder)
        assert package_files(folder) == package


def test_each_row_is_encoded_once(
    package: dict[str, bytes], features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, encode, encoded = fitted(tmp_path, features), Encoder.encode, []

    def counted(self: Encoder, columns: Any, **options: Any) -> Batch:
        batch = encode(self, columns, **options)
        encoded.append(len(batch))
        return batch

    monkeypatch.setattr(Encoder, "encode", counted)
    evaluate(usecase(), features, folder)
    assert sorted(encoded) == sorted(document(package, "metrics.json")["rows"].values())


def test_the_report_compares_with_baselines_and_decides(package: dict[str, bytes]) -> None:
    metrics = document(package, "metrics.json")
    assert set(metrics["baselines"]) == {"group_mean", "hist_gradient_boosting"}
    assert metrics["model"]["auc"] > 0.8 > metrics["baselines"]["group_mean"]["auc"]
    assert metrics["gate"]["accepted"] is True
    assert len(metrics["gate"]["checks"]) == 3
    assert sum(entry["rows"] for entry in metrics["slices"]["depot"].values()) == metrics["rows"]["test"]


def test_intervals_cover_the_test_rows(package: dict[str, bytes]) -> None:
    metrics = document(package, "metrics.json")
    # Months are alike in this table; four standard deviations of two binomials.
    tolerance = 4 * np.sqrt(0.09 / metrics["rows"]["test"] + 0.09 / metrics["rows"]["validate"])
    assert abs(metrics["model"]["interval_coverage"] - 0.9) < tolerance


def test_the_signature_describes_what_the_model_takes(package: dict[str, bytes], features: Path) -> None:
    signature = document(package, "signature.json")
    predictor = Predictor.from_files(package)
    batch = predictor.encoder.encode_rows(read_background(package["background.parquet"]))
    tensors = batch.tensors()
    assert [tensor["name"] for tensor in signature["inputs"]] == list(tensors)
    datatypes = {"float32": "FP32", "int64": "INT64"}
    for tensor in signature["inputs"]:
        values = tensors[tensor["name"]]
        assert tensor["datatype"] == datatypes[str(values.dtype)]
        assert tensor["shape"][1:] == list(values.shape[1:])
    assert [entry["name"] for entry in signature["features"]] == [column.name for column in usecase().columns()]
    by_name = {entry["name"]: entry for entry in signature["features"]}
    assert (by_name["weight"]["minimum"], by_name["weight"]["maximum"]) == (0.0, 50.0)
    assert (by_name["hour"]["minimum"], by_name["hour"]["maximum"]) == (0.0, 23.0)
    assert by_name["courier_delay_std_24h"]["maximum"] == 1100.0
    assert by_name["courier_last_age_hours"]["maximum"] == 168.0
    assert (by_name["depot"]["closed"], by_name["courier"]["closed"]) == (True, False)
    assert not by_name["stops"]["nullable"]
    train_rows = load_splits(usecase(), features).train
    observed = by_name["stops"]["observed"]
    assert observed == {"minimum": train_rows.columns["stops"].min(), "maximum": train_rows.columns["stops"].max()}


def test_the_background_has_the_training_rows_share_of_positives(package: dict[str, bytes], features: Path) -> None:
    rows = read_background(package["background.parquet"])
    assert len(rows) == 128
    probability = Predictor.from_files(package).predict_rows(rows).probability
    rate = load_splits(usecase(), features).train.positive.mean()
    assert abs(probability.mean() - rate) < 0.1


def test_one_row_and_thousands_agree(package: dict[str, bytes]) -> None:
    predictor = Predictor.from_files(package)
    rows = read_background(package["background.parquet"])[:5]
    many = predictor.predict_rows(rows * 2000)
    for number, row in enumerate(rows):
        one = predictor.predict_rows([row])
        assert one.probability.shape == (1,)
        np.testing.assert_allclose(one.value, many.value[number], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.probability, many.probability[number], atol=1e-5)
    assert ((many.probability > 0) & (many.probability < 1)).all()
    assert ((many.lower <= many.value) & (many.value <= many.upper)).all()


def test_threads_may_share_a_predictor(package: dict[str, bytes]) -> None:
    predictor = Predictor.from_files(package)
    batch = predictor.encoder.encode_rows(read_background(package["background.parquet"]))
    expected = predictor.predict(batch)
    found: list[bool] = []

    def ask() -> None:
        for _ in range(20):
            found.append(bool((predictor.predict(batch).probability == expected.probability).all()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(found)


def test_no_rows_give_no_predictions(package: dict[str, bytes]) -> None:
    predictor = Predictor.from_files(package)
    empty = predictor.encoder.encode_rows(read_background(package["background.parquet"])).take(np.arange(0))
    assert predictor.predict(empty).value.shape == (0,)


def test_a_bad_row_is_refused(package: dict[str, bytes]) -> None:
    row = read_background(package["background.parquet"])[0]
    with pytest.raises(InvalidRequestError, match="stops"):
        Predictor.from_files(package).predict_rows([{**row, "stops": None}])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x80\x04not tensors"),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"encoder": 3, "calibration": {"slope": 1, "intercept": 0}}'),
        ("conformal.json", b"[]"),
    ],
)
def test_damaged_files_are_refused(package: dict[str, bytes], name: str, content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Predictor.from_files({**package, name: content})


def test_weights_of_another_shape_are_refused(package: dict[str, bytes]) -> None:
    config = document(package, "config.json")
    config["parameters"]["hidden"] = 8
    with pytest.raises(IntegrityError, match="belong together"):
        Predictor.from_files({**package, "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "conformal.json"])
def test_an_absent_file_is_named(package: dict[str, bytes], name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Predictor.from_files({key: content for key, content in package.items() if key != name})
    assert caught.value.where == name


def test_without_a_model_there_is_nothing_to_judge(features: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="train step"):
        evaluate(usecase(), features, tmp_path)
    with pytest.raises(NotFoundError, match="evaluate step"):
        package_files(tmp_path)


def test_the_package_is_whole(package: dict[str, bytes]) -> None:
    assert tuple(package) == PACKAGE_FILES
    assert document(package, "features.json")["fingerprint"] == "fingerprint01"


def test_cross_validation_scores_every_fold(features: Path) -> None:
    found = cross_validate(usecase(tuning={"epochs": 5}), features, "mlp", PARAMETERS, count=3, sample=1.0)
    assert len(found.folds) == 3
    aucs = [fold["auc"] for fold in found.folds]
    assert found.mean["auc"] == pytest.approx(np.mean([auc for auc in aucs if auc is not None]))
    assert found.mean["auc"] > 0.7
    assert found.deviation["auc"] > 0
