"""Calibrated probabilities (Platt) and split-conformal intervals (conformalized quantile regression); numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fasttrack.errors import DataQualityError
from fasttrack.models.batch import Array

_STEPS = 50
_FLATTEST = 1e-3
_MOST_GROUPS = 10
#: Fewer rows would make a group's margin a matter of luck: at 90% coverage, its own coverage varies by about 1.3%.
_GROUP_ROWS = 500

#: Lower and upper end, [B] each, in label units.
Interval = tuple[Array, Array]


def sigmoid(logit: Array) -> Array:
    """1 / (1 + exp(-x)) in float64, without overflow."""
    x = np.asarray(logit, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


@dataclass(frozen=True)
class Platt:
    """Probability of positive = sigmoid(slope * logit + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def fit(cls, logit: Array, positive: Array) -> Platt:
        """Maximum likelihood on held-out rows, with Platt's smoothed targets (Platt 1999; Lin, Lin and Weng 2007).

        The slope stays positive, so the order of the rows, and with it the AUC, never changes.
        """
        x, truth = np.asarray(logit, np.float64), np.asarray(positive, bool)
        positives, negatives = int(truth.sum()), int((~truth).sum())
        target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        design = np.stack([x, np.ones_like(x)], axis=1)
        weights = np.array([1.0, 0.0])
        for _ in range(_STEPS):
            p = sigmoid(design @ weights)
            gradient = design.T @ (p - target)
            curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
            step = np.linalg.solve(curvature, gradient)
            # A Newton step may overshoot where the likelihood is flat.
            weights = weights - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
            if np.abs(step).max() < 1e-10:
                break
        return cls(max(float(weights[0]), _FLATTEST), float(weights[1]))

    def apply(self, logit: Array) -> Array:
        """Probabilities in [0, 1], float64."""
        return sigmoid(self.slope * np.asarray(logit, np.float64) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"method": "platt", **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Platt:
        """What `to_json` described."""
        return cls(float(document["slope"]), float(document["intercept"]))


@dataclass(frozen=True)
class Conformal:
    """Interval [lower - margin, upper + margin], of which a share of at least `coverage` holds the truth.

    The guarantee is finite-sample for rows that are exchangeable with the calibration rows of their group (Romano,
    Patterson and Candes, "Conformalized Quantile Regression", 2019; groups after Vovk's Mondrian predictors). Groups
    are bins of the logit: when a season brings more risky rows, they keep the margin that risky rows need. A negative
    margin narrows intervals that were too wide.

    Attributes:
        coverage: nominal share.
        margin: of rows of all groups together, in label units; used where there are no groups.
        rows: how many rows calibrated it.
        edges: logits between neighbouring groups, increasing.
        margins: of each group, one more than `edges`; empty without groups.
    """

    coverage: float
    margin: float
    rows: int
    edges: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()

    @classmethod
    def fit(cls, label: Array, ends: Interval, coverage: float, logit: Array | None = None) -> Conformal:
        """The ceil((n + 1) * coverage)-th smallest distance by which the interval misses the label, group by group.

        Args:
            label: truth [n].
            ends: predicted lower and upper end, [n] each.
            coverage: nominal share, in (0, 1).
            logit: [n]; groups are formed by it where each would have enough rows.

        Raises:
            DataQualityError: too few rows for any finite interval to have this coverage.
        """
        truth = np.asarray(label, np.float64)
        misses = np.maximum(np.asarray(ends[0], np.float64) - truth, truth - np.asarray(ends[1], np.float64))
        margin = _rank(misses, coverage)
        groups = min(_MOST_GROUPS, len(truth) // _GROUP_ROWS)
        if logit is None or groups < 2:
            return cls(coverage, margin, len(truth))
        levels = np.linspace(0.0, 1.0, groups + 1)[1:-1]
        edges = np.unique(np.quantile(logit, levels, method="nearest"))
        place = np.searchsorted(edges, logit)
        margins = [misses[place == group] for group in range(len(edges) + 1)]
        # Equal logits may leave a group almost empty; it then takes the margin of all.
        enough = coverage / (1 - coverage) + 1
        found = tuple(_rank(group, coverage) if len(group) > enough else margin for group in margins)
        return cls(coverage, margin, len(truth), tuple(float(edge) for edge in edges), found)

    @cached_property
    def _groups(self) -> tuple[Array, Array]:
        return np.array(self.edges), np.array(self.margins)

    def apply(self, value: Array, ends: Interval, logit: Array) -> Interval:
        """The interval's ends [B]; stretched to `value` where a negative margin would leave it out."""
        margin: Any = self.margin
        if self.margins:
            edges, margins = self._groups
            margin = margins[edges.searchsorted(logit)]
        return np.minimum(ends[0] - margin, value), np.maximum(ends[1] + margin, value)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        groups = {"edges": list(self.edges), "margins": list(self.margins)}
        return {"method": "conformalized_quantile_regression", **asdict(self), **groups}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Conformal:
        """What `to_json` described.

        Raises:
            ValueError: the margins don't belong to the edges.
        """
        edges, margins = (tuple(float(number) for number in document[name]) for name in ("edges", "margins"))
        if margins and len(margins) != len(edges) + 1:
            raise ValueError(f"{len(margins)} margins don't belong to {len(edges)} edges")
        return cls(float(document["coverage"]), float(document["margin"]), int(document["rows"]), edges, margins)


def _rank(misses: Array, coverage: float) -> float:
    rows = len(misses)
    rank = math.ceil((rows + 1) * coverage)
    if rank > rows:
        raise DataQualityError(
            f"{rows} calibration rows are too few for intervals of {coverage:.0%} coverage.",
            fix=f"Give the validation split at least {math.ceil(coverage / (1 - coverage))} labelled rows.",
        )
    return float(np.partition(misses, rank - 1)[rank - 1])
