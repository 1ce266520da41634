"""A network seen from its first layer, where hiding a feature is an addition.

All architectures put numbers, bins, embedded categories and the summary of the sequence side by side before their
first linear layer, and each of these inputs belongs to one feature. What that layer gives is thus a sum of one share a
feature: a row with some features hidden is a sum of shares of the row and of a background row. A thousand masked rows
are one matrix product, without encoding or embedding any of them, and without running a sequence model on any of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fasttrack.explain.arrays import Floats
from fasttrack.explain.encoded import EncodedModel
from fasttrack.models.inference import Predictor
from fasttrack.models.layers import BINS


class AdditiveModel(Protocol):
    """A model whose first layer sums one share a feature (shapes: B rows, F features, H units)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The F features."""

    @property
    def bias(self) -> Tensor:
        """(H,) what the first layer adds."""

    def shares(self, rows: Floats) -> Tensor:
        """(B, F, H) float32: each feature's part of the first layer's sum, of encoded rows (B, D)."""

    def probability(self, sums: Tensor) -> Tensor:
        """(B,) probabilities of first-layer sums (B, H), differentiable."""

    def inputs(self, rows: Floats) -> Tensor:
        """(B, W) what the first layer reads, of encoded rows (B, D)."""

    def sums(self, inputs: Tensor) -> Tensor:
        """(B, H) the first layer's sums of its inputs (B, W)."""

    def along(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """(B, F) each feature's share times the row's `slopes` (B, H), without computing the shares."""


class LayeredModel:
    """The network of a package as an `AdditiveModel`; rows are those of its `EncodedModel`.

    Args:
        predictor: a loaded model; on whatever device it predicts, explanations are computed on the CPU.

    Attributes:
        encoded: the same model over plain encoded rows.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.encoded = EncodedModel(predictor.encoder, lambda batch: predictor.predict(batch).probability)
        self._network = predictor.network
        self._calibration = predictor.calibration
        body = list(self._network.trunk.body)
        first = body[0]
        assert isinstance(first, nn.Linear)
        self._rest = nn.Sequential(*body[1:])
        self._first = first
        self._weights = first.weight.detach().T.contiguous()
        self._bias = first.bias.detach()
        owner = torch.from_numpy(self._owner(predictor, first.in_features))
        self._membership = nn.functional.one_hot(owner, len(self.names)).T.to(torch.float32).contiguous()

    @property
    def names(self) -> tuple[str, ...]:
        """The features of the encoder, in its order."""
        return self.encoded.space.names

    @property
    def bias(self) -> Tensor:
        """(H,) the bias of the first layer."""
        return self._bias

    def _owner(self, predictor: Predictor, width: int) -> Floats:
        """For each input of the first layer the index of its feature."""
        encoder, tabular = predictor.encoder, self._network.tabular
        numbers = np.arange(len(encoder.numeric))
        indicators = [position for position, column in enumerate(encoder.numeric) if column.indicator]
        sizes = [words.embedding_dim for words in tabular.embeddings if isinstance(words, nn.Embedding)]
        words = np.repeat(np.arange(len(sizes)) + len(numbers), sizes)
        owner = np.concatenate([numbers, indicators, np.repeat(numbers, BINS), words]).astype(np.int64)
        # What is left is the summary of the sequence, the last feature.
        return np.concatenate([owner, np.full(width - len(owner), len(self.names) - 1, np.int64)])

    def inputs(self, rows: Floats) -> Tensor:
        """(B, W) what the first layer reads, of encoded rows (B, D)."""
        given = [torch.from_numpy(values) for values in self.encoded.unflatten(rows).tensors().values()]
        with torch.no_grad():
            return self._network.inputs(*given)

    def sums(self, inputs: Tensor) -> Tensor:
        """(B, H), see `AdditiveModel`."""
        # The layer itself: where what follows rounds to integers, the last bit of a sum can decide.
        found: Tensor = self._first(inputs)
        return found

    def along(self, inputs: Tensor, slopes: Tensor) -> Tensor:
        """(B, F), see `AdditiveModel`."""
        return (inputs * (slopes @ self._weights.T)) @ self._membership.T

    def shares(self, rows: Floats) -> Tensor:
        """(B, F, H) float32, see `AdditiveModel`."""
        return (self.inputs(rows)[:, None, :] * self._membership) @ self._weights

    def probability(self, sums: Tensor) -> Tensor:
        """(B,) calibrated probabilities of first-layer sums (B, H), differentiable."""
        logit = self._network.trunk.classification(self._rest(sums)).squeeze(-1)
        return torch.sigmoid(self._calibration.slope * logit + self._calibration.intercept)
