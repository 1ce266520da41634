"""The quick ways of a forward pass give what the network's own gives, for every architecture and any weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.models.architectures import ARCHITECTURES, build
from fasttrack.models.batch import Batch
from fasttrack.models.calibration import Conformal, Platt
from fasttrack.models.encoding import Encoder
from fasttrack.models.few_rows import MOST_ROWS, FewRows
from fasttrack.models.inference import Predictor
from fasttrack.models.int8 import load_quantized, quantized
from fasttrack.models.layers import Network, Sizes
from fasttrack.models.straight import Straight

_ATOL = 2e-5

SIZES = st.builds(
    lambda plain, indicators, cards, length, channels: Sizes(
        plain + indicators, indicators, tuple(cards), length, channels if length else 0
    ),
    st.integers(1, 12), st.integers(0, 3), st.lists(st.integers(1, 9), max_size=4), st.sampled_from([0, 1, 6]),
    st.integers(1, 3),
)  # fmt: skip


def network(architecture: str, sizes: Sizes, hidden: int = 24, layers: int = 2, seed: int = 0) -> Network:
    """With weights, norms and edges of bins as no training would leave them all."""
    torch.manual_seed(seed)
    found = build(architecture, {"hidden": hidden, "layers": layers}, sizes).eval().requires_grad_(False)
    for values in found.parameters():
        values += torch.randn_like(values) * 0.3
    edges = np.random.default_rng(seed).normal(size=(40, found.tabular.plain)).round(1)
    found.fit_inputs(edges.astype(np.float32))
    return found


def batch(sizes: Sizes, rows: int, seed: int) -> Batch:
    """Rows with values far outside of the bins, and rubbish in the padding of sequences."""
    random = np.random.default_rng(seed)
    numeric = random.normal(size=(rows, sizes.numeric), scale=random.choice([1, 50])).astype(np.float32)
    codes = (
        np.stack([random.integers(0, cards, rows) for cards in sizes.cardinalities], 1) if sizes.cardinalities else None
    )
    categorical = np.zeros((rows, 0), np.int64) if codes is None else codes
    if not sizes.length:
        return Batch(numeric, categorical)
    sequence = random.normal(size=(rows, sizes.length, sizes.channels)).astype(np.float32)
    return Batch(numeric, categorical, sequence, random.integers(0, sizes.length + 1, rows))


def said(found: Network, asked: Batch) -> tuple[np.ndarray, np.ndarray]:
    """What the network says."""
    with torch.inference_mode():
        logit, ends = found(*(torch.from_numpy(values) for values in asked.tensors().values()))
    return logit.numpy(), ends.numpy()


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(1, 40), st.integers(1, 3), st.integers(1, MOST_ROWS), st.integers(0, 10_000))
def test_few_rows_of_an_mlp(sizes: Sizes, hidden: int, layers: int, rows: int, seed: int) -> None:
    found, asked = network("mlp", sizes, hidden, layers, seed), batch(sizes, rows, seed)
    quick = FewRows.of(found)
    assert quick is not None
    for got, wanted in zip(quick(asked), said(found, asked), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=_ATOL)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(1, 30), st.integers(0, 10_000))
def test_the_straight_line_of_every_architecture(architecture: str, indicators: int, rows: int, seed: int) -> None:
    sizes = Sizes(5 + indicators, indicators, (3, 7), 6, 2)
    found, asked = network(architecture, sizes, seed=seed), batch(sizes, rows, seed)
    with torch.inference_mode():
        got = Straight(found)(*(torch.from_numpy(values) for values in asked.tensors().values()))
    for mine, wanted in zip(got, said(found, asked), strict=True):
        np.testing.assert_allclose(mine.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_integer_layers_are_computed_as_integers() -> None:
    """They round their inputs, which floats of the same weights would not."""
    sizes = Sizes(6, 0, (4,))
    exact, found = network("mlp", sizes), network("mlp", sizes)
    load_quantized(found, quantized(exact.state_dict(), exact))
    assert FewRows.of(found) is None
    asked = batch(sizes, 7, 0)
    with torch.inference_mode():
        got = Straight(found)(*(torch.from_numpy(values) for values in asked.tensors().values()))
    for mine, wanted in zip(got, said(found, asked), strict=True):
        np.testing.assert_allclose(mine.numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_other_networks_have_no_such_way(architecture: str) -> None:
    assert FewRows.of(network(architecture, Sizes(5, 0, (3,), 6, 2))) is None


def test_a_row_is_predicted_alike_alone_and_among_many() -> None:
    sizes = Sizes(6, 1, (4, 3), 5, 2)
    model = Predictor(
        network("mlp", sizes), Encoder([], [], None), (3.0, 10.0), Platt(1.5, 0.1), Conformal(0.9, 1.0, 100)
    )
    asked = batch(sizes, 5 * MOST_ROWS, 3)
    together = model.predict(asked)
    for row in range(len(asked)):
        alone = model.predict(asked.take(slice(row, row + 1)))
        np.testing.assert_allclose(alone.probability, together.probability[row], atol=1e-6)
        np.testing.assert_allclose(alone.value, together.value[row], rtol=1e-4, atol=1e-3)
