"""The feature table in memory: read once, split by time, never leaking a label across a border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import DataQualityError, NotFoundError, StorageError
from fasttrack.usecase import Column, UseCase

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Rows:
    """Labelled rows of the feature table, in order of prediction time.

    Attributes:
        columns: by column name: numeric float32 [B] (NaN = missing), category object [B] (None = missing),
            sequence float32 [B, N, k] (oldest first, left-padded with NaN) and its ``<name>_length`` int64 [B].
        label: float32 [B], in label units.
        positive: float32 [B], 1 where the label is above the use case's ``late_above``.
        time: prediction time, int64 [B], microseconds since 1970 UTC.
        known: time at which the label became known, same unit.
    """

    columns: dict[str, Array]
    label: Array
    positive: Array
    time: Array
    known: Array

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: Array) -> Rows:
        """The rows at `index` (integer positions or a boolean mask)."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Rows(columns, self.label[index], self.positive[index], self.time[index], self.known[index])


@dataclass(frozen=True)
class Splits:
    """Rows to learn from, to choose and calibrate with, and to report on."""

    train: Rows
    validate: Rows
    test: Rows


def load_splits(usecase: UseCase, features_path: str | Path, sample: float = 1.0, seed: int = 0) -> Splits:
    """Read the feature table and split it by prediction time.

    A row may teach (or calibrate) only if its label was known before the split's end: a flight that was predicted
    in time but landed after the border is left out.

    Args:
        usecase: the use case.
        features_path: folder of Parquet files, or a Delta table.
        sample: share of the training rows to keep, drawn by `seed`; the other splits stay whole.
        seed: of the draw.

    Raises:
        NotFoundError: there is no table at `features_path`.
        StorageError: the table can't be read.
        DataQualityError: a column is missing, or a split has no rows of both classes.
    """
    rows = load_rows(usecase, features_path)
    first, second, last = (_microseconds(bound) for bound in usecase.split.bounds())
    train = rows.take((rows.time < first) & (rows.known < first))
    if sample < 1.0:
        train = thin(train, sample, seed)
    validate = rows.take((rows.time >= first) & (rows.time < second) & (rows.known < second))
    test = rows.take((rows.time >= second) & (rows.time < last))
    for name, split in (("train", train), ("validate", validate), ("test", test)):
        require_both_classes(split, name, str(features_path))
    return Splits(train, validate, test)


def require_both_classes(rows: Rows, name: str, where: str) -> None:
    """Refuse rows from which nothing can be learnt or measured.

    Raises:
        DataQualityError: there are no rows, or only one class.
    """
    positives = int(rows.positive.sum())
    if not 0 < positives < len(rows):
        raise DataQualityError(
            f"the {name} split has {len(rows)} labelled rows, {positives} of them positive; both classes are needed.",
            where=where,
            fix="Replay more events, or move the bounds under `split` in the use case.",
        )


def thin(rows: Rows, share: float, seed: int) -> Rows:
    """A seeded draw of `share` of the rows (at least one), in their order."""
    count = max(1, round(len(rows) * share))
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows.take(np.sort(drawn))


def folds(rows: Rows, count: int) -> list[tuple[Rows, Rows]]:
    """Expanding-window folds: pair i learns from the first i+1 of ``count + 1`` equal blocks and is tested on the next.

    Learning rows whose label was unknown at the border are left out, as in `load_splits`.

    Raises:
        DataQualityError: a block is empty or has one class only.
    """
    edges = np.linspace(0, len(rows), count + 2).astype(np.int64)
    pairs = []
    for number in range(1, count + 1):
        held_out = rows.take(np.arange(edges[number], edges[number + 1]))
        require_both_classes(held_out, f"fold {number} test", "cross-validation")
        border = held_out.time[0]
        learn = rows.take((rows.time < border) & (rows.known < border))
        require_both_classes(learn, f"fold {number} train", "cross-validation")
        pairs.append((learn, held_out))
    return pairs


def load_rows(usecase: UseCase, features_path: str | Path) -> Rows:
    """All labelled rows of the table, sorted by prediction time, then event id (whatever the file order).

    Raises:
        NotFoundError: there is no table at `features_path`.
        StorageError: the table can't be read.
        DataQualityError: the table lacks a column, or a sequence has the wrong length.
    """
    wanted = ["_event_id", "_prediction_time", "_label", "_label_time"]
    for column in usecase.columns():
        wanted.append(column.name)
        if column.role == "sequence":
            wanted.append(f"{column.name}_length")
    table = _read(str(features_path), wanted)
    keys = [("_prediction_time", "ascending"), ("_event_id", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)
    table = table.drop_columns(["_event_id"])
    columns: dict[str, Array] = {}
    for column in usecase.columns():
        columns |= _to_numpy(table, column, order, str(features_path))
        # Each column is let go once it is float32: two processes hold a table each, and never two forms of it.
        table = table.drop_columns([column.name])
    label = _floats(table["_label"])[order]
    return Rows(
        columns,
        label,
        (label > usecase.label.late_above).astype(np.float32),
        _times(table["_prediction_time"])[order],
        _times(table["_label_time"])[order],
    )


def _read(path: str, wanted: Sequence[str]) -> pa.Table:
    labelled = ds.field("_label").is_valid() & ds.field("_label_time").is_valid()
    try:
        dataset = _dataset(path)
        missing = [name for name in wanted if name not in dataset.schema.names]
        if missing:
            raise DataQualityError(
                f"the feature table lacks {', '.join(missing)}.",
                where=path,
                fix="Build the features of this use case again.",
            )
        return dataset.to_table(columns=list(wanted), filter=labelled)
    except FileNotFoundError as error:
        raise NotFoundError("there is no feature table.", where=path, fix="Run the features step first.") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"the feature table can't be read: {error}", where=path, fix="Build the features again."
        ) from error


def _dataset(path: str) -> ds.Dataset:
    if (Path(path) / "_delta_log").is_dir() or "://" in path:
        # Only Delta tables need the reader; importing it costs time that plain Parquet shouldn't pay.
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(path).to_pyarrow_dataset()
        except TableNotFoundError as error:
            if "://" not in path:
                raise FileNotFoundError(path) from error
    return ds.dataset(path, format="parquet")


def _to_numpy(table: pa.Table, column: Column, order: Array, path: str) -> dict[str, Array]:
    values = table[column.name]
    if column.role == "numeric":
        return {column.name: _floats(values)[order]}
    if column.role == "category":
        # Dictionary first: equal strings become one object, so a row costs eight bytes.
        coded = values.cast(pa.string()).combine_chunks().dictionary_encode()
        words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
        codes = coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
        return {column.name: words[codes[order]]}
    width = column.length * len(column.channels)
    flat = values.combine_chunks()
    sizes = flat.value_lengths().fill_null(0)
    if len(flat) and not pc.all(pc.equal(sizes, width)).as_py():
        raise DataQualityError(
            f"sequence {column.name!r} must have {column.length} x {len(column.channels)} values in every row.",
            where=path,
            fix="Build the features of this use case again.",
        )
    matrix = _floats(pa.chunked_array([flat.flatten()])).reshape(len(flat), column.length, len(column.channels))
    lengths = table[f"{column.name}_length"].to_numpy().astype(np.int64)
    return {column.name: matrix[order], f"{column.name}_length": lengths[order]}


def _floats(values: pa.ChunkedArray) -> Array:
    # Through float64: a cast of null to float32 in Arrow keeps null, and to_numpy turns null to NaN only for floats.
    found: Array = values.cast(pa.float64()).to_numpy().astype(np.float32)
    return found


def _times(values: pa.ChunkedArray) -> Array:
    found: Array = values.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return found


def _microseconds(moment: datetime) -> int:
    return int(
        np.datetime64(moment.replace(tzinfo=None) - (moment.utcoffset() or moment.resolution * 0), "us").astype(
            np.int64
        )
    )
