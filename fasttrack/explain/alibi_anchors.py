"""Anchors by alibi: "as long as these features stay, the prediction stays". An optional extra.

alibi is under the Business Source License and needs numpy 1, which can't live beside the model servers'
numpy 2: it is installed alone (``pip install 'fasttrack[alibi]'``) in an environment or image of its own,
with the model called over the network as `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fasttrack.errors import ConfigurationError
from fasttrack.explain.arrays import Floats, PredictRows


@dataclass(frozen=True)
class Anchor:
    """A rule that holds the prediction in place.

    Attributes:
        conditions: the rule, one readable condition a feature.
        precision: the share of rows under the rule with the same prediction.
        coverage: the share of all rows that the rule applies to.
    """

    conditions: tuple[str, ...]
    precision: float
    coverage: float


def _anchor_tabular() -> Any:
    try:
        from alibi.explainers import AnchorTabular
    except ImportError as error:
        # alibi imports more than it declares: to say that it isn't installed would then mislead.
        away = error.name == "alibi"
        raise ConfigurationError(
            f"Anchors need alibi, which {'is not installed' if away else f'can not be imported ({error})'} here.",
            fix="Install the extra in an environment of its own: pip install 'fasttrack[alibi]' "
            "(licence: Business Source License 1.1; it needs numpy 1).",
        ) from error
    return AnchorTabular


def anchor(
    row: Floats,
    predict: PredictRows,
    background: Floats,
    names: Sequence[str],
    *,
    precision: float = 0.95,
    at_least: float = 0.5,
    seed: int = 0,
) -> Anchor:
    """Find a rule under which the model's decision stays as it is for `row`.

    Args:
        row: numbers (F,).
        predict: rows (B, F) to probabilities (B,).
        background: rows (K, F) that the features are sampled from.
        names: the F feature names.
        precision: the smallest precision of the rule.
        at_least: the probability from which the decision is positive.
        seed: the same row gets the same rule.

    Raises:
        ConfigurationError: if alibi is not installed, or not with all that it needs.
    """
    explainer_type = _anchor_tabular()

    def decide(rows: Floats) -> Any:
        return (predict(rows) >= at_least).astype(np.int64)

    explainer = explainer_type(decide, list(names), seed=seed)
    explainer.fit(background)
    found = explainer.explain(row, threshold=precision)
    return Anchor(tuple(found.anchor), float(found.precision), float(found.coverage))
