"""A network in evaluation mode as a straight line of torch's functions.

On few rows most of a forward pass is what modules do around these functions: one row of 40 inputs takes 44 us instead
of 86. Compiling the network with torch would need a compiler where it is served.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fasttrack.models.layers import Network

Step = Callable[[Tensor], Tensor]


class Straight:
    """Computes what the network does; sees no later change of its weights.

    Args:
        network: in evaluation mode, on the CPU, without gradients of its weights.
    """

    def __init__(self, network: Network) -> None:
        self._summarize = network.summarize
        tabular, trunk = network.tabular, network.trunk
        self._plain = tabular.plain if tabular.plain < network.sizes.numeric else None
        self._low, self._width = tabular.bins.ramps()
        self._tables = [embedding.get_parameter("weight") for embedding in tabular.embeddings]
        self._steps = [step for layer in trunk.body for step in _steps(layer)]
        self._weight, self._bias = trunk.joined_heads()

    def __call__(
        self, numeric: Tensor, categorical: Tensor, sequence: Tensor | None = None, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logit [B] and standardized (value, lower, upper) [B, 3], as `Network.forward` gives them."""
        numbers = numeric if self._plain is None else numeric[:, : self._plain]
        bins = ((numbers.unsqueeze(2) - self._low) / self._width).clamp_(0.0, 1.0).flatten(1)
        parts = [
            numeric,
            bins,
            *(table[codes] for table, codes in zip(self._tables, categorical.unbind(1), strict=True)),
        ]
        if sequence is not None and length is not None:
            parts.append(self._summarize(sequence, length))
        found = torch.cat(parts, dim=1)
        for step in self._steps:
            found = step(found)
        heads = functional.linear(found, self._weight, self._bias)
        ends = heads[:, 1:2].repeat(1, 3)
        spread = functional.softplus(heads[:, 2:])
        ends[:, 1] -= spread[:, 0]
        ends[:, 2] += spread[:, 1]
        return heads[:, 0], ends


def _steps(layer: nn.Module) -> list[Step]:
    """What a layer of the trunk does, if anything."""
    if isinstance(layer, nn.Dropout):
        return []
    if type(layer) is nn.Linear:
        weight, bias = layer.weight, layer.bias
        return [lambda given: functional.linear(given, weight, bias)]
    if isinstance(layer, nn.LayerNorm):
        shape, scale, shift, epsilon = layer.normalized_shape, layer.weight, layer.bias, layer.eps
        return [lambda given: functional.layer_norm(given, shape, scale, shift, epsilon)]
    if isinstance(layer, nn.SiLU):
        return [lambda given: functional.silu(given, inplace=True)]
    return [layer]
