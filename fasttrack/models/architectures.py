"""From the name and hyperparameters of a candidate to its module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.models.layers import Network, Sizes
from fasttrack.models.lstm import Lstm
from fasttrack.models.mlp import Mlp
from fasttrack.models.transformer import Transformer

ARCHITECTURES: dict[str, type[Network]] = {"mlp": Mlp, "lstm": Lstm, "transformer": Transformer}

#: Hyperparameters of the optimizer: they don't shape the module, but may be searched beside the others.
OPTIMIZER_PARAMETERS = frozenset({"learning_rate", "weight_decay"})


def build(architecture: str, parameters: Mapping[str, Any], sizes: Sizes) -> Network:
    """Make an untrained module; its weights come from torch's global generator.

    Args:
        architecture: ``mlp``, ``lstm`` or ``transformer``.
        parameters: hyperparameters; absent ones keep the architecture's defaults.
        sizes: shapes of the inputs, see `Sizes.of`.

    Raises:
        ConfigurationError: an unknown architecture or parameter, a sequence model without a sequence feature, or
            a number of attention heads that doesn't divide the width.
    """
    kind = ARCHITECTURES.get(architecture)
    if kind is None:
        raise ConfigurationError(
            f"architecture {architecture!r} is not known.", fix=f"Choose from {sorted(ARCHITECTURES)}."
        )
    shaping = {name: value for name, value in parameters.items() if name not in OPTIMIZER_PARAMETERS}
    allowed = set(inspect.signature(kind).parameters) - {"sizes"}
    unknown = sorted(set(shaping) - allowed)
    if unknown:
        raise ConfigurationError(
            f"{architecture} has no hyperparameter {unknown[0]!r}.",
            where=f"models.{architecture}.search.{unknown[0]}",
            fix=f"It has: {', '.join(sorted(allowed | OPTIMIZER_PARAMETERS))}.",
        )
    if kind is not Mlp and not sizes.length:
        raise ConfigurationError(
            f"{architecture} needs a sequence feature, and the use case has none.",
            fix="Use mlp, or add a sequence feature.",
        )
    if shaping.get("sequence_hidden", 32) % shaping.get("heads", 1):
        raise ConfigurationError(
            f"heads ({shaping['heads']}) must divide sequence_hidden ({shaping.get('sequence_hidden', 32)}).",
            where=f"models.{architecture}.search.heads",
        )
    return kind(sizes, **shaping)
