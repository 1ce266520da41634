"""A pruned model: the least salient hidden units are removed, then what is left learns from the full model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fasttrack.models.layers import Network
from fasttrack.models.pruning import layers, prune, units_kept
from fasttrack.models.threads import single_thread
from fasttrack.training.loss import distillation_loss, forward, multi_task_loss, network_inputs
from fasttrack.training.prepare import Batches, Example

#: Rows that saliency, means and normalization are measured on.
_SEEN = 4096
#: At most so many steps, however many rows there are: minutes at most, also for a sequence model.
_STEPS = 1500
_RATE = 1e-3
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1
_LARGEST_GRADIENT = 1.0
_LOGIT, _VALUE = "teacher_logit", "teacher_value"


@dataclass(frozen=True)
class FineTuning:
    """How a pruned network is fine-tuned.

    Attributes:
        epochs: at most so many passes over the rows.
        batch_size: rows a step.
        seed: of the order and of dropout.
        coverage: nominal coverage of the interval.
    """

    epochs: int
    batch_size: int
    seed: int
    coverage: float


def passes(rows: int, epochs: int, batch_size: int) -> int:
    """How many passes over `rows` there will be: `epochs`, or as many as fit into a bounded number of steps."""
    return max(1, min(epochs, _STEPS // max(1, rows // batch_size)))


def pruned(
    network: Network,
    architecture: str,
    parameters: Mapping[str, Any],
    pruning: float,
    example: Example,
    tuning: FineTuning,
    on_pass: Callable[[], None] = lambda: None,
) -> Network:
    """The network without a share of `pruning` of its hidden units, fine-tuned; the same inputs give the same weights.

    Args:
        network: the full network, which stays as it is.
        architecture: its name.
        parameters: its hyperparameters.
        pruning: share of the units of every hidden layer to remove, in (0, 1).
        example: training rows.
        tuning: how to go on.
        on_pass: called after each of `passes`.
    """
    with single_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(tuning.seed)
        count = min(_SEEN, len(example["positive"]))
        drawn = torch.randperm(len(example["positive"]))[:count].sort().values
        few = {name: values[drawn] for name, values in example.items()}
        with torch.no_grad():
            seen = layers(network, network.inputs(*network_inputs(few)))
            taught = {**example, **_teacher(network, example)}
        wanted = units_kept(seen[0].sums.shape[1], pruning)
        kept = [each.topk(wanted).indices.sort().values for each in saliency(network, few, tuning.coverage)]
        student = prune(network, architecture, parameters, kept, seen)
        _fine_tune(student, taught, tuning, on_pass)
    return student.eval().requires_grad_(False)


def saliency(network: Network, example: Example, coverage: float) -> list[Tensor]:
    """For each hidden layer [H]: what the loss would change, to first order, with each unit at its mean instead.

    The mean over rows of ``|(activation - mean) * gradient|`` (Molchanov et al., "Pruning Convolutional Neural Networks
    for Resource Efficient Inference", 2017, with the mean in place of 0, as `prune` keeps it).
    """
    with torch.enable_grad():
        inputs = network.inputs(*network_inputs(example)).detach().requires_grad_(True)
        found = [layer.activations for layer in layers(network, inputs)]
        logit, value = network.trunk.heads(found[-1])
        loss = multi_task_loss(logit, value, example, coverage)
        slopes = torch.autograd.grad(loss, found)
    return [
        ((each - each.mean(dim=0)) * slope).abs().mean(dim=0).detach()
        for each, slope in zip(found, slopes, strict=True)
    ]


def _teacher(network: Network, example: Example) -> Example:
    parts = [forward(network, part) for part in Batches(example, 8192)]
    return {_LOGIT: torch.cat([part[0] for part in parts]), _VALUE: torch.cat([part[1] for part in parts])}


def _fine_tune(student: Network, example: Example, tuning: FineTuning, on_pass: Callable[[], None]) -> None:
    count = passes(len(example["positive"]), tuning.epochs, tuning.batch_size)
    orders = [Batches(example, tuning.batch_size, seed=tuning.seed * 1_000_003 + number) for number in range(count)]
    student.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    steps = max(2, sum(len(order) for order in orders))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=_WARM_UP)
    for order in orders:
        for part in order:
            logit, value = forward(student, part)
            loss = multi_task_loss(logit, value, part, tuning.coverage)
            loss = loss + distillation_loss(logit, value, (part[_LOGIT], part[_VALUE]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
        on_pass()
