"""Encoded batches as plain matrices, so that features can be hidden by replacing columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fasttrack.errors import IntegrityError, InvalidRequestError
from fasttrack.explain.arrays import Floats
from fasttrack.explain.masking import FeatureSpace, names_of
from fasttrack.models.batch import Array, Batch
from fasttrack.models.encoding import Encoder


class EncodedModel:
    """A model over encoded rows (B, D), with the columns in the order numeric, categorical, sequence, length.

    Args:
        encoder: the package's encoder.
        probability: the model: a batch in, probabilities (B,) out.

    Attributes:
        space: the `FeatureSpace` of these rows; its features are the encoder's, in its order.
    """

    def __init__(self, encoder: Encoder, probability: Callable[[Batch], Array]) -> None:
        self.encoder = encoder
        self._probability = probability
        numeric, category, sequence = encoder.numeric, encoder.category, encoder.sequence
        names = names_of(
            [*(c.name for c in numeric), *(c.name for c in category), *([sequence.name] if sequence else [])]
        )
        self._scalars = names[: len(numeric) + len(category)]
        owner = list(range(len(numeric)))
        owner += [position for position, column in enumerate(numeric) if column.indicator]
        owner += range(len(numeric), len(numeric) + len(category))
        if sequence:
            owner += [len(names) - 1] * (sequence.length * len(sequence.channels) + 1)
        self.space = FeatureSpace(names, np.array(owner), self.predict)

    def flatten(self, batch: Batch) -> Floats:
        """(B, D) float32. Category codes are exact in float32 up to 16,777,216."""
        parts = [batch.numeric, batch.categorical]
        if batch.sequence is not None and batch.length is not None:
            parts += [batch.sequence.reshape(len(batch), -1), batch.length[:, None]]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")

    def unflatten(self, rows: Floats) -> Batch:
        """The batch that `flatten` made `rows` of."""
        width, count = self.encoder.numeric_width, len(self.encoder.category)
        numeric = np.ascontiguousarray(rows[:, :width])
        categorical = rows[:, width : width + count].astype(np.int64)
        if self.encoder.sequence is None:
            return Batch(numeric, categorical)
        shape = (len(rows), self.encoder.sequence.length, len(self.encoder.sequence.channels))
        sequence = np.ascontiguousarray(rows[:, width + count : -1]).reshape(shape)
        return Batch(numeric, categorical, sequence, rows[:, -1].astype(np.int64))

    def predict(self, rows: Floats) -> Floats:
        """Probabilities (B,) of encoded rows (B, D)."""
        return np.asarray(self._probability(self.unflatten(rows)), dtype=np.float64)

    def values(self, row: Mapping[str, Any]) -> list[Any]:
        """The raw values of a row, in the order of the features, as JSON can show them.

        A sequence is shown by its size and its latest event: ``{"events": 5, "latest": {channel: number}}``.
        """
        shown = [row.get(name) for name in self._scalars]
        if self.encoder.sequence is not None:
            shown.append(self._sequence(row.get(self.encoder.sequence.name)))
        return shown

    def _sequence(self, given: Any) -> dict[str, Any] | None:
        column = self.encoder.sequence
        if column is None or given is None:
            return None
        table = np.asarray(given, dtype=np.float64).reshape(-1, len(column.channels))
        real = table[~np.isnan(table).all(axis=1)]
        if not len(real):
            return {"events": 0, "latest": None}
        latest = [None if np.isnan(value) else float(value) for value in real[-1]]
        return {"events": len(real), "latest": dict(zip(column.channels, latest, strict=True))}


def background_rows(model: EncodedModel, content: bytes) -> Floats:
    """The encoded rows (K, D) of a package's ``background.parquet``.

    Raises:
        IntegrityError: they can't be read, or are not those of this model.
    """
    try:
        table = pq.read_table(io.BytesIO(content))
        columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
        return model.flatten(model.encoder.encode(columns, strict=False))
    except (ValueError, TypeError, OSError, InvalidRequestError) as error:
        raise IntegrityError(
            f"it can't be read ({error}).",
            where="background.parquet",
            fix="Publish the package again with this version of FastTrack.",
        ) from error
