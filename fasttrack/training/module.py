"""The Lightning module: two heads learnt together, weights averaged, scored on validation rows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from fasttrack.models.architectures import build
from fasttrack.models.layers import Network, Sizes
from fasttrack.training import scores
from fasttrack.training.loss import forward, multi_task_loss
from fasttrack.training.prepare import Batches, Example, Prepared

_WARM_UP = 0.2
_WEIGHT_DECAY = 0.01
_LEARNING_RATE = 2e-3
_LARGEST_GRADIENT = 1.0
_AVERAGING = 0.998


@dataclass(frozen=True)
class Plan:
    """How a fit is run.

    Attributes:
        epochs: at most so many passes over the training rows.
        batch_size: rows a step, over all processes.
        patience: epochs without improvement of `metric` before stopping; 0 never stops early.
        seed: of initial weights, order of rows and dropout.
        metric: the validation score that picks the epoch.
        coverage: nominal coverage, which sets the quantiles that the interval's ends learn.
    """

    epochs: int
    batch_size: int
    patience: int
    seed: int
    metric: str
    coverage: float


class Learner(pl.LightningModule):
    """Trains `network`; `averaged` is its exponential moving average, which is validated and kept.

    Averaging stands in for the tail of a learning-rate schedule that early stopping cuts off.
    """

    def __init__(self, prepared: Prepared, architecture: str, parameters: Mapping[str, Any], plan: Plan) -> None:
        super().__init__()
        torch.manual_seed(plan.seed)
        self.network = build(architecture, parameters, Sizes.of(prepared.encoder))
        self.network.fit_inputs(prepared.train["numeric"].numpy())
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        self._prepared = prepared
        self._plan = plan
        self._rate = float(parameters.get("learning_rate", _LEARNING_RATE))
        self._decay = float(parameters.get("weight_decay", _WEIGHT_DECAY))
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._loss = torch.zeros(())
        self.curve: list[dict[str, float]] = []

    def keep_rows_on(self, device: torch.device) -> None:
        """Hold all rows on `device`: sending each batch to a GPU takes longer than learning from it."""
        kept = [{k: v.to(device) for k, v in rows.items()} for rows in (self._prepared.train, self._prepared.validate)]
        self._prepared = dataclasses.replace(self._prepared, train=kept[0], validate=kept[1])

    def train_dataloader(self) -> Batches:
        """This epoch's batches for this process; made anew each epoch, so that a resumed fit sees the same ones."""
        seed = self._plan.seed * 1_000_003 + self.current_epoch
        world = self.trainer.world_size
        return Batches(
            self._prepared.train, self._plan.batch_size, rank=self.trainer.global_rank, world=world, seed=seed
        )

    def val_dataloader(self) -> Batches:
        """Every process scores all validation rows: so each decides alike when to stop, without exchanging rows."""
        return Batches(self._prepared.validate, 8192)

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self._rate, weight_decay=self._decay)
        steps = self._plan.epochs * len(self.train_dataloader())
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._rate, total_steps=max(2, steps), pct_start=_WARM_UP
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Seed dropout by epoch and process: a resumed fit goes on exactly like an uninterrupted one."""
        torch.manual_seed(self._plan.seed * 1_000_003 + self.current_epoch * 1009 + self.trainer.global_rank)

    def training_step(self, example: Example, _: int) -> Tensor:
        """One global batch's share."""
        logit, value = forward(self.network, example)
        loss = multi_task_loss(logit, value, example, self._plan.coverage)
        self._loss = loss.detach()
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip: one flight days late must not throw the weights away."""
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Example, batch_idx: int) -> None:
        """Move the average; it follows fast at first, so that initial weights don't linger."""
        decay = min(_AVERAGING, (1 + self.global_step) / (10 + self.global_step))
        for average, current in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            average.lerp_(current, 1 - decay)

    def validation_step(self, example: Example, _: int) -> None:
        """Collect the averaged model's outputs."""
        self.averaged.eval()
        self._outputs.append(forward(self.averaged, example))

    def on_validation_epoch_end(self) -> None:
        """Score the epoch and log ``score`` for early stopping."""
        logit = torch.cat([output[0] for output in self._outputs]).double().cpu().numpy()
        value = torch.cat([output[1] for output in self._outputs])[:, 0].double().cpu().numpy()
        self._outputs.clear()
        rows, scale = self._prepared.validate_rows, self._prepared.label
        found = validation_scores(rows.positive, rows.label, logit, value * scale.scale + scale.center)
        self.curve.append({"epoch": float(self.current_epoch + 1), "loss": float(self._loss), **found})
        self.log("score", found[self._plan.metric], prog_bar=False)

    def averaged_state(self) -> dict[str, Tensor]:
        """A copy of the averaged weights, contiguous and on the CPU."""
        network: Network = self.averaged
        return {name: values.detach().cpu().contiguous().clone() for name, values in network.state_dict().items()}


def validation_scores(positive: Any, label: Any, logit: Any, value: Any) -> dict[str, float]:
    """The four tuning metrics; `value` in label units."""
    probability = 1 / (1 + np.exp(-logit))
    return {
        "auc": scores.auc(positive, logit),
        "average_precision": scores.average_precision(positive, logit),
        "log_loss": scores.log_loss(positive, probability),
        "mae": scores.mae(label, value),
    }
