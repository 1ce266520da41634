"""Structured pruning: what tells nothing goes without a trace, and the same inputs give the same smaller network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.models.architectures import ARCHITECTURES, build
from fasttrack.models.layers import Network
from fasttrack.models.pruning import layers, prune, units_kept
from fasttrack.training.distillation import FineTuning, passes, pruned, saliency
from fasttrack.training.loss import network_inputs
from tests.unit.test_models_networks import SIZES, inputs

TUNING = FineTuning(epochs=30, batch_size=64, seed=5, coverage=0.9)
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 12},
    "lstm": {"hidden": 12, "sequence_hidden": 4},
    "transformer": {"hidden": 12, "sequence_hidden": 8, "heads": 2},
}


def example(rows: int = 400, seed: int = 0) -> dict[str, torch.Tensor]:
    found = inputs(rows, seed)
    label = found["numeric"][:, 0] + 0.5 * found["numeric"][:, 1]
    return {**found, "label": label, "positive": (label > 0).float()}


def network(architecture: str = "mlp", **parameters: Any) -> Network:
    torch.manual_seed(3)
    return build(architecture, {**SMALL[architecture], **parameters}, SIZES).eval()


def silence(model: Network, dead: list[torch.Tensor]) -> None:
    """Make units constant, with sums that are the mean of the others': LayerNorm hears nothing of them."""
    with torch.no_grad():
        for position, units in enumerate(dead):
            linear, norm = model.trunk.body[4 * position], model.trunk.body[4 * position + 1]
            assert isinstance(linear, torch.nn.Linear)
            others = torch.ones(linear.out_features, dtype=torch.bool)
            others[units] = False
            # LayerNorm's epsilon would be seen beside small variances.
            linear.weight.mul_(10)
            linear.weight[units] = linear.weight[others].mean(dim=0)
            linear.bias[units] = linear.bias[others].mean()
            norm.weight[units] = 0.0
            norm.bias[units] = torch.randn(len(units))


def outputs(model: Network, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        logit, value = model(*network_inputs(rows))
    return torch.cat([logit[:, None], value], dim=1)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(ARCHITECTURES)),
    st.integers(1, 3),
    st.integers(10, 24),
    st.floats(0.05, 0.6),
    st.integers(0, 10_000),
)
def test_units_that_tell_nothing_are_found_and_leave_no_trace(
    architecture: str, depth: int, hidden: int, share: float, seed: int
) -> None:
    parameters = {**SMALL[architecture], "hidden": hidden, "layers": depth}
    torch.manual_seed(seed)
    model = build(architecture, parameters, SIZES).eval()
    wanted = units_kept(hidden, share)
    dead = [torch.randperm(hidden)[wanted:] for _ in range(depth)]
    silence(model, dead)
    rows = example(60, seed)
    found = saliency(model, rows, 0.9)
    kept = [each.topk(wanted).indices.sort().values for each in found]
    for units, gone in zip(kept, dead, strict=True):
        assert not set(units.tolist()) & set(gone.tolist())
    with torch.no_grad():
        smaller = prune(model, architecture, parameters, kept, layers(model, model.inputs(*network_inputs(rows))))
    assert smaller.trunk.classification.in_features == wanted
    # Of other rows, too.
    for asked in (rows, example(60, seed + 1)):
        torch.testing.assert_close(outputs(smaller, asked), outputs(model, asked), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_layers_are_those_of_the_network(architecture: str) -> None:
    model, rows = network(architecture), example(20)
    with torch.no_grad():
        seen = layers(model, model.inputs(*network_inputs(rows)))
        logit, _ = model.trunk.heads(seen[-1].activations)
    assert [layer.sums.shape for layer in seen] == [(20, 12), (20, 12)]
    torch.testing.assert_close(logit, outputs(model, rows)[:, 0])


@given(st.integers(1, 1000), st.floats(0, 0.9))
def test_a_layer_never_vanishes(hidden: int, share: float) -> None:
    assert min(2, hidden) <= units_kept(hidden, share) <= hidden


@given(st.integers(1, 10**7), st.integers(1, 100), st.integers(1, 10_000))
def test_fine_tuning_is_bounded(rows: int, epochs: int, batch_size: int) -> None:
    found = passes(rows, epochs, batch_size)
    assert 1 <= found <= epochs
    assert found == 1 or found * (rows // batch_size) <= 1500


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_same_inputs_give_the_same_weights_and_touch_no_one_elses(architecture: str) -> None:
    model, rows = network(architecture), example()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (
        pruned(model, architecture, SMALL[architecture], 0.5, rows, FineTuning(2, 64, 5, 0.9)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(torch.equal(values, second.state_dict()[name]) for name, values in first.state_dict().items())
    assert first.trunk.classification.in_features == 6
    assert not first.training


def test_fine_tuning_brings_it_nearer_to_label_and_teacher() -> None:
    model, rows = network(hidden=32), example()
    teacher = pruned(model, "mlp", {"hidden": 32}, 0.0, rows, TUNING)
    with torch.no_grad():
        seen = layers(teacher, teacher.inputs(*network_inputs(rows)))
    kept = [each.topk(4).indices.sort().values for each in saliency(teacher, rows, 0.9)]
    cut = prune(teacher, "mlp", {"hidden": 32}, kept, seen)
    calls: list[int] = []
    tuned = pruned(teacher, "mlp", {"hidden": 32}, 0.875, rows, TUNING, lambda: calls.append(1))
    assert len(calls) == passes(400, TUNING.epochs, TUNING.batch_size)
    assert tuned.trunk.classification.in_features == 4
    wanted = outputs(teacher, rows)
    assert (outputs(tuned, rows) - wanted).abs().mean() < 0.7 * (outputs(cut, rows) - wanted).abs().mean()
