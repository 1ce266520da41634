"""Choose the candidate and its hyperparameters with Optuna; repeatable, and cheap to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from fasttrack.errors import StepError
from fasttrack.progress import note, track
from fasttrack.training.direction import HIGHER_IS_BETTER
from fasttrack.training.fit import fit_stamp
from fasttrack.tuning.cache import TrialCache, key
from fasttrack.tuning.katib import MIN_TRIALS
from fasttrack.tuning.space import ARCHITECTURE, Dimension, Value, architectures, select, space
from fasttrack.tuning.trial import Trials
from fasttrack.usecase import UseCase
from fasttrack.usecase.learning import ChoiceParameter, FloatParameter, IntParameter


@dataclass(frozen=True)
class Trial:
    """One tried candidate.

    Attributes:
        number: from 0, over all rounds.
        round: from 1.
        architecture: candidate.
        parameters: its hyperparameters.
        scores: validation scores; empty when stopped early.
        state: ``complete`` or ``stopped``.
        cached: whether it was known from an earlier search.
    """

    number: int
    round: int
    architecture: str
    parameters: dict[str, Any]
    scores: dict[str, float]
    state: str
    cached: bool


@dataclass(frozen=True)
class TuneResult:
    """The best candidate, its score, and all trials of all rounds so far."""

    architecture: str
    parameters: dict[str, Any]
    metric: str
    score: float
    trials: list[Trial]


def tune(
    usecase: UseCase,
    features_path: str | Path,
    *,
    round: int = 1,
    trials: int | None = None,
    storage: str | Path | None = None,
) -> TuneResult:
    """Search ``usecase.models``; trials run one after the other in this process, on one thread.

    Every candidate is first tried in the middle of its ranges, then the sampler decides. Round r goes through rounds
    1..r-1 first (from `storage`, nothing is computed again) and adds trials with other seeds. The same arguments
    give the same result, with or without `storage`.

    Args:
        usecase: the use case.
        features_path: the feature table.
        round: from 1; how often the gate sent us here.
        trials: a round; default ``usecase.tuning.trials``, and never fewer than there are candidates.
        storage: folder that keeps finished trials.

    Raises:
        ConfigurationError: a searched hyperparameter that the candidate doesn't have.
        StepError: every trial failed.
        StorageError: `storage` can't be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    count = max(usecase.tuning.trials if trials is None else trials, len(usecase.models))
    search = _Search(usecase, features_path, TrialCache(storage))
    with track("Tuning", total=round * count, unit="trials") as bar:
        for number in range(1, round + 1):
            search.run_round(number, count, bar.advance)
    return search.result()


class _Search:
    def __init__(self, usecase: UseCase, features_path: str | Path, cache: TrialCache) -> None:
        self._usecase = usecase
        self._cache = cache
        self._runner = Trials(usecase, features_path)
        self._metric = usecase.tuning.metric
        self._basis = fit_stamp(usecase, features_path, "", {}, usecase.tuning.sample)
        self._space = space(usecase)
        self.trials: list[Trial] = []
        self._study = optuna.create_study(
            direction="maximize" if HIGHER_IS_BETTER[self._metric] else "minimize",
            pruner=_pruner(usecase),
            sampler=optuna.samplers.RandomSampler(seed=usecase.tuning.seed),
        )
        for architecture in architectures(usecase):
            middles = {d.name: d.middle() for d in self._space if d.architecture == architecture}
            self._study.enqueue_trial({ARCHITECTURE: architecture, **middles})

    def run_round(self, number: int, count: int, advance: Any) -> None:
        """Run `count` trials with this round's sampler."""
        self._study.sampler = _sampler(self._usecase, number)
        for _ in range(count):
            trial = self._study.ask()
            self._run(trial, number)
            advance()

    def _run(self, trial: optuna.Trial, number: int) -> None:
        assignment = _suggest(trial, architectures(self._usecase), self._space)
        architecture, parameters = select(self._usecase, assignment)
        # Every trial of a round starts from the same weights: the hyperparameters are compared, not the luck.
        seed = self._usecase.tuning.seed + number - 1
        tuning = self._usecase.tuning.model_dump(mode="json", exclude={"trials", "parallel_trials", "algorithm"})
        name = key([self._basis, tuning, architecture, parameters, seed])
        record = self._cache.get(name)
        cached = record is not None
        if record is None:
            record = self._compute(architecture, parameters, seed, trial)
            self._cache.put(name, record)
        elif not self._replay(record, trial):
            record = {**record, "state": "stopped", "scores": {}}
        if record["state"] == "complete":
            self._study.tell(trial, record["scores"][self._metric])
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        done = Trial(trial.number, number, architecture, parameters, record["scores"], record["state"], cached)
        self.trials.append(done)
        note(f"  trial {trial.number + 1}: {_describe(done, self._metric)}")

    def _compute(
        self, architecture: str, parameters: Mapping[str, Any], seed: int, trial: optuna.Trial
    ) -> dict[str, Any]:
        steps: list[float] = []

        def on_step(step: int, score: float) -> None:
            steps.append(score)
            trial.report(score, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            scores = self._runner.run(architecture, parameters, seed, on_step)
        except optuna.TrialPruned:
            return {"state": "stopped", "scores": {}, "steps": steps}
        except StepError as error:
            # A learning rate that diverges is a result of the search, not the end of it.
            return {"state": "stopped", "scores": {}, "steps": steps, "reason": str(error)}
        return {"state": "complete", "scores": scores, "steps": steps}

    def _replay(self, record: Mapping[str, Any], trial: optuna.Trial) -> bool:
        """Tell the pruner what it was told then; False if it stops the trial now."""
        for step, score in enumerate(record["steps"], start=1):
            trial.report(score, step)
            if trial.should_prune():
                return False
        return True

    def result(self) -> TuneResult:
        """The best complete trial; the first of equals."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        if not complete:
            raise StepError(
                "no trial came to an end.",
                where="tuning",
                fix="Lower the learning rates of the search space, or stop none early.",
            )
        sign = 1 if HIGHER_IS_BETTER[self._metric] else -1
        best = max(complete, key=lambda trial: sign * trial.scores[self._metric])
        return TuneResult(best.architecture, best.parameters, self._metric, best.scores[self._metric], self.trials)


def _suggest(trial: optuna.Trial, candidates: list[str], dimensions: list[Dimension]) -> dict[str, Value]:
    """Ask for the architecture, then for its dimensions only."""
    chosen = trial.suggest_categorical(ARCHITECTURE, candidates)
    found: dict[str, Value] = {ARCHITECTURE: chosen}
    for dimension in dimensions:
        if dimension.architecture != chosen:
            continue
        match dimension.range:
            case FloatParameter(low=low, high=high, log=log):
                found[dimension.name] = trial.suggest_float(dimension.name, low, high, log=log)
            case IntParameter(low=low, high=high, step=step):
                found[dimension.name] = trial.suggest_int(dimension.name, low, high, step=step)
            case ChoiceParameter(choices=choices):
                chosen_value: Any = trial.suggest_categorical(dimension.name, choices)
                found[dimension.name] = chosen_value
    return found


def _sampler(usecase: UseCase, number: int) -> optuna.samplers.BaseSampler:
    seed = usecase.tuning.seed + number
    if usecase.tuning.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=len(usecase.models))


def _pruner(usecase: UseCase) -> optuna.pruners.BasePruner:
    if usecase.tuning.early_stopping == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS, n_warmup_steps=0)


def _describe(trial: Trial, metric: str) -> str:
    outcome = f"{metric} {trial.scores[metric]:.4f}" if trial.scores else "stopped early"
    values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.parameters.items())
    return f"{trial.architecture} ({values}): {outcome}{' (known)' if trial.cached else ''}"
