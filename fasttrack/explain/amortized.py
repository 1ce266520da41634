"""SHAP values from one small network that was trained beside the model: no masked rows at all in a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import orjson
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fasttrack.errors import IntegrityError
from fasttrack.explain.arrays import Floats
from fasttrack.explain.batched_shap import BatchedShap, closed
from fasttrack.explain.results import Explanation, ranked

WEIGHTS: Final = "explainer.safetensors"
NOTE: Final = "explainer.json"
_HIDDEN: Final = 128
_LAYERS: Final = 2


class AmortizedNetwork(nn.Module):
    """From the first-layer sums of a row (H units) to what its SHAP values (F features) are made of.

    Amortized as by Jethani et al., "FastSHAP" (2022), with the model's own first layer put to use: a feature's value is
    its share of that layer, less the background's mean share, times a slope in each unit that is predicted for the row;
    a second output per feature corrects for what differs from one background row to the next.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, units: int, features: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(units))
        self.register_buffer("spread", torch.ones(units))
        sizes = [units] + [_HIDDEN] * _LAYERS
        blocks: list[nn.Module] = []
        for before, after in pairwise(sizes):
            blocks += [nn.Linear(before, after), nn.SiLU()]
        self.body = nn.Sequential(*blocks)
        self.slope = nn.Linear(_HIDDEN, units)
        self.rest = nn.Linear(_HIDDEN, features)

    def forward(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes (B, H) and corrections (B, F) of sums (B, H)."""
        hidden = self.body((sums - self.centre) / self.spread)
        return self.slope(hidden), self.rest(hidden)


class AmortizedExplainer:
    """Explains encoded rows of one model; holds no state between calls, so threads may share it.

    Args:
        shap: the explainer that it was trained to agree with; its background and base value are used.
        network: the trained network.
    """

    def __init__(self, shap: BatchedShap, network: AmortizedNetwork) -> None:
        self.model = shap.model
        self.base = shap.base
        self.network = network.eval().requires_grad_(False)
        with torch.no_grad():
            self._mean = self.model.shares(shap.background).mean(dim=0).T.contiguous()

    def estimates(self, inputs: Tensor, sums: Tensor, total: Tensor) -> Tensor:
        """(B, F) values that add up to `total` (B,), to float32's rounding; differentiable.

        Args:
            inputs: (B, W) of the model's first layer.
            sums: (B, H) of the same rows.
            total: predictions less the base value.
        """
        slopes, rest = self.network(sums)
        raw = self.model.along(inputs, slopes) - slopes @ self._mean + rest
        # The gap is shared out as `closed` does it; training knows of it.
        sizes = raw.abs() + 1e-12
        gap = total - raw.sum(dim=1)
        found: Tensor = raw + gap.unsqueeze(1) * sizes / sizes.sum(dim=1, keepdim=True)
        return found

    def contributions(self, row: Floats) -> tuple[float, Floats]:
        """The base value and the (F,) contributions of an encoded row (D,), in probability."""
        return self.base, self._explained(row)[1]

    def _explained(self, row: Floats) -> tuple[float, Floats]:
        with torch.no_grad():
            inputs = self.model.inputs(row[None])
            sums = self.model.sums(inputs)
            total = self.model.probability(sums) - self.base
            found = self.estimates(inputs, sums, total)[0].double().numpy()
        # Once more in float64: the sum of many float32 numbers is off by more than is promised.
        return self.base + float(total[0]), closed(found, float(total[0]))

    def explain(self, row: Floats, values: Sequence[Any], check: Callable[[], None] = lambda: None) -> Explanation:
        """Explain one prediction.

        Args:
            row: the encoded row (D,).
            values: the raw values of the features, for display.
            check: called before the work; what it raises ends it.
        """
        check()
        prediction, found = self._explained(row)
        return Explanation("amortized", self.base, prediction, ranked(self.model.names, values, found))


def dump(network: AmortizedNetwork) -> bytes:
    """The weights as safetensors."""
    return safetensors.torch.save({name: values.contiguous() for name, values in network.state_dict().items()})


def load(shap: BatchedShap, files: Mapping[str, bytes]) -> AmortizedExplainer | None:
    """The explainer of a package; none where it has none.

    Args:
        shap: the package's SHAP explainer.
        files: the verified files of the package.

    Raises:
        IntegrityError: the explainer's files are damaged, or belong to another model.
    """
    if WEIGHTS not in files:
        return None
    network = AmortizedNetwork(len(shap.model.bias), len(shap.model.names))
    try:
        names = orjson.loads(files[NOTE])["features"]
        if names != list(shap.model.names):
            raise ValueError("it explains other features")
        network.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"the explainer and the model don't belong together: {str(error).splitlines()[0]}",
            where=WEIGHTS,
            fix="Evaluate and register the model again.",
        ) from error
    return AmortizedExplainer(shap, network)
