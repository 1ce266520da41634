"""What an explainer returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fasttrack.explain.arrays import Floats


@dataclass(frozen=True)
class Attribution:
    """The share of one feature in one prediction.

    Attributes:
        feature: name of the feature column.
        value: its raw value, as JSON can hold it; ``None`` where it is missing.
        contribution: in points of probability (0.05 = five percentage points up).
    """

    feature: str
    value: Any
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """One prediction, explained.

    Attributes:
        method: ``shap``, ``lime``, ``amortized`` or ``permutation``.
        base_value: what the prediction would be if nothing were known (SHAP and amortized: the mean over the
            background; LIME: the local model's intercept).
        prediction: the model's probability for this row.
        attributions: one a feature, the largest absolute contribution first.
    """

    method: str
    base_value: float
    prediction: float
    attributions: tuple[Attribution, ...]

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """The wire form, with the `top` largest attributions (default: all of them)."""
        return {
            "method": self.method,
            "base_value": self.base_value,
            "prediction": self.prediction,
            "attributions": [
                {"feature": a.feature, "value": a.value, "contribution": a.contribution}
                for a in self.attributions[:top]
            ],
        }


def ranked(names: Sequence[str], values: Sequence[Any], contributions: Floats) -> tuple[Attribution, ...]:
    """Attributions with the largest absolute contribution first; ties keep the order of the columns."""
    order = np.argsort(-np.abs(contributions), kind="stable")
    return tuple(Attribution(names[i], values[i], float(contributions[i])) for i in order)
