from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.errors import InvalidRequestError
from fasttrack.models.encoding import Encoder, Scale
from fasttrack.training.prepare import required_columns
from fasttrack.usecase import Column
from tests.unit.learning_table import encoded

ROW: dict[str, Any] = {
    "depot": "east",
    "courier": "c1",
    "weight": 3.0,
    "stops": 4,
    "hour": 5.0,
    "courier_delay_count_24h": 2.0,
    "courier_delay_mean_24h": 1.5,
    "courier_delay_std_24h": 0.5,
    "courier_last_delay": 2.0,
    "courier_last_age_hours": 1.0,
    "recent": [[1.0, 2.0], [3.0, 4.0]],
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, dict[str, np.ndarray]]:
    usecase, rows, _ = encoded(tmp_path_factory.mktemp("table"))
    return Encoder.fit(usecase.columns(), rows.columns, required_columns(usecase)), rows.columns


def test_survives_json(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, columns = fitted
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    for ours, theirs in zip(
        encoder.encode(columns).tensors().values(), again.encode(columns).tensors().values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_shapes_types_and_standardization(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, columns = fitted
    batch = encoder.encode(columns)
    assert batch.sequence is not None
    assert batch.length is not None
    assert batch.numeric.dtype == batch.sequence.dtype == np.float32
    assert batch.categorical.dtype == batch.length.dtype == np.int64
    assert batch.numeric.shape == (len(batch), encoder.numeric_width)
    assert batch.categorical.shape == (len(batch), 2)
    assert batch.sequence.shape == (len(batch), 4, 2)
    stops = [column.name for column in encoder.numeric].index("stops")
    assert abs(batch.numeric[:, stops].mean()) < 1e-3
    assert batch.numeric[:, stops].std() == pytest.approx(1, abs=1e-3)


def test_missing_is_zero_with_an_indicator_only_where_missing_occurs(
    fitted: tuple[Encoder, dict[str, np.ndarray]],
) -> None:
    encoder, columns = fitted
    batch = encoder.encode(columns)
    indicators = [column.name for column in encoder.numeric if column.indicator]
    assert "weight" in indicators
    assert "stops" not in indicators
    missing = np.isnan(columns["weight"])
    place = len(encoder.numeric) + indicators.index("weight")
    np.testing.assert_array_equal(batch.numeric[:, place], missing)
    weight = [column.name for column in encoder.numeric].index("weight")
    assert (batch.numeric[missing, weight] == 0).all()


def test_rows_equal_columns(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, columns = fitted
    few = {name: values[:40] for name, values in columns.items()}
    rows = []
    for number in range(40):
        row: dict[str, Any] = {}
        for name, values in few.items():
            value = values[number]
            if name == "recent":
                row[name] = [event.tolist() for event in value if not np.isnan(event).all()]
            elif isinstance(value, str) or value is None or np.isfinite(value):
                row[name] = value
        rows.append(row)
    for ours, theirs in zip(
        encoder.encode(few).tensors().values(), encoder.encode_rows(rows).tensors().values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_flat_table_form_of_a_sequence_is_understood(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, _ = fitted
    short = encoder.encode_rows([ROW])
    nan = float("nan")
    for padding in (None, nan):
        flat = encoder.encode_rows([{**ROW, "recent": [padding] * 4 + [1.0, 2.0, 3.0, 4.0], "recent_length": 2}])
        for ours, theirs in zip(short.tensors().values(), flat.tensors().values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_unknown_words_and_missing_ones_are_code_zero(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, _ = fitted
    batch = encoder.encode_rows([{**ROW, "courier": "never seen"}, {**ROW, "courier": None}, ROW])
    assert batch.categorical[:, 1].tolist()[:2] == [0, 0]
    assert batch.categorical[2, 1] > 0


def test_what_stands_in_the_padding_never_arrives(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    encoder, columns = fitted
    dirty = dict(columns)
    noise = np.where(np.isnan(columns["recent"]), 777.0, columns["recent"]).astype(np.float32)
    dirty["recent"] = noise
    clean, same = encoder.encode(columns), encoder.encode(dirty)
    np.testing.assert_array_equal(clean.sequence, same.sequence)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": float("nan")}, "weight"),
        ({"weight": float("inf")}, "weight"),
        ({"weight": 1e60}, "weight"),
        ({"weight": "heavy"}, "'heavy'"),
        ({"weight": True}, "True"),
        ({"weight": [1.0]}, "weight"),
        ({"stops": None}, "stops"),
        ({"depot": None}, "depot"),
        ({"depot": 3}, "depot"),
        ({"colour": "red"}, "colour"),
        ({"recent": "none"}, "recent"),
        ({"recent": [[1.0]]}, "recent"),
        ({"recent": [[1.0, float("nan")]]}, "NaN"),
        ({"recent": [[1.0, 2.0]] * 5}, "at most 4"),
        ({"recent": [1.0, 2.0, 3.0]}, "4 x 2"),
        ({"recent_length": 9}, "recent_length"),
        ({"recent_length": 1.5}, "recent_length"),
    ],
)
def test_bad_values_are_named(fitted: tuple[Encoder, dict[str, np.ndarray]], change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        fitted[0].encode_rows([{**ROW, **change}])
    assert says in str(caught.value)
    assert caught.value.where


def test_columns_of_different_length_are_refused(fitted: tuple[Encoder, dict[str, np.ndarray]]) -> None:
    with pytest.raises(InvalidRequestError, match="same number of rows"):
        fitted[0].encode({"stops": [1.0, 2.0], "weight": [1.0]})


def test_a_table_with_a_gap_in_a_required_column_is_read_when_not_strict(
    fitted: tuple[Encoder, dict[str, np.ndarray]],
) -> None:
    encoder, columns = fitted
    gap = {**columns, "stops": np.full(len(columns["stops"]), np.nan, np.float32)}
    with pytest.raises(InvalidRequestError, match="stops"):
        encoder.encode(gap)
    assert np.isfinite(encoder.encode(gap, strict=False).numeric).all()


numbers = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.one_of(numbers, st.just(float("nan"))), min_size=1, max_size=60), st.lists(numbers, min_size=2))
def test_a_scale_is_finite_bounded_and_keeps_order(training: list[float], asked: list[float]) -> None:
    scale = Scale.fit(np.array(training, np.float32))
    found = scale.apply(np.array(sorted(asked), np.float32))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    known = np.array([value for value in training if not np.isnan(value)], np.float32)
    if len(known):
        ends = scale.apply(np.array([known.min(), known.max()], np.float32))
        assert found.min() >= ends[0] - 1e-4
        assert found.max() <= ends[1] + 1e-4


def test_few_rows_encode_to_the_same_bits_as_many() -> None:
    random = np.random.default_rng(5)
    count = 300
    # The first two have heavy tails, so their scale is a logarithm's.
    names = ["tail", "other_tail", "plain", "gaps"]
    table = {name: random.standard_t(1.2, count).astype(np.float32) ** 3 for name in names[:2]}
    table |= {name: random.normal(3, 2, count).astype(np.float32) for name in names[2:]}
    table["gaps"][::7] = np.nan
    encoder = Encoder.fit([Column(name, "numeric", name) for name in names], table)
    assert [column.scale.log for column in encoder.numeric] == [True, True, False, False]
    whole = encoder.encode(table)
    for start in range(0, count, 30):
        part = encoder.encode({name: values[start : start + 30] for name, values in table.items()})
        np.testing.assert_array_equal(part.numeric, whole.numeric[start : start + 30])
    for row in range(20):
        listed = {name: [None if np.isnan(v[row]) else float(v[row])] for name, v in table.items()}
        np.testing.assert_array_equal(encoder.encode(listed).numeric[0], whole.numeric[row])
