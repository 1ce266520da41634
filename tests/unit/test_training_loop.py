from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fasttrack.errors import StepError
from fasttrack.training.artifacts import model_files
from fasttrack.training.data import load_splits
from fasttrack.training.loop import Trained, train
from fasttrack.training.module import Plan
from fasttrack.training.prepare import Batches, Prepared, prepare
from tests.unit.learning_table import usecase, write

CANDIDATES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 16},
    "lstm": {"hidden": 16, "sequence_hidden": 8},
    "transformer": {"hidden": 16, "sequence_hidden": 8, "heads": 2},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    found = usecase()
    splits = load_splits(found, write(tmp_path_factory.mktemp("table"), 2500))
    return prepare(found, splits.train, splits.validate)


def plan(**changes: Any) -> Plan:
    return Plan(
        **{
            "epochs": 4,
            "batch_size": 64,
            "patience": 0,
            "seed": 1,
            "metric": "auc",
            "coverage": 0.9,
            **changes,
        }
    )


def same(first: Trained, second: Trained) -> bool:
    return all(torch.equal(values, second.state[name]) for name, values in first.state.items())


@pytest.mark.parametrize("architecture", sorted(CANDIDATES))
def test_learns_both_heads(prepared: Prepared, architecture: str) -> None:
    parameters = {**CANDIDATES[architecture], "learning_rate": 0.01}
    trained = train(prepared, architecture, parameters, plan(epochs=6))
    # The table's own formula, without its noise, reaches 0.9.
    assert trained.scores["auc"] > 0.8
    spread = np.abs(prepared.validate_rows.label - np.median(prepared.validate_rows.label)).mean()
    assert trained.scores["mae"] < 0.8 * spread


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(prepared: Prepared) -> None:
    first, second, other = (train(prepared, "mlp", CANDIDATES["mlp"], plan(epochs=1, seed=s)) for s in (1, 1, 2))
    files = [model_files(found, prepared, "mlp", CANDIDATES["mlp"]) for found in (first, second)]
    assert files[0] == files[1]
    assert not same(first, other)


def test_the_callers_random_numbers_and_threads_are_left_alone(prepared: Prepared) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    threads = torch.get_num_threads()
    train(prepared, "mlp", CANDIDATES["mlp"], plan(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_broken_fit_goes_on_to_the_same_weights(prepared: Prepared, tmp_path: Path) -> None:
    parameters = {**CANDIDATES["lstm"], "dropout": 0.2}
    whole = train(prepared, "lstm", parameters, plan())

    class PowerCut(Exception):
        pass

    def cut(scores: dict[str, float]) -> None:
        if scores["epoch"] == 3:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(prepared, "lstm", parameters, plan(), checkpoints=tmp_path, on_epoch=cut)
    epochs: list[float] = []
    resumed = train(
        prepared,
        "lstm",
        parameters,
        plan(),
        checkpoints=tmp_path,
        on_epoch=lambda scores: epochs.append(scores["epoch"]),
    )
    assert epochs == [3, 4]
    assert same(whole, resumed)
    assert resumed.curve == whole.curve


def test_stops_when_nothing_improves_and_keeps_the_best_epoch(prepared: Prepared) -> None:
    wild = {**CANDIDATES["mlp"], "learning_rate": 0.3}
    trained = train(prepared, "mlp", wild, plan(epochs=30, patience=1))
    assert len(trained.curve) < 30
    assert trained.scores["auc"] == max(epoch["auc"] for epoch in trained.curve)


def test_divergence_is_a_clear_error(prepared: Prepared) -> None:
    with pytest.raises(StepError, match="diverged"):
        train(prepared, "mlp", {**CANDIDATES["mlp"], "learning_rate": 1e38}, plan(epochs=2))


def test_processes_share_each_batch_without_overlap(prepared: Prepared) -> None:
    whole = list(Batches(prepared.train, 64, seed=5))
    parts = [list(Batches(prepared.train, 64, rank=rank, world=2, seed=5)) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for batch, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([left["label"], right["label"]]), batch["label"])


def test_in_order_no_row_is_left_out(prepared: Prepared) -> None:
    found = torch.cat([batch["label"] for batch in Batches(prepared.validate, 100)])
    assert torch.equal(found, prepared.validate["label"])
