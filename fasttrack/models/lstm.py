"""LSTM over the recent events, beside the tabular trunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttrack.models.layers import Network, Sizes


class Lstm(Network):
    """One recurrent layer reads the events, oldest first; its last state joins the trunk."""

    def __init__(
        self, sizes: Sizes, hidden: int = 128, layers: int = 2, sequence_hidden: int = 32, dropout: float = 0.1
    ) -> None:
        super().__init__(sizes, sequence_hidden, hidden, layers, dropout)
        self.recurrent = nn.LSTM(sizes.channels, sequence_hidden, batch_first=True)

    def summarize(self, sequence: Tensor, length: Tensor) -> Tensor:
        """[B, sequence_hidden]; zeros where there is no event."""
        positions = sequence.shape[1]
        # Real events first: an LSTM is causal, so what comes after position length - 1 can't change its state there.
        steps = torch.arange(positions, device=sequence.device)
        source = (steps + (positions - length.unsqueeze(1))) % positions
        states, _ = self.recurrent(sequence.gather(1, source.unsqueeze(2).expand_as(sequence)))
        last = (length - 1).clamp_min(0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        found: Tensor = states.gather(1, last).squeeze(1) * (length > 0).unsqueeze(1)
        return found
