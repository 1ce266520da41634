"""From feature columns to numbers: fitted on training rows, kept as JSON in the model package; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fasttrack.errors import InvalidRequestError
from fasttrack.models.batch import Array, Batch
from fasttrack.models.raw import categories, few_floats, floats, sequences
from fasttrack.usecase import Column

_QUANTILES = (0.001, 0.999)
# A column whose standard deviation is many times its interquartile range has tails that would drown the bulk.
_HEAVY_TAIL = 2.0
# Up to so many rows, all numbers are standardized together: for one row, most of the time goes into calls of numpy.
# Beyond, column by column, which needs no copies of the whole table.
_TOGETHER_ROWS = 64


@dataclass(frozen=True)
class Scale:
    """How one channel is standardized: clip to [low, high], signed log if `log`, then ``(x - mean) / deviation``."""

    low: float
    high: float
    log: bool
    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Array) -> Scale:
        """Fit on float values; NaN is left out. Without any value, everything encodes to 0."""
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(0.0, 0.0, False, 0.0, 1.0)
        # Quantiles that are values of the data: interpolated ones would depend on the count of equal rows.
        low, high = (float(q) for q in np.quantile(known, _QUANTILES, method="nearest"))
        clipped = np.clip(known, low, high)
        lower, upper = np.quantile(clipped, (0.25, 0.75), method="nearest")
        log = bool(clipped.std() > _HEAVY_TAIL * max(upper - lower, 1e-9) / 1.35 and high > low)
        shaped = np.sign(clipped) * np.log1p(np.abs(clipped)) if log else clipped
        deviation = float(shaped.std())
        return cls(low, high, log, float(shaped.mean()), deviation if deviation > 1e-9 else 1.0)

    def apply(self, values: Array) -> Array:
        """Standardized float32 of the same shape; NaN becomes 0, the mean."""
        clipped = np.clip(values, np.float32(self.low), np.float32(self.high))
        shaped = np.sign(clipped) * np.log1p(np.abs(clipped)) if self.log else clipped
        standard = (shaped - np.float32(self.mean)) / np.float32(self.deviation)
        found: Array = np.nan_to_num(standard, copy=False, nan=0.0).astype(np.float32, copy=False)
        return found


class _Scales:
    """The scales of several columns, applied at once; the same numbers as `Scale.apply` gives."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        low, high, mean, deviation = (
            np.array([getattr(scale, name) for scale in scales], np.float32)[:, None]
            for name in ("low", "high", "mean", "deviation")
        )
        self._low, self._high, self._mean, self._deviation = low, high, mean, deviation
        self._log = np.flatnonzero([scale.log for scale in scales])

    def apply(self, values: Array) -> Array:
        """Standardized float32 [n, B] of float32 [n, B]."""
        found = np.clip(values, self._low, self._high)
        if len(self._log):
            shaped = found[self._log]
            found[self._log] = np.sign(shaped) * np.log1p(np.abs(shaped))
        found -= self._mean
        found /= self._deviation
        found[np.isnan(found)] = 0.0
        return found


@dataclass(frozen=True)
class NumericColumn:
    """A number: its scale, whether it may be missing, and whether an indicator column tells the model so."""

    name: str
    nullable: bool
    indicator: bool
    scale: Scale


@dataclass(frozen=True)
class CategoryColumn:
    """A word: code ``i + 1`` for ``words[i]``, 0 for any other."""

    name: str
    nullable: bool
    words: tuple[str, ...]


@dataclass(frozen=True)
class SequenceColumn:
    """Recent events: `length` positions, one scale a channel."""

    name: str
    length: int
    channels: tuple[str, ...]
    scales: tuple[Scale, ...]


class Encoder:
    """Turns feature columns into a `Batch`; see `fit`, `encode`, `to_json`, `from_json`."""

    def __init__(
        self,
        numeric: Sequence[NumericColumn],
        category: Sequence[CategoryColumn],
        sequence: SequenceColumn | None,
    ) -> None:
        self.numeric = tuple(numeric)
        self.category = tuple(category)
        self.sequence = sequence
        self._scales = _Scales([column.scale for column in self.numeric])
        self._indicators = np.flatnonzero([column.indicator for column in self.numeric])
        self._required = np.flatnonzero([not column.nullable for column in self.numeric])
        self._codes = [{word: code for code, word in enumerate(c.words, start=1)} for c in self.category]
        self._names = {c.name for c in self.numeric} | {c.name for c in self.category}
        if sequence is not None:
            self._names |= {sequence.name, f"{sequence.name}_length"}

    @classmethod
    def fit(
        cls, columns: Sequence[Column], table: Mapping[str, Array], required: frozenset[str] = frozenset()
    ) -> Encoder:
        """Learn scales and vocabularies from training rows.

        Args:
            columns: the use case's feature columns, in order.
            table: numeric float [B] with NaN for missing, category object [B] with None for missing, sequence
                float [B, N, k] left-padded with NaN.
            required: columns that can never be missing by contract; those that are missing here become nullable anyway.
        """
        numeric: list[NumericColumn] = []
        category: list[CategoryColumn] = []
        sequence = None
        for column in columns:
            values = table[column.name]
            if column.role == "numeric":
                missing = bool(np.isnan(values).any())
                nullable = missing or column.name not in required
                numeric.append(NumericColumn(column.name, nullable, missing, Scale.fit(values)))
            elif column.role == "category":
                words = {word for word in values.tolist() if word is not None}
                nullable = column.name not in required or any(word is None for word in values.tolist())
                category.append(CategoryColumn(column.name, nullable, tuple(sorted(words))))
            else:
                scales = tuple(Scale.fit(values[:, :, channel]) for channel in range(len(column.channels)))
                sequence = SequenceColumn(column.name, column.length, column.channels, scales)
        return cls(numeric, category, sequence)

    @property
    def numeric_width(self) -> int:
        """n: numeric columns plus missing-indicators."""
        return len(self.numeric) + sum(column.indicator for column in self.numeric)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Codes of each category, the unknown one included."""
        return tuple(len(column.words) + 1 for column in self.category)

    def encode(self, columns: Mapping[str, Array | Sequence[Any]], *, strict: bool = True) -> Batch:
        """Encode B rows.

        Lists hold request values: None is missing, NaN is refused. Float arrays hold table values: NaN is missing.
        An absent column is missing in every row.

        Args:
            columns: by column name, B values each. A sequence is B lists of at most N events of k numbers (or one
                flat list of N*k), oldest first, or an array [B, N, k]; ``<name>_length`` [B] says how many of the last
                events are real and may be left out.
            strict: refuse a missing value in a column that was never missing in training and can't be by contract.

        Raises:
            InvalidRequestError: an unknown column, a wrong type, NaN or infinity, a missing value where none may be,
                or columns of different lengths.
        """
        if unknown := columns.keys() - self._names:
            name = min(unknown)
            raise InvalidRequestError(
                f"unknown feature {name!r}.",
                where=name,
                fix=f"The features are: {', '.join(sorted(self._names))}.",
            )
        sizes = set(map(len, columns.values()))
        if len(sizes) != 1:
            found = {name: len(values) for name, values in columns.items()}
            raise InvalidRequestError(
                f"the features need the same number of rows, got {found}.", fix="Send one value a row."
            )
        (count,) = sizes
        sequence, length = self._sequence(columns, count)
        return Batch(self._numeric(columns, count, strict), self._categorical(columns, count, strict), sequence, length)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Encode rows given as dicts by column name; an absent or None value is missing. Raises as `encode`."""
        names = sorted({name for row in rows for name in row}) or sorted(self._names)
        return self.encode({name: [row.get(name) for row in rows] for name in names})

    def _numeric(self, columns: Mapping[str, Array | Sequence[Any]], count: int, strict: bool) -> Array:
        if self.numeric and count <= _TOGETHER_ROWS:
            return self._few_numeric(columns, count, strict)
        out = np.zeros((count, self.numeric_width), np.float32)
        place = len(self.numeric)
        for position, column in enumerate(self.numeric):
            given = columns.get(column.name)
            values = np.full(count, np.nan, np.float32) if given is None else floats(column.name, given)
            if (strict and not column.nullable) or column.indicator:
                missing = np.isnan(values)
                if strict and not column.nullable and missing.any():
                    raise _required(column.name)
                if column.indicator:
                    out[:, place] = missing
                    place += 1
            out[:, position] = column.scale.apply(values)
        return out

    def _few_numeric(self, columns: Mapping[str, Array | Sequence[Any]], count: int, strict: bool) -> Array:
        absent = [None] * count
        values = few_floats([(column.name, columns.get(column.name, absent)) for column in self.numeric])
        missing = np.isnan(values)
        if strict and missing[self._required].any():
            first = int(missing[self._required].any(axis=1).argmax())
            raise _required(self.numeric[self._required[first]].name)
        return np.concatenate([self._scales.apply(values), missing[self._indicators]]).T.copy()

    def _categorical(self, columns: Mapping[str, Array | Sequence[Any]], count: int, strict: bool) -> Array:
        out = np.zeros((count, len(self.category)), np.int64)
        for position, (column, codes) in enumerate(zip(self.category, self._codes, strict=True)):
            given = columns.get(column.name)
            words: list[str | None] = [None] * count if given is None else categories(column.name, given)
            if strict and not column.nullable and None in words:
                raise _required(column.name)
            out[:, position] = [0 if word is None else codes.get(word, 0) for word in words]
        return out

    def _sequence(self, columns: Mapping[str, Array | Sequence[Any]], count: int) -> tuple[Array | None, Array | None]:
        column = self.sequence
        if column is None:
            return None, None
        values, length = sequences(
            column.name,
            columns.get(column.name),
            columns.get(f"{column.name}_length"),
            (count, column.length, len(column.channels)),
        )
        out = np.empty(values.shape, np.float32)
        for channel, scale in enumerate(column.scales):
            out[:, :, channel] = scale.apply(values[:, :, channel])
        # What stands in the padding must not reach the model.
        out[np.arange(column.length) < (column.length - length)[:, None]] = 0.0
        return out, length

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which `from_json` makes an equal encoder."""
        return {
            "numeric": [asdict(column) for column in self.numeric],
            "category": [{**asdict(column), "words": list(column.words)} for column in self.category],
            "sequence": None if self.sequence is None else _listed(asdict(self.sequence)),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Encoder:
        """The encoder that `to_json` described."""
        numeric = [NumericColumn(**{**item, "scale": Scale(**item["scale"])}) for item in document["numeric"]]
        category = [CategoryColumn(**{**item, "words": tuple(item["words"])}) for item in document["category"]]
        found = document["sequence"]
        if found is None:
            return cls(numeric, category, None)
        scales = tuple(Scale(**scale) for scale in found["scales"])
        return cls(numeric, category, SequenceColumn(found["name"], found["length"], tuple(found["channels"]), scales))


def _listed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in document.items()}


def _required(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"feature {name!r} is missing, and the model needs it.", where=name, fix="Send a value for it."
    )
