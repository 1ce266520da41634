from __future__ import annotations

import random
from typing import Any

import optuna
import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.tuning import katib
from fasttrack.tuning.search import _pruner, _suggest
from fasttrack.tuning.space import ARCHITECTURE, architectures, select, space
from tests.unit.learning_table import usecase


def described_by_katib(found: dict[str, Any]) -> tuple[Any, ...]:
    """What a Katib parameter allows, in neutral terms."""
    feasible = found["feasibleSpace"]
    if found["parameterType"] == "categorical":
        return ("choice", tuple(feasible["list"]))
    low, high = float(feasible["min"]), float(feasible["max"])
    if found["parameterType"] == "int":
        return ("int", low, high, float(feasible["step"]))
    return ("float", low, high, feasible["distribution"] == "logUniform")


def described_by_optuna(found: optuna.distributions.BaseDistribution) -> tuple[Any, ...]:
    if isinstance(found, optuna.distributions.CategoricalDistribution):
        return ("choice", tuple(str(choice) for choice in found.choices))
    if isinstance(found, optuna.distributions.IntDistribution):
        return ("int", float(found.low), float(found.high), float(found.step))
    assert isinstance(found, optuna.distributions.FloatDistribution)
    return ("float", found.low, found.high, found.log)


def test_katib_and_optuna_search_the_same_space() -> None:
    found = usecase()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ours: dict[str, tuple[Any, ...]] = {}
    for architecture in architectures(found):
        study.enqueue_trial({ARCHITECTURE: architecture})
        trial = study.ask()
        _suggest(trial, architectures(found), space(found))
        ours |= {name: described_by_optuna(distribution) for name, distribution in trial.distributions.items()}
    theirs = {parameter["name"]: described_by_katib(parameter) for parameter in katib.parameters(found)}
    assert ours == theirs
    assert len(theirs) == 1 + 3 + 2 + 4


def test_what_katib_hands_out_as_text_is_understood() -> None:
    found = usecase()
    rng = random.Random(1)
    for architecture in architectures(found):
        assignment: dict[str, str] = {}
        for parameter in katib.parameters(found):
            feasible = parameter["feasibleSpace"]
            if "list" in feasible:
                assignment[parameter["name"]] = rng.choice(feasible["list"])
            elif parameter["parameterType"] == "int":
                assignment[parameter["name"]] = str(rng.randint(int(feasible["min"]), int(feasible["max"])))
            else:
                assignment[parameter["name"]] = str(rng.uniform(float(feasible["min"]), float(feasible["max"])))
        assignment[ARCHITECTURE] = architecture
        chosen, parameters = select(found, assignment)
        candidate = next(candidate for candidate in found.models if candidate.architecture == chosen)
        assert set(parameters) == set(candidate.search)
        assert not any(isinstance(value, str) for value in parameters.values())


def test_one_candidate_s_space_has_its_own_names() -> None:
    found = usecase().models[0]
    assert [parameter["name"] for parameter in katib.parameters(found)] == list(found.search)


def test_the_middle_of_every_range_is_in_it() -> None:
    for dimension in space(usecase()):
        assert dimension.parse(dimension.middle()) == dimension.middle()


@pytest.mark.parametrize(
    "assignment",
    [
        {},
        {ARCHITECTURE: "forest"},
        {ARCHITECTURE: "lstm", "lstm_hidden": "8"},
        {ARCHITECTURE: "lstm", "lstm_hidden": "9", "lstm_sequence_hidden": "4"},
        {ARCHITECTURE: "mlp", "mlp_learning_rate": "1", "mlp_hidden": "8", "mlp_layers": "1"},
        {ARCHITECTURE: "mlp", "mlp_learning_rate": "fast", "mlp_hidden": "8", "mlp_layers": "1"},
        {ARCHITECTURE: "mlp", "mlp_learning_rate": "0.01", "mlp_hidden": "8", "mlp_layers": "1.5"},
    ],
)
def test_an_assignment_outside_the_space_is_refused(assignment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        select(usecase(), assignment)
    assert caught.value.where


def test_a_candidate_listed_twice_is_refused() -> None:
    found = usecase()
    with pytest.raises(ConfigurationError, match="twice"):
        space(found.model_copy(update={"models": (found.models[0], found.models[0])}))


@pytest.mark.parametrize(("metric", "kind"), [("auc", "maximize"), ("log_loss", "minimize"), ("mae", "minimize")])
def test_the_objective_points_the_right_way(metric: str, kind: str) -> None:
    assert katib.objective(usecase(tuning={"metric": metric})) == {"type": kind, "objectiveMetricName": metric}


def test_algorithm_and_early_stopping_follow_the_use_case() -> None:
    assert katib.algorithm(usecase())["algorithmName"] == "tpe"
    assert katib.algorithm(usecase(tuning={"algorithm": "random"}))["algorithmName"] == "random"
    stopping = katib.early_stopping(usecase())
    assert stopping is not None
    assert stopping["algorithmName"] == "medianstop"
    assert katib.early_stopping(usecase(tuning={"early_stopping": "none"})) is None


def test_katib_and_optuna_stop_early_after_as_many_trials() -> None:
    stopping, pruner = katib.early_stopping(usecase()), _pruner(usecase())
    assert stopping is not None
    settings = {setting["name"]: setting["value"] for setting in stopping["algorithmSettings"]}
    assert isinstance(pruner, optuna.pruners.MedianPruner)
    assert settings["min_trials_required"] == str(pruner._n_startup_trials)
    # Katib counts the steps of a trial from 1, Optuna from 0.
    assert settings["start_step"] == str(pruner._n_warmup_steps + 1)
