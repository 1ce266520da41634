"""A small Transformer over the recent events, beside the tabular trunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttrack.models.layers import Network, Sizes


class SummaryBlock(nn.Module):
    """A pre-norm Transformer block of which only one token's output is computed: that is all that is read."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.after = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """The last of `tokens` [B, T, d] after the block, [B, d]; `visible` [B, T] says which may be looked at."""
        batch, count, width = tokens.shape
        size = width // self.heads
        normed = self.before(tokens)
        query = self.query(normed[:, -1]).view(batch, self.heads, 1, size)
        key, value = self.keys_values(normed).view(batch, count, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        # Written out: at this size the fused kernels are slower, and their order of summation depends on the mask.
        scores = (query * key).sum(dim=3) * size**-0.5
        weights = scores.masked_fill(~visible[:, None, :], float("-inf")).softmax(dim=2)
        mixed = (weights.unsqueeze(3) * value).sum(dim=2).reshape(batch, width)
        summary: Tensor = tokens[:, -1] + self.out(mixed)
        return summary.add(self.feed(self.after(summary)))


class Transformer(Network):
    """A summary token attends to the events; position counts from the newest, so padding has no position."""

    def __init__(
        self,
        sizes: Sizes,
        hidden: int = 128,
        layers: int = 2,
        sequence_hidden: int = 32,
        heads: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(sizes, sequence_hidden, hidden, layers, dropout)
        self.lift = nn.Linear(sizes.channels, sequence_hidden)
        self.position = nn.Parameter(torch.randn(sizes.length, sequence_hidden) * 0.02)
        self.summary = nn.Parameter(torch.randn(1, 1, sequence_hidden) * 0.02)
        self.block = SummaryBlock(sequence_hidden, heads, dropout)
        self.norm = nn.LayerNorm(sequence_hidden)

    def summarize(self, sequence: Tensor, length: Tensor) -> Tensor:
        """[B, sequence_hidden], the summary token after one block."""
        count, positions, _ = sequence.shape
        real = torch.arange(positions, 0, -1, device=sequence.device) <= length.unsqueeze(1)
        events = torch.where(real.unsqueeze(2), sequence, torch.zeros_like(sequence))
        tokens = torch.cat([self.lift(events) + self.position[-positions:], self.summary.expand(count, 1, -1)], dim=1)
        visible = torch.cat([real, real.new_ones(count, 1)], dim=1)
        found: Tensor = self.norm(self.block(tokens, visible))
        return found
