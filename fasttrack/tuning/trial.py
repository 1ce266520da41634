"""One trial: fit a candidate on a share of the training rows and score it; Optuna and Katib use the same function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fasttrack.training.data import Rows, folds, load_splits, thin
from fasttrack.training.loop import train
from fasttrack.training.module import Plan
from fasttrack.training.prepare import Prepared, prepare
from fasttrack.usecase import UseCase

#: Called with the number of finished steps (epochs, over all folds) and the mean score so far; may raise to stop.
OnStep = Callable[[int, float], None]


@dataclass
class Trials:
    """The rows that all trials of a use case share; read when the first trial really runs."""

    usecase: UseCase
    features_path: str | Path

    @cached_property
    def _prepared(self) -> list[Prepared]:
        tuning = self.usecase.tuning
        splits = load_splits(self.usecase, self.features_path, seed=tuning.seed)
        pairs: list[tuple[Rows, Rows]] = [(splits.train, splits.validate)]
        if tuning.folds > 1:
            pairs = folds(splits.train, tuning.folds)
        thinned = ((thin(learn, tuning.sample, tuning.seed), held_out) for learn, held_out in pairs)
        return [prepare(self.usecase, learn, held_out) for learn, held_out in thinned]

    def run(
        self, architecture: str, parameters: Mapping[str, Any], seed: int, on_step: OnStep | None = None
    ) -> dict[str, float]:
        """Validation scores of the best epoch, averaged over the folds.

        Args:
            architecture: candidate.
            parameters: its hyperparameters.
            seed: of weights, order and dropout.
            on_step: see `OnStep`.

        Raises:
            ConfigurationError: hyperparameters that the candidate doesn't have.
            StepError: the fit diverged.
        """
        usecase, metric = self.usecase, self.usecase.tuning.metric
        plan = Plan(usecase.tuning.epochs, usecase.training.batch_size, 0, seed, metric, usecase.gate.coverage)
        found: list[dict[str, float]] = []
        step = 0

        def report(scores: dict[str, float]) -> None:
            nonlocal step
            step += 1
            if on_step is not None:
                on_step(step, float(np.mean([*(fold[metric] for fold in found), scores[metric]])))

        for prepared in self._prepared:
            found.append(train(prepared, architecture, parameters, plan, on_epoch=report).scores)
        return {
            name: float(np.mean([fold[name] for fold in found])) for name in found[0] if name not in ("epoch", "loss")
        }
