"""Int8 layers: the same integers however they are multiplied, each row by itself, errors within bounds."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.models import inference, int8
from fasttrack.models.architectures import ARCHITECTURES, build
from fasttrack.models.int8 import Int8Linear, computes_integers, dequantized, load_quantized, quantized
from tests.unit.test_models_networks import SIZES, inputs

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 30), st.integers(0, 10_000))


def made(shape: tuple[int, int, int, int]) -> tuple[Int8Linear, torch.nn.Linear, torch.Tensor]:
    """An int8 layer, the float layer that it was made of, and rows for both."""
    rows, width, units, seed = shape
    torch.manual_seed(seed)
    layer = torch.nn.Linear(width, units).requires_grad_(False)
    scale = layer.weight.abs().amax(dim=1).clamp_min(1e-30) / 127
    weight = (layer.weight / scale[:, None]).round().to(torch.int8)
    return Int8Linear(weight, scale, layer.bias), layer, torch.randn(rows, width) * 3


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_the_kernel_and_floats_multiply_to_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    layer, _, rows = made(shape)
    found = layer(rows)
    layer._packed = None
    assert torch.equal(layer(rows), found)


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_a_row_gets_the_same_answer_alone_and_among_others(shape: tuple[int, int, int, int]) -> None:
    layer, _, rows = made(shape)
    # An extreme neighbour would change the range of the whole batch.
    rows[0] *= 1000
    together = layer(rows)
    for number in range(len(rows)):
        assert torch.equal(layer(rows[number : number + 1])[0], together[number])


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_the_error_is_that_of_rounding(shape: tuple[int, int, int, int]) -> None:
    """Half a step of the row in each product, and half a step of the weight."""
    layer, exact, rows = made(shape)
    step = (rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)) / 127
    by_rows = step / 2 * layer._dequantized.abs().sum(dim=1)
    by_weights = rows.abs().sum(dim=1, keepdim=True) * layer._scale / 2
    error = (layer(rows) - exact(rows)).abs()
    assert (error <= by_rows + by_weights + 1e-4).all()


def test_rows_of_one_number_are_no_division_by_zero() -> None:
    layer, _, _ = made((1, 5, 3, 0))
    rows = torch.full((2, 5), -4.0)
    torch.testing.assert_close(layer(rows), rows @ layer._dequantized.T + layer._bias)


def test_the_gradient_is_that_of_the_layer_without_rounding_of_rows() -> None:
    layer, _, rows = made((4, 9, 6, 1))
    rows.requires_grad_(True)
    plain = rows.detach().clone().requires_grad_(True)
    found = torch.autograd.grad(layer(rows).sin().sum(), rows)[0]
    with torch.no_grad():
        outer = layer(rows).cos()
    expected = torch.autograd.grad((plain @ layer._dequantized.T * outer).sum(), plain)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_network_keeps_its_answers_and_loses_most_of_its_bytes(architecture: str) -> None:
    torch.manual_seed(3)
    full = build(architecture, {"hidden": 64}, SIZES).eval()
    state = quantized(full.state_dict(), full)
    loaded = build(architecture, {"hidden": 64}, SIZES).eval()
    load_quantized(loaded, safetensors.torch.load(safetensors.torch.save(state)))
    assert computes_integers(loaded)
    assert not computes_integers(full)
    for ours, theirs in zip(loaded(**inputs(50)), full(**inputs(50)), strict=True):
        assert (ours - theirs).abs().mean() < 0.05 * theirs.std()
    trunk = {name: values for name, values in state.items() if name.startswith("trunk")}
    whole = sum(values.numel() * 4 for name, values in full.state_dict().items() if name in trunk)
    assert sum(values.numel() * values.element_size() for values in trunk.values()) < 0.4 * whole
    # The sequence's own layers, embeddings and bins stay as they are.
    assert all(torch.equal(values, full.state_dict()[name]) for name, values in state.items() if name not in trunk)


def test_the_first_layer_and_the_heads_compute_with_the_rounded_weights_as_floats() -> None:
    torch.manual_seed(3)
    network = build("mlp", {"hidden": 8, "layers": 3}, SIZES)
    state = quantized(network.state_dict(), network)
    load_quantized(network, state)
    kinds = [type(network.trunk.body[position]) for position in (0, 4, 8)]
    assert kinds == [torch.nn.Linear, Int8Linear, Int8Linear]
    first = dequantized(state["trunk.body.0.weight"], state["trunk.body.0.weight_scale"])
    assert torch.equal(network.trunk.body[0].weight, first)


def test_without_a_kernel_that_is_right_floats_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = lambda integers, packed: torch.zeros(len(integers), 6)  # noqa: E731
    monkeypatch.setattr(int8, "_kernel", wrong)
    layer, exact, rows = made((20, 9, 6, 1))
    assert layer._packed is None
    assert (layer(rows) - exact(rows)).abs().max() < 0.2


def test_a_gpu_is_left_alone_and_this_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = build("mlp", {"hidden": 8}, SIZES)
    load_quantized(network, quantized(network.state_dict(), network))
    monkeypatch.setattr(inference, "device", lambda: torch.device("cuda"))
    predictor = inference.Predictor(network, None, (0.0, 1.0), None, None)  # type: ignore[arg-type]
    assert predictor._on_gpu is None
    assert "FASTTRACK_DEVICE" in caplog.text
