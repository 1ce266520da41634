from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fasttrack.errors import ConfigurationError
from fasttrack.models.architectures import ARCHITECTURES, build
from fasttrack.models.layers import BINS, PiecewiseLinear, Sizes

SIZES = Sizes(numeric=5, indicators=2, cardinalities=(4, 9), length=6, channels=3)
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 8, "layers": 1},
    "lstm": {"hidden": 8, "sequence_hidden": 4},
    "transformer": {"hidden": 8, "sequence_hidden": 8, "heads": 2},
}


def inputs(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) % (SIZES.length + 1)
    sequence = torch.randn(rows, SIZES.length, SIZES.channels, generator=generator)
    sequence[torch.arange(SIZES.length) < (SIZES.length - length)[:, None]] = 0.0
    return {
        "numeric": torch.randn(rows, SIZES.numeric, generator=generator),
        "categorical": torch.stack([torch.randint(0, n, (rows,), generator=generator) for n in SIZES.cardinalities], 1),
        "sequence": sequence,
        "length": length,
    }


def network(architecture: str) -> torch.nn.Module:
    torch.manual_seed(3)
    return build(architecture, SMALL[architecture], SIZES).eval()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_two_heads_and_an_interval_that_holds_the_value(architecture: str) -> None:
    logit, value = network(architecture)(**inputs(20))
    assert logit.shape == (20,)
    assert value.shape == (20, 3)
    assert (value[:, 1] <= value[:, 0]).all()
    assert (value[:, 0] <= value[:, 2]).all()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_no_recent_events_give_finite_outputs_and_gradients(architecture: str) -> None:
    model = network(architecture).train()
    batch = inputs(8)
    batch["length"] = torch.zeros(8, dtype=torch.int64)
    logit, value = model(**batch)
    (logit.sum() + value.sum()).backward()
    assert torch.isfinite(logit).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("noise", [0.0, 1e6])
def test_padding_never_changes_the_output(architecture: str, noise: float) -> None:
    model = network(architecture)
    batch = inputs(28)
    expected = model(**batch)
    padding = torch.arange(SIZES.length) < (SIZES.length - batch["length"])[:, None]
    changed = batch["sequence"].masked_fill(padding.unsqueeze(2), noise)
    for ours, theirs in zip(model(**{**batch, "sequence": changed}), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_less_padding_never_changes_the_output(architecture: str) -> None:
    model = network(architecture)
    batch = inputs(28)
    batch["length"] = batch["length"].clamp_max(4)
    shorter = {**batch, "sequence": batch["sequence"][:, -4:]}
    for ours, theirs in zip(model(**shorter), model(**batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_recent_events_matter(architecture: str) -> None:
    model = network(architecture)
    batch = inputs(28)
    with_events = batch["length"] > 0
    other = model(**{**batch, "sequence": batch["sequence"] + 1.0})[0]
    assert (model(**batch)[0] != other)[with_events].all()


@pytest.mark.parametrize(
    ("architecture", "parameters", "sizes", "says"),
    [
        ("forest", {}, SIZES, "forest"),
        ("mlp", {"heads": 2}, SIZES, "heads"),
        ("transformer", {"sequence_hidden": 8, "heads": 3}, SIZES, "divide"),
        ("lstm", {}, Sizes(5, 2, (4,)), "sequence feature"),
    ],
)
def test_impossible_candidates_are_refused(
    architecture: str, parameters: dict[str, Any], sizes: Sizes, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(architecture, parameters, sizes)
    assert says in str(caught.value)


def test_without_a_sequence_or_a_category_the_mlp_still_works() -> None:
    model = build("mlp", {"hidden": 8}, Sizes(3, 0, ()))
    logit, _ = model(torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.int64))
    assert logit.shape == (2,)


def test_bins_fill_from_left_to_right() -> None:
    bins = PiecewiseLinear(1)
    bins.fit(np.arange(1001, dtype=np.float32)[:, None])
    low, middle, high = bins(torch.tensor([[-5.0], [500.0], [2000.0]]))
    assert low.tolist() == [0.0] * BINS
    assert high.tolist() == [1.0] * BINS
    assert middle.sum() == pytest.approx(BINS / 2, abs=0.01)


def test_bins_of_a_constant_column_are_finite() -> None:
    bins = PiecewiseLinear(1)
    bins.fit(np.zeros((10, 1), np.float32))
    assert torch.isfinite(bins(torch.tensor([[-1.0], [0.0], [1.0]]))).all()
