"""Linear layers with int8 weights: a quarter of the bytes, and integer products where the rows are integers, too.

Weights are rounded to int8 with one scale an output channel. The first layer of the trunk and the heads then compute
with floats (weight-only): their inputs are numbers, bins and words of very different sizes, and what the first layer
gives stays a sum of one share a feature, which explanations rest on. The hidden layers between are dynamically
quantized: each row's activations are rounded by that row's own range. By the range of the whole batch, as
`torch.ao.quantization` does it, a row's answer would depend on who else is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fasttrack.models.layers import Network

#: What config.json calls it.
INT8: Final = "int8"
_LARGEST: Final = 127
#: 7 bits for activations: the kernels for processors without VNNI add pairs of products in 16 bits, which 8 would fill.
_STEPS: Final = 127
#: Fewer rows are multiplied sooner as floats than the kernel is called.
_FEW: Final = 16
_SCALE: Final = "weight_scale"
_TINY: Final = 1e-30


class Int8Linear(nn.Module):
    """A dynamically quantized linear layer: [B, n] to [B, m]; the same integers are multiplied on every processor.

    Its gradient is that of the layer without rounding of rows (the straight-through estimator: Bengio et al.,
    "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).

    Args:
        weight: int8 [m, n].
        scale: float32 [m], what a step of each row of `weight` is worth.
        bias: float32 [m].
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self._integers = weight.to(torch.float32)
        self._scale, self._bias = scale, bias
        self._dequantized = dequantized(weight, scale)
        self._shift = self._dequantized.sum(dim=1)
        self._packed = _packed(self._integers, scale)

    def forward(self, rows: Tensor) -> Tensor:
        """[B, m]; no row's answer depends on another row."""
        if rows.requires_grad and torch.is_grad_enabled():
            found: Tensor = _StraightThrough.apply(rows, self)  # type: ignore[no-untyped-call]
            return found
        return self.answer(rows)

    def answer(self, rows: Tensor) -> Tensor:
        """`forward` without a gradient."""
        low = rows.amin(dim=1, keepdim=True)
        step = (rows.amax(dim=1, keepdim=True) - low).clamp_min_(_TINY).div_(_STEPS)
        integers = (rows - low).div_(step).round_()
        return torch.addcmul(self._bias, low, self._shift).addcmul_(step, self._product(integers))

    def _product(self, integers: Tensor) -> Tensor:
        """[B, m] of whole numbers [B, n] from 0 to 127, times the weights; alike to the bit both ways."""
        if self._packed is None or len(integers) < _FEW:
            return _reference(integers, self._integers, self._scale)
        return _kernel(integers, self._packed)

    def slopes(self, gradient: Tensor) -> Tensor:
        """[B, n] the gradient of the rows, given that of the answer [B, m]."""
        return gradient @ self._dequantized


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, layer: Int8Linear) -> Tensor:
        context.layer = layer
        return layer.answer(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layer: Int8Linear = context.layer
        return layer.slopes(gradients[0]), None


def quantized(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The weights of a trunk's linear layers as int8 with their scales beside them; everything else as it is.

    Args:
        state: float weights by name.
        network: whose weights they are.
    """
    found = {name: values.contiguous() for name, values in state.items()}
    for name in _layers(network):
        weight = found[f"{name}.weight"]
        scale = weight.abs().amax(dim=1).clamp_min(_TINY) / _LARGEST
        found[f"{name}.weight"] = (weight / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        found[f"{name}.{_SCALE}"] = scale
    return found


def load_quantized(network: Network, state: Mapping[str, Tensor]) -> None:
    """Give a network the weights that `quantized` made; its hidden layers are then `Int8Linear`.

    Raises:
        ValueError: the weights are not int8, or have no scales.
        RuntimeError: they are those of another network.
    """
    floats, integers = dict(state), {}
    for name in _layers(network):
        weight, scale = state[f"{name}.weight"], floats.pop(f"{name}.{_SCALE}", None)
        if scale is None or weight.dtype != torch.int8 or scale.dtype != torch.float32:
            raise ValueError(f"the weights of {name} are not {INT8}")
        if scale.shape != weight.shape[:1]:
            raise ValueError(f"the scales of {name} are those of another layer")
        integers[name] = (weight, scale)
        floats[f"{name}.weight"] = dequantized(weight, scale)
    network.load_state_dict(floats)
    hidden = [name for name in integers if name.startswith("trunk.body.")]
    for name in hidden[1:]:
        position = int(name.rsplit(".", 1)[1])
        layer = network.trunk.body[position]
        assert isinstance(layer, nn.Linear)
        network.trunk.body[position] = Int8Linear(*integers[name], layer.bias.detach())


def computes_integers(network: Network) -> bool:
    """Whether a layer of the network is an `Int8Linear`, which is computed on CPUs only."""
    return any(isinstance(module, Int8Linear) for module in network.modules())


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 weights [m, n] that int8 ones stand for."""
    return weight.to(torch.float32) * scale[:, None]


def _layers(network: Network) -> Iterator[str]:
    """Names of the trunk's linear layers, first to last; the sequence's own layers are small and stay floats."""
    for name, module in network.trunk.named_modules():
        if isinstance(module, nn.Linear):
            yield f"trunk.{name}"


def _reference(integers: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    # Whole numbers below 2**24 are exact as float32, in whatever order they are added.
    return nn.functional.linear(integers, weight).mul_(scale)


def _kernel(integers: Tensor, packed: Any) -> Tensor:
    found: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(integers, 1.0, 0, packed)
    return found


def _packed(weight: Tensor, scale: Tensor) -> Any:
    """The weights as torch's int8 kernel takes them; None where this torch or processor has no kernel that is right.

    The same integers are then multiplied as floats, which gives the same numbers.
    """
    probe = torch.arange(weight.shape[1], dtype=torch.float32).mul_(37).remainder_(_STEPS + 1)[None]
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # torch warns that this form will go some day; this function then finds none.
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            form = torch.quantize_per_channel(weight * scale[:, None], scale.double(), zeros, 0, torch.qint8)
            if not torch.equal(form.int_repr().to(torch.float32), weight):
                return None
            packed = torch.ops.quantized.linear_prepack(form, None)
            same = torch.allclose(_kernel(probe, packed), _reference(probe, weight, scale), rtol=1e-6)
    except (RuntimeError, AttributeError):
        return None
    return packed if same else None
