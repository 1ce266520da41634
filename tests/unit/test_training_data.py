from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from fasttrack.errors import DataQualityError, NotFoundError, StorageError
from fasttrack.training.data import folds, load_rows, load_splits, thin
from tests.unit.learning_table import DAY, table, usecase, write

BORDERS = [int(np.datetime64(day, "us").astype(np.int64)) for day in ("2024-03-01", "2024-04-01", "2024-05-01")]


def test_no_label_crosses_a_border(tmp_path: Path) -> None:
    splits = load_splits(usecase(), write(tmp_path))
    first, second, last = BORDERS
    assert (splits.train.time < first).all()
    assert (splits.train.known < first).all()
    assert ((splits.validate.time >= first) & (splits.validate.time < second)).all()
    assert (splits.validate.known < second).all()
    assert ((splits.test.time >= second) & (splits.test.time < last)).all()
    # There are rows for the rule to leave out: predicted before the border, known after it.
    rows = load_rows(usecase(), tmp_path / "fingerprint01")
    late = (rows.time < first) & (rows.known >= first)
    assert late.any()
    assert len(splits.train) == ((rows.time < first) & ~late).sum()


def test_a_label_known_at_the_border_itself_is_not_known_before_it(tmp_path: Path) -> None:
    found = table(300)
    at_border = pa.array(np.full(300, BORDERS[0]), pa.timestamp("us", "UTC"))
    place = found.schema.get_field_index("_label_time")
    target = write(tmp_path)
    pq.write_table(found.set_column(place, "_label_time", at_border), target / "part-0.parquet")
    with pytest.raises(DataQualityError, match="train split has 0"):
        load_splits(usecase(), target)


def test_rows_without_a_label_are_left_out_and_the_rest_is_sorted(tmp_path: Path) -> None:
    rows = load_rows(usecase(), write(tmp_path))
    labelled = table()
    assert len(rows) == len(labelled) - labelled["_label"].null_count
    assert (np.diff(rows.time) >= 0).all()
    assert np.isfinite(rows.label).all()
    np.testing.assert_array_equal(rows.positive, rows.label > 10)


def test_the_order_and_number_of_files_don_t_matter(tmp_path: Path) -> None:
    whole = load_rows(usecase(), write(tmp_path / "a"))
    shuffled = table().take(np.random.default_rng(3).permutation(1200))
    (tmp_path / "b").mkdir()
    pq.write_table(shuffled.slice(0, 500), tmp_path / "b" / "part-1.parquet")
    pq.write_table(shuffled.slice(500), tmp_path / "b" / "part-0.parquet")
    write_deltalake(str(tmp_path / "c"), shuffled)
    for other in ("b", "c"):
        again = load_rows(usecase(), tmp_path / other)
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(values, again.columns[name])
        np.testing.assert_array_equal(whole.label, again.label)


def test_null_and_nan_are_both_missing(tmp_path: Path) -> None:
    found = table(300)
    nan = pc.fill_null(found["weight"], float("nan"))
    with_nan = found.set_column(found.schema.get_field_index("weight"), "weight", nan)
    for folder, content in (("a", found), ("b", with_nan)):
        (tmp_path / folder).mkdir()
        pq.write_table(content, tmp_path / folder / "part-0.parquet")
    first, second = (load_rows(usecase(), tmp_path / folder).columns["weight"] for folder in "ab")
    assert np.isnan(first).any()
    np.testing.assert_array_equal(first, second)


def test_rows_are_kept_in_float32(tmp_path: Path) -> None:
    rows = load_rows(usecase(), write(tmp_path))
    assert {rows.columns[name].dtype for name in ("weight", "stops", "recent")} == {np.dtype(np.float32)}
    assert rows.columns["recent"].shape == (len(rows), 4, 2)


def test_sampling_thins_training_only_and_is_seeded(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole, half, again = (load_splits(usecase(), path, share, seed=1) for share in (1.0, 0.5, 0.5))
    other = load_splits(usecase(), path, 0.5, seed=2)
    assert len(half.train) == round(len(whole.train) / 2)
    assert len(half.test) == len(whole.test)
    np.testing.assert_array_equal(half.train.time, again.train.time)
    assert not np.array_equal(half.train.time, other.train.time)
    assert (np.diff(thin(whole.train, 0.3, 0).time) >= 0).all()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_folds_expand_and_never_look_ahead(tmp_path: Path, count: int) -> None:
    rows = load_rows(usecase(), write(tmp_path))
    pairs = folds(rows, count)
    assert len(pairs) == count
    sizes = [len(learn) for learn, _ in pairs]
    assert sizes == sorted(sizes)
    for learn, held_out in pairs:
        assert learn.time.max() < held_out.time.min()
        assert learn.known.max() < held_out.time.min()
        # The label of a parcel is known up to three days later, so some rows must have been left out.
        assert len(learn) < (rows.time < held_out.time.min()).sum()
        assert held_out.time.max() - held_out.time.min() < 121 * DAY / count


def test_a_fold_of_one_class_is_refused(tmp_path: Path) -> None:
    rows = load_rows(usecase(), write(tmp_path))
    with pytest.raises(DataQualityError, match="both classes"):
        folds(rows.take(rows.positive == 0), 2)


def test_no_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="features step"):
        load_rows(usecase(), tmp_path / "nothing")


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    target = write(tmp_path) / "part-0.parquet"
    target.write_bytes(target.read_bytes()[:1000])
    with pytest.raises(StorageError, match="can't be read"):
        load_rows(usecase(), tmp_path / "fingerprint01")


@pytest.mark.parametrize("name", ["weight", "_label_time", "recent_length"])
def test_a_table_without_a_column_is_refused(tmp_path: Path, name: str) -> None:
    target = write(tmp_path)
    pq.write_table(table().drop_columns([name]), target / "part-0.parquet")
    with pytest.raises(DataQualityError) as caught:
        load_rows(usecase(), target)
    assert name in str(caught.value)


def test_a_sequence_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    target = write(tmp_path)
    short: Any = table(length=3)
    pq.write_table(short, target / "part-0.parquet")
    with pytest.raises(DataQualityError, match="4 x 2"):
        load_rows(usecase(), target)
