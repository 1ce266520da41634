"""What a network is trained to make small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttrack.training.prepare import Example

_INPUTS = ("numeric", "categorical", "sequence", "length")
_REGRESSION_WEIGHT = 0.5


def network_inputs(example: Example) -> list[Tensor]:
    """The tensors of an example that a network reads, in its order."""
    return [example[name] for name in _INPUTS if name in example]


def forward(network: nn.Module, example: Example) -> tuple[Tensor, Tensor]:
    """Logit [B] and standardized (value, lower, upper) [B, 3]."""
    found: tuple[Tensor, Tensor] = network(*network_inputs(example))
    return found


def multi_task_loss(logit: Tensor, value: Tensor, example: Example, coverage: float) -> Tensor:
    """Cross-entropy, plus Huber loss of the value and pinball loss of the interval's two ends."""
    classification = nn.functional.binary_cross_entropy_with_logits(logit, example["positive"])
    regression = nn.functional.smooth_l1_loss(value[:, 0], example["label"])
    levels = torch.tensor([(1 - coverage) / 2, (1 + coverage) / 2], device=value.device)
    miss = example["label"].unsqueeze(1) - value[:, 1:]
    pinball = torch.maximum(levels * miss, (levels - 1) * miss).mean()
    return classification + _REGRESSION_WEIGHT * (regression + pinball)


def distillation_loss(logit: Tensor, value: Tensor, teacher: tuple[Tensor, Tensor]) -> Tensor:
    """How far the outputs are from a teacher's (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

    Args:
        logit: [B].
        value: standardized (value, lower, upper) [B, 3].
        teacher: the same of the teacher.
    """
    classification = nn.functional.binary_cross_entropy_with_logits(logit, torch.sigmoid(teacher[0]))
    return classification + _REGRESSION_WEIGHT * nn.functional.smooth_l1_loss(value, teacher[1])
