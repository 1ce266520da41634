from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import StepError
from fasttrack.tuning import search
from fasttrack.tuning.search import Trial, TuneResult, tune
from fasttrack.tuning.trial import Trials
from tests.unit.learning_table import usecase, write


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table"), 1200)


def outcome(result: TuneResult) -> list[tuple[Any, ...]]:
    return [(t.number, t.architecture, t.parameters, t.scores, t.state) for t in result.trials]


def test_every_candidate_is_tried_and_the_best_chosen(features: Path) -> None:
    result = tune(usecase(), features, trials=1)
    assert [trial.architecture for trial in result.trials] == ["mlp", "lstm", "transformer"]
    complete = [trial for trial in result.trials if trial.state == "complete"]
    assert result.score == max(trial.scores["auc"] for trial in complete)
    assert result.parameters in [trial.parameters for trial in complete]


def test_the_same_search_twice_is_the_same_and_is_not_computed_again(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tune(usecase(), features, storage=tmp_path / "kept")
    again = tune(usecase(), features, storage=tmp_path / "other")
    assert outcome(first) == outcome(again)

    def forbidden(*_: object) -> None:
        raise AssertionError("a known trial was computed again")

    monkeypatch.setattr(Trials, "run", forbidden)
    known = tune(usecase(), features, storage=tmp_path / "kept")
    assert outcome(known) == outcome(first)
    assert all(trial.cached for trial in known.trials)


def test_a_second_round_adds_trials_and_repeats_none(features: Path, tmp_path: Path) -> None:
    found = usecase(tuning={"epochs": 1})
    first = tune(found, features, trials=3, storage=tmp_path)
    second = tune(found, features, trials=3, round=2, storage=tmp_path)
    assert outcome(second)[:3] == outcome(first)
    assert [trial.cached for trial in second.trials] == [True] * 3 + [False] * 3
    assert [trial.round for trial in second.trials] == [1] * 3 + [2] * 3
    assert second.score >= first.score


def test_a_changed_table_is_searched_anew(features: Path, tmp_path: Path) -> None:
    found = usecase(tuning={"epochs": 1})
    tune(found, features, trials=3, storage=tmp_path)
    other = write(tmp_path / "changed", 1100, seed=1)
    assert not any(trial.cached for trial in tune(found, other, trials=3, storage=tmp_path).trials)


def test_a_line_that_a_crash_cut_short_costs_one_trial(features: Path, tmp_path: Path) -> None:
    found = usecase(tuning={"epochs": 1})
    first = tune(found, features, trials=3, storage=tmp_path)
    file = tmp_path / "trials.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    again = tune(found, features, trials=3, storage=tmp_path)
    assert outcome(again) == outcome(first)
    assert [trial.cached for trial in again.trials] == [True, True, False]
    assert all(trial.cached for trial in tune(found, features, trials=3, storage=tmp_path).trials)


def test_folds_are_averaged(features: Path) -> None:
    found = usecase(tuning={"folds": 2, "epochs": 1})
    steps: list[tuple[int, float]] = []
    runner = Trials(found, features)
    scores = runner.run("mlp", {"hidden": 8}, 1, lambda step, score: steps.append((step, score)))
    assert [step for step, _ in steps] == [1, 2]
    assert scores["auc"] == pytest.approx(steps[-1][1])
    assert steps[0][1] != steps[1][1]


def fake_run(scores: dict[str, list[float]]) -> Any:
    """A stand-in for fits, where only the search's own decisions are under test."""

    def run(self: Trials, architecture: str, parameters: object, seed: int, on_step: Any) -> dict[str, float]:
        for step, score in enumerate(scores[architecture], start=1):
            on_step(step, score)
        return {"auc": scores[architecture][-1]}

    return run


def test_a_hopeless_trial_is_stopped_early(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"mlp": [0.8, 0.9], "lstm": [0.7, 0.8], "transformer": [0.6, 0.7]}
    calls: list[str] = []
    real = fake_run(good)

    def run(self: Trials, architecture: str, parameters: object, seed: int, on_step: Any) -> Any:
        calls.append(architecture)
        if len(calls) > 3:
            on_step(1, 0.1)
            raise AssertionError("was not stopped")
        return real(self, architecture, parameters, seed, on_step)

    monkeypatch.setattr(Trials, "run", run)
    result = tune(usecase(), features, trials=4)
    assert result.trials[3].state == "stopped"
    assert result.architecture == "mlp"


def test_a_diverged_trial_is_a_result_and_only_all_of_them_are_an_error(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Trials, architecture: str, *_: object) -> dict[str, float]:
        if architecture != "lstm":
            raise StepError("training diverged")
        return {"auc": 0.6}

    monkeypatch.setattr(Trials, "run", run)
    assert tune(usecase(), features, trials=3).architecture == "lstm"

    def never(*_: object) -> dict[str, float]:
        raise StepError("training diverged")

    monkeypatch.setattr(Trials, "run", never)
    with pytest.raises(StepError, match="no trial came to an end"):
        tune(usecase(), features, trials=3)


def test_a_smaller_loss_wins_where_less_is_better(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(Trials, "run", lambda *_: {"log_loss": next(losses)})
    result = tune(usecase(tuning={"metric": "log_loss"}), features, trials=3)
    assert (result.architecture, result.score) == ("lstm", 0.3)


def test_a_trial_reads_well() -> None:
    trial = Trial(0, 1, "mlp", {"hidden": 8, "learning_rate": 0.00123456}, {"auc": 0.71234}, "complete", True)
    assert search._describe(trial, "auc") == "mlp (hidden=8, learning_rate=0.001235): auc 0.7123 (known)"
