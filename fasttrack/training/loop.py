"""One fit, in this process alone or as one of several that torchrun started."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from fasttrack.errors import StepError
from fasttrack.models.device import device
from fasttrack.models.threads import single_thread
from fasttrack.training.direction import HIGHER_IS_BETTER
from fasttrack.training.module import Learner, Plan
from fasttrack.training.prepare import Prepared

OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """The best epoch's averaged weights, its validation scores, and the scores of every epoch."""

    state: dict[str, Tensor]
    scores: dict[str, float]
    curve: list[dict[str, float]]


class KeepBest(pl.Callback):
    """Remembers the weights of the best epoch; part of the checkpoint, so that a resumed fit knows them."""

    def __init__(self, metric: str, on_epoch: OnEpoch | None) -> None:
        self._metric = metric
        self._on_epoch = on_epoch
        self.state: dict[str, Tensor] = {}
        self.best: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch that was just scored."""
        assert isinstance(pl_module, Learner)
        latest = pl_module.curve[-1]
        sign = 1 if HIGHER_IS_BETTER[self._metric] else -1
        if not math.isfinite(latest["loss"]) or not math.isfinite(latest[self._metric]):
            raise StepError(
                f"training diverged: in epoch {latest['epoch']:.0f} the loss is {latest['loss']}.",
                fix="Lower the learning rate in the search space, or look for extreme feature values.",
            )
        if not self.best or sign * latest[self._metric] > sign * self.best[self._metric]:
            self.best = dict(latest)
            self.state = pl_module.averaged_state()
        if self._on_epoch is not None and trainer.is_global_zero:
            self._on_epoch(latest)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the best weights and the curve."""
        assert isinstance(pl_module, Learner)
        checkpoint["fasttrack"] = {"state": self.state, "best": self.best, "curve": pl_module.curve}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take them back."""
        assert isinstance(pl_module, Learner)
        kept = checkpoint["fasttrack"]
        self.state, self.best, pl_module.curve = kept["state"], kept["best"], list(kept["curve"])


def train(
    prepared: Prepared,
    architecture: str,
    parameters: Mapping[str, Any],
    plan: Plan,
    *,
    checkpoints: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Fit one model; with ``WORLD_SIZE`` set (torchrun), as one process of a group: gloo on CPUs, NCCL on GPUs.

    The same inputs, plan, number of processes and kind of device give the same weights, bit for bit, also after a
    resume. Where it computes: `fasttrack.models.device`.

    Args:
        prepared: encoded rows.
        architecture: see `fasttrack.models.architectures.build`.
        parameters: hyperparameters, those of the optimizer included.
        plan: epochs, batch size and so on.
        checkpoints: a folder in which a checkpoint is kept after each epoch, and from which a broken fit goes on.
        on_epoch: called with each epoch's scores in the first process; may raise to stop.

    Raises:
        ConfigurationError: from `build`, or `fasttrack.models.device.device`.
        StepError: the loss is no longer finite.
    """
    best = KeepBest(plan.metric, on_epoch)
    callbacks: list[pl.Callback] = [best]
    if plan.patience:
        mode = "max" if HIGHER_IS_BETTER[plan.metric] else "min"
        # KeepBest explains a score that is not finite; this callback would only stop.
        callbacks.append(EarlyStopping("score", patience=plan.patience, mode=mode, check_finite=False))
    last = None
    if checkpoints is not None:
        callbacks.append(ModelCheckpoint(dirpath=checkpoints, filename="last", enable_version_counter=False))
        last = checkpoints / "last.ckpt"
    with _quiet():
        learner = Learner(prepared, architecture, parameters, plan)
        where, placed = _where()
        learner.keep_rows_on(where)
        trainer = pl.Trainer(
            max_epochs=plan.epochs,
            callbacks=callbacks,
            enable_checkpointing=checkpoints is not None,
            reload_dataloaders_every_n_epochs=1,
            **placed,
            **_SILENT,
        )
        resume = str(last) if last is not None and last.is_file() else None
        # weights_only: a checkpoint is read without running anything that it may contain.
        trainer.fit(learner, ckpt_path=resume, weights_only=True if resume else None)
    return Trained(best.state, best.best, learner.curve)


_SILENT: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "deterministic": True,
    "use_distributed_sampler": False,
}


def _where() -> tuple[torch.device, dict[str, Any]]:
    """This process's device, and what Lightning has to know of it and of the others."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = device(local)
    gpu = kind.type == "cuda"
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else kind
    placed: dict[str, Any] = {"accelerator": "gpu" if gpu else "cpu", "devices": 1}
    if "WORLD_SIZE" in os.environ:
        backend = "nccl" if gpu else "gloo"
        strategy = pl.strategies.DDPStrategy(process_group_backend=backend, broadcast_buffers=False)
        placed |= {"devices": local, "num_nodes": world // local, "strategy": strategy}
    return own, placed


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice to users of its loaders; torch's global switches are set, and put back afterwards."""
    logger = logging.getLogger("pytorch_lightning")
    level, strict = logger.level, torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    logger.setLevel(logging.ERROR)
    try:
        # Batches this small gain little from a second thread, too.
        with single_thread(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(strict)
        torch.set_rng_state(state)
