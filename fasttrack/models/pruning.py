"""Structured pruning: a network with fewer hidden units, whose layers are really smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fasttrack.models.architectures import build
from fasttrack.models.layers import Network

#: A normalized layer of one unit would be a constant.
_FEWEST = 2


@dataclass(frozen=True)
class Layer:
    """A hidden layer at work on B rows.

    Attributes:
        sums: [B, H] before normalization.
        activations: [B, H] what the next layer reads; in the graph, if gradients are on.
    """

    sums: Tensor
    activations: Tensor


def units_kept(hidden: int, pruning: float) -> int:
    """How many of `hidden` units remain when a share of `pruning` is removed."""
    return max(min(_FEWEST, hidden), round(hidden * (1 - pruning)))


def layers(network: Network, inputs: Tensor) -> list[Layer]:
    """Each hidden layer of the trunk, given what the trunk reads [B, W]; nothing is dropped out."""
    found, rows = [], inputs
    for linear, norm in _blocks(network):
        sums = linear(rows)
        rows = nn.functional.silu(norm(sums))
        found.append(Layer(sums, rows))
    return found


def prune(
    network: Network,
    architecture: str,
    parameters: Mapping[str, Any],
    kept: Sequence[Tensor],
    seen: Sequence[Layer],
) -> Network:
    """The network without the units that are not kept, as near to it as possible without training.

    A removed unit counts as its mean over the rows seen: the next layer's bias takes that in. LayerNorm's mean and
    variance are over fewer units then; its weight and bias take in how far they differ on average. So nothing changes
    (but for LayerNorm's epsilon) where removed units are constant and their sums are the mean of the kept ones' sums.

    Args:
        network: the full network; stays as it is.
        architecture: its name.
        parameters: its hyperparameters.
        kept: for each hidden layer the units that remain, int64 in increasing order, as many in each.
        seen: its hidden layers at work on typical rows, see `layers`.
    """
    state = {name: values.detach() for name, values in network.state_dict().items()}
    before: tuple[Tensor, Tensor] | None = None
    for position, (units, layer) in enumerate(zip(kept, seen, strict=True)):
        name = f"trunk.body.{4 * position}"
        state |= _cut(state, name, before)
        state |= {f"{name}.{part}": state[f"{name}.{part}"][units] for part in ("weight", "bias")}
        state |= _normalized(state, f"trunk.body.{4 * position + 1}", units, layer.sums.detach())
        before = units, layer.activations.detach().mean(dim=0)
    for head in ("trunk.classification", "trunk.regression"):
        state |= _cut(state, head, before)
    with torch.random.fork_rng(devices=[]):
        smaller = build(architecture, {**parameters, "hidden": len(kept[0])}, network.sizes)
    smaller.load_state_dict(state)
    return smaller.eval()


def _cut(state: Mapping[str, Tensor], name: str, before: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """The layer `name` that reads only some units of the layer before; the others' means [H] go into its bias."""
    if before is None:
        return {}
    units, means = before
    weight, gone = state[f"{name}.weight"], means.clone()
    gone[units] = 0.0
    return {f"{name}.weight": weight[:, units], f"{name}.bias": state[f"{name}.bias"] + weight @ gone}


def _normalized(state: Mapping[str, Tensor], name: str, units: Tensor, sums: Tensor) -> dict[str, Tensor]:
    """The LayerNorm `name` over fewer units; what its mean and variance lose is made good on average of `sums`."""
    epsilon = nn.LayerNorm(1).eps
    kept = sums[:, units]
    spread, fewer = ((part.var(dim=1, correction=0) + epsilon).sqrt() for part in (sums, kept))
    ratio = (fewer / spread).mean()
    shift = ((kept.mean(dim=1) - sums.mean(dim=1)) / spread).mean()
    weight, bias = state[f"{name}.weight"][units], state[f"{name}.bias"][units]
    return {f"{name}.weight": weight * ratio, f"{name}.bias": bias + weight * shift}


def _blocks(network: Network) -> Iterator[tuple[nn.Module, nn.Module]]:
    body = list(network.trunk.body)
    return zip(body[::4], body[1::4], strict=True)
