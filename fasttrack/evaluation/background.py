"""background.parquet: a few raw training rows that explanations compare with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fasttrack.errors import IntegrityError
from fasttrack.models.batch import Array
from fasttrack.training.data import Rows
from fasttrack.usecase import Column


def background(columns: Sequence[Column], train: Rows, rows: int, seed: int) -> bytes:
    """Parquet bytes of a seeded draw of at most `rows` training rows, with the training rows' share of positives.

    Columns are those of the feature table: numeric float64, category string, sequence list<float64> of N*k and
    int32 ``<name>_length``.
    """
    drawn = train.take(_stratified(train.positive, min(rows, len(train)), seed))
    found: dict[str, Any] = {}
    for column in columns:
        values = drawn.columns[column.name]
        if column.role == "numeric":
            found[column.name] = pa.array(values.astype(np.float64), pa.float64(), from_pandas=True)
        elif column.role == "category":
            found[column.name] = pa.array(values.tolist(), pa.string())
        else:
            flat = pa.array(values.astype(np.float64).reshape(-1), pa.float64(), from_pandas=True)
            offsets = np.arange(len(drawn) + 1, dtype=np.int32) * (column.length * len(column.channels))
            found[column.name] = pa.ListArray.from_arrays(pa.array(offsets), flat)
            lengths = drawn.columns[f"{column.name}_length"]
            found[f"{column.name}_length"] = pa.array(lengths.astype(np.int32), pa.int32())
    sink = io.BytesIO()
    pq.write_table(pa.table(found), sink, compression="zstd")
    return sink.getvalue()


def read_background(content: bytes) -> list[Mapping[str, Any]]:
    """The rows as dicts that `Predictor.predict_rows` takes.

    Raises:
        IntegrityError: the bytes are not Parquet.
    """
    try:
        rows: list[Mapping[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise IntegrityError(
            f"not readable: {error}", where="background.parquet", fix="Register the model again."
        ) from error
    return rows


def _stratified(positive: Array, count: int, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    truth = positive.astype(bool)
    positives = round(count * truth.mean())
    drawn = [generator.permutation(np.flatnonzero(truth))[:positives]]
    drawn.append(generator.permutation(np.flatnonzero(~truth))[: count - positives])
    return np.sort(np.concatenate(drawn))
