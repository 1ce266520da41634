"""SHAP values of a network in one batched pass forward and backward, a few milliseconds a row on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fasttrack.errors import ConfigurationError
from fasttrack.explain.arrays import Floats
from fasttrack.explain.coalitions import every, gradients
from fasttrack.explain.layered import AdditiveModel
from fasttrack.explain.masking import stratified_background
from fasttrack.explain.results import Explanation, ranked

BACKGROUND_ROWS: Final = 16
PAIRS: Final = 20
#: With no more masked rows than this, every coalition is asked and the values are exact.
_ENUMERABLE: Final = 4096
#: Masked rows a chunk: fewer pay for calls, more leave the core's cache.
_CHUNK: Final = 320

Check = Callable[[], None]


def _go_on() -> None:
    """No deadline."""


class BatchedShap:
    """Explains encoded rows of one model; holds no state between calls, so threads may share it.

    The value function is that of `ShapExplainer`: hidden features are taken from background rows. Points and weights
    (`fasttrack.explain.coalitions`) and the background's part of every masked row are computed here, once. With few
    features (``K * 2^F <= 4096``) all coalitions are asked for, and the values are exact. Otherwise they are estimates;
    what is missing to the prediction is shared out in proportion to their sizes, so that they always add up, and a
    feature that changes nothing keeps exactly 0.

    Args:
        model: the model.
        background: encoded rows (K, D) that hidden features are taken from; reduced to `background_rows`.
        background_rows: how many rows to keep, see `stratified_background`.
        pairs: points for each background row are twice as many; time grows with them, the error falls with their root.
        seed: the same row gets the same explanation.

    Raises:
        ConfigurationError: there are no background rows.
    """

    def __init__(
        self,
        model: AdditiveModel,
        background: Floats,
        *,
        background_rows: int = BACKGROUND_ROWS,
        pairs: int = PAIRS,
        seed: int = 0,
    ) -> None:
        if len(background) == 0:
            raise ConfigurationError("SHAP needs background rows.", fix="Rebuild the model package with a background.")
        self.model = model
        self.background = stratified_background(background, self._probabilities, background_rows)
        with torch.no_grad():
            self._hidden = model.shares(self.background)
            sums = self._hidden.sum(dim=1) + model.bias
            self.base = float(model.probability(sums).double().mean())
        count, features = len(self.background), len(model.names)
        self.exact = count * 2**features <= _ENUMERABLE
        if self.exact:
            coalitions = every(features)
            self._weights = torch.from_numpy(coalitions.weights)
            points = torch.from_numpy(coalitions.present).expand(count, -1, -1)
        else:
            drawn = gradients(count, features, pairs, seed)
            self._weights = torch.from_numpy(drawn.weights).transpose(1, 2).contiguous()
            points = torch.from_numpy(drawn.points)
        self._points = points.contiguous()
        # (K, N, H): everything in a masked row's sum that doesn't depend on the row to explain.
        self._rest = sums[:, None, :] - torch.bmm(self._points, self._hidden)
        self._step = max(1, _CHUNK // self._points.shape[1])

    def _probabilities(self, rows: Floats) -> Floats:
        with torch.no_grad():
            sums = self.model.shares(rows).sum(dim=1) + self.model.bias
            return self.model.probability(sums).double().numpy()

    def contributions(self, row: Floats, check: Check = _go_on) -> tuple[float, Floats]:
        """The base value and the (F,) contributions of an encoded row (D,), in probability.

        Args:
            row: the encoded row.
            check: called between chunks; what it raises ends the work.
        """
        return self.base, self._explained(row, check)[1]

    def _explained(self, row: Floats, check: Check) -> tuple[float, Floats]:
        with torch.no_grad():
            shown = self.model.shares(row[None])[0]
            # Not the sum of the shares: this is what the model answers, to the last bit.
            prediction = float(self.model.probability(self.model.sums(self.model.inputs(row[None])))[0])
        parts = []
        for start in range(0, len(self._points), self._step):
            check()
            chunk = slice(start, start + self._step)
            parts.append(self._changes(shown, chunk) if self.exact else self._slopes(shown, chunk))
        raw = torch.stack(parts).sum(dim=0).double().numpy()
        # Sums that take a share away and add an equal one again differ in their last bit.
        raw[~(shown != self._hidden).any(dim=2).any(dim=0).numpy()] = 0.0
        return prediction, closed(raw, prediction - self.base)

    def _changes(self, shown: Tensor, chunk: slice) -> Tensor:
        """(F,) the exact values' part of these background rows."""
        with torch.no_grad():
            sums = self._rest[chunk] + self._points[chunk] @ shown
            values = self.model.probability(sums.flatten(0, 1)).double().view(sums.shape[:2]).sum(dim=0)
        return self._weights @ values / len(self._points)

    def _slopes(self, shown: Tensor, chunk: slice) -> Tensor:
        """(F,) the estimates' part of these background rows."""
        sums = (self._rest[chunk] + self._points[chunk] @ shown).requires_grad_(True)
        with torch.enable_grad():
            total = self.model.probability(sums.flatten(0, 1)).sum()
        (slopes,) = torch.autograd.grad(total, sums)
        # The chain rule's last step, weighted: how a sum moves with the degree to which a feature is shown.
        return (torch.bmm(self._weights[chunk], slopes) * (shown - self._hidden[chunk])).sum(dim=(0, 2))

    def explain(self, row: Floats, values: Sequence[Any], check: Check = _go_on) -> Explanation:
        """Explain one prediction.

        Args:
            row: the encoded row (D,).
            values: the raw values of the features, for display.
            check: called between chunks; what it raises ends the work.
        """
        prediction, contributions = self._explained(row, check)
        return Explanation("shap", self.base, prediction, ranked(self.model.names, values, contributions))


def closed(contributions: Floats, total: float) -> Floats:
    """(F,) contributions that add up to `total`: the gap is shared out in proportion to their absolute sizes."""
    gap = total - contributions.sum()
    sizes = np.abs(contributions)
    whole = sizes.sum()
    share = sizes / whole if whole > 0 else np.full(len(sizes), 1 / len(sizes))
    return np.asarray(contributions + gap * share, dtype=np.float64)
