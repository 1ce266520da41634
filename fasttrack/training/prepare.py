"""Everything that a fit needs, as tensors in memory: encoder, label scale, encoded rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fasttrack.models.batch import Batch
from fasttrack.models.encoding import Encoder
from fasttrack.training.data import Rows
from fasttrack.usecase import UseCase
from fasttrack.usecase.features import FieldFeature, WindowFeature

Example = dict[str, Tensor]


@dataclass(frozen=True)
class LabelScale:
    """Label units to the unit-free numbers that the regression head gives: ``(label - center) / scale``."""

    center: float
    scale: float

    @classmethod
    def fit(cls, label: np.ndarray) -> LabelScale:
        """Median and interquartile range (1 where all labels are equal)."""
        low, middle, high = (float(q) for q in np.quantile(label, (0.25, 0.5, 0.75), method="nearest"))
        return cls(middle, (high - low) or 1.0)


@dataclass(frozen=True)
class Prepared:
    """Encoded training and validation rows; `Example` tensors share their first dimension.

    Keys of an example: the model inputs (see `Batch.tensors`), ``positive`` and ``label`` (standardized), float32.
    `validate_rows` keeps labels and times, but no columns.
    """

    encoder: Encoder
    label: LabelScale
    train: Example
    validate: Example
    validate_rows: Rows


def required_columns(usecase: UseCase) -> frozenset[str]:
    """Columns that can't be missing by contract: fields that aren't nullable, and counts."""
    fields = usecase.streams[usecase.prediction.stream].fields
    found = set()
    for column in usecase.columns():
        definition = usecase.features[column.definition]
        if isinstance(definition, FieldFeature) and not fields[definition.field].nullable:
            found.add(column.name)
        if isinstance(definition, WindowFeature) and column.aggregate == "count":
            found.add(column.name)
    return frozenset(found)


def prepare(usecase: UseCase, train: Rows, validate: Rows) -> Prepared:
    """Fit the encoder and the label scale on `train`, encode both."""
    encoder = Encoder.fit(usecase.columns(), train.columns, required_columns(usecase))
    label = LabelScale.fit(train.label)
    examples = (example(encoder, label, train), example(encoder, label, validate))
    return Prepared(encoder, label, *examples, dataclasses.replace(validate, columns={}))


def example(encoder: Encoder, label: LabelScale, rows: Rows) -> Example:
    """Encoded rows as tensors, see `Prepared`."""
    batch: Batch = encoder.encode(rows.columns, strict=False)
    return {
        **{name: torch.from_numpy(values) for name, values in batch.tensors().items()},
        "positive": torch.from_numpy(rows.positive),
        "label": torch.from_numpy(((rows.label - label.center) / label.scale).astype(np.float32)),
    }


class Batches:
    """Slices of tensors that lie in memory: no copying worker processes, no per-row Python.

    All processes draw the same permutation and take their own part of each global batch, so that the gradient is that
    of the global batch, however many processes share it.
    """

    def __init__(
        self, example: Example, batch_size: int, *, rank: int = 0, world: int = 1, seed: int | None = None
    ) -> None:
        """`batch_size` is the global one; without `seed` the rows come in order and none is left out."""
        self._example = example
        self._rows = len(example["positive"])
        self._seed = seed
        self._rank, self._world = rank, world
        self._size = max(world, min(batch_size, self._rows))

    def __len__(self) -> int:
        # While learning the short rest is dropped: its rows would weigh more than others, and may not fill all ranks.
        return self._rows // self._size if self._seed is not None else -(-self._rows // self._size)

    def __iter__(self) -> Iterator[Example]:
        if self._seed is None:
            order = torch.arange(self._rows)
        else:
            # Drawn on the CPU: the order is the same wherever the rows lie.
            order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed))
        order = order.to(self._example["positive"].device)
        for number in range(len(self)):
            mine = order[number * self._size : (number + 1) * self._size]
            if self._seed is not None:
                share = self._size // self._world
                mine = mine[self._rank * share : (self._rank + 1) * share]
            yield {name: values[mine] for name, values in self._example.items()}
