"""What the architectures share: piecewise-linear numbers, category embeddings, the trunk and the two heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fasttrack.models.batch import Array
from fasttrack.models.encoding import Encoder

#: Bins a number is cut into (Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", 2022).
BINS = 8
_NARROWEST = 1e-4
_MAX_EMBEDDING = 16


@dataclass(frozen=True)
class Sizes:
    """Shapes of the inputs: `numeric` columns of which the last `indicators` are 0/1, and so on."""

    numeric: int
    indicators: int
    cardinalities: tuple[int, ...]
    length: int = 0
    channels: int = 0

    @classmethod
    def of(cls, encoder: Encoder) -> Sizes:
        """The sizes of what `encoder` makes."""
        sequence = encoder.sequence
        return cls(
            encoder.numeric_width,
            encoder.numeric_width - len(encoder.numeric),
            encoder.cardinalities,
            0 if sequence is None else sequence.length,
            0 if sequence is None else len(sequence.channels),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "cardinalities": list(self.cardinalities)}


class PiecewiseLinear(nn.Module):
    """[B, n] to [B, n * BINS]: how far each number has gone through each bin, from 0 to 1."""

    edges: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2.0, 2.0, BINS + 1).repeat(columns, 1))

    def fit(self, numeric: Array) -> None:
        """Put the bins' edges at the quantiles of training values [B, n]."""
        levels = np.linspace(0.0, 1.0, BINS + 1)
        edges = np.quantile(numeric, levels, axis=0, method="nearest").T if numeric.shape[1] else self.edges.numpy()
        self.edges.copy_(torch.from_numpy(np.ascontiguousarray(edges, dtype=np.float32)))

    def ramps(self) -> tuple[Tensor, Tensor]:
        """Where each bin begins and how wide it is, [n, BINS] each."""
        low = self.edges[:, :-1]
        # Kept finite so that a value that stands for half of the rows is a steep ramp, not a division by zero.
        return low, (self.edges[:, 1:] - low).clamp_min(_NARROWEST)

    def forward(self, numeric: Tensor) -> Tensor:
        """Bins of equal edges become steps."""
        low, width = self.ramps()
        return ((numeric.unsqueeze(2) - low) / width).clamp(0.0, 1.0).flatten(1)


class Tabular(nn.Module):
    """Numbers, their bins and the embedded categories, side by side: [B, width]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.plain = sizes.numeric - sizes.indicators
        self.bins = PiecewiseLinear(self.plain)
        widths = [min(_MAX_EMBEDDING, round(2 + cardinality**0.5)) for cardinality in sizes.cardinalities]
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality, width) for cardinality, width in zip(sizes.cardinalities, widths, strict=True)
        )
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.1)  # type: ignore[arg-type]
        self.width = sizes.numeric + self.plain * BINS + sum(widths)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Concatenate everything that isn't a sequence."""
        words = [embedding(categorical[:, column]) for column, embedding in enumerate(self.embeddings)]
        return torch.cat([numeric, self.bins(numeric[:, : self.plain]), *words], dim=1)


class Trunk(nn.Module):
    """`layers` hidden layers and the two heads.

    The regression head gives three numbers on the standardized label scale: the expected value and the lower and upper
    end of the interval, which can't cross it.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for layer in range(layers):
            blocks += [
                nn.Linear(inputs if layer == 0 else hidden, hidden),
                nn.LayerNorm(hidden),
                nn.SiLU(),
                nn.Dropout(dropout),
            ]
        self.body = nn.Sequential(*blocks)
        self.classification = nn.Linear(hidden, 1)
        self.regression = nn.Linear(hidden, 3)

    def joined_heads(self) -> tuple[Tensor, Tensor]:
        """Weight [4, hidden] and bias [4] of both heads as one layer: the logit, then the regression's three."""
        heads = (self.classification, self.regression)
        return torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logit [B] and (value, lower, upper) [B, 3]."""
        return self.heads(self.body(inputs))

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what the last hidden layer gives [B, hidden]."""
        raw = self.regression(features)
        value = raw[:, :1]
        spread = nn.functional.softplus(raw[:, 1:])
        return self.classification(features).squeeze(1), torch.cat(
            [value, value - spread[:, :1], value + spread[:, 1:]], dim=1
        )


class Network(nn.Module):
    """Base of the architectures; `summarize` is what they differ in."""

    def __init__(self, sizes: Sizes, extra: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.tabular = Tabular(sizes)
        self.trunk = Trunk(self.tabular.width + extra, hidden, layers, dropout)

    def fit_inputs(self, numeric: Array) -> None:
        """Learn what depends on the training inputs alone (bin edges) before the first step."""
        self.tabular.bins.fit(numeric[:, : self.tabular.plain])

    def summarize(self, sequence: Tensor, length: Tensor) -> Tensor:
        """A vector [B, extra] out of left-padded events [B, N, k] of which the last `length` [B] are real."""
        raise NotImplementedError

    def inputs(
        self, numeric: Tensor, categorical: Tensor, sequence: Tensor | None = None, length: Tensor | None = None
    ) -> Tensor:
        """What the trunk reads, [B, width]."""
        found: Tensor = self.tabular(numeric, categorical)
        if sequence is not None and length is not None:
            found = torch.cat([found, self.summarize(sequence, length)], dim=1)
        return found

    def forward(
        self, numeric: Tensor, categorical: Tensor, sequence: Tensor | None = None, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logit [B] and standardized (value, lower, upper) [B, 3]."""
        logit, value = self.trunk(self.inputs(numeric, categorical, sequence, length))
        return logit, value
