"""Which masked rows are asked for, and with what weight: decided once, before any request.

Shapley values are an integral of a derivative (Owen, "Multilinear Extensions of Games", 1972): feature i's value is the
mean, over q uniform in [0, 1], of the change that i makes while every other feature is present with probability q. A
network has derivatives: one backward pass gives those of all features at once, where differences cost a forward pass a
feature. So features are shown by degrees z, not only hidden (0) or shown (1), and two things have to be right:

- *i's own change*, the integral of its derivative over z_i from 0 to 1: three nodes 1/2 - h, 1/2 and 1/2 + h with
  weights 1/(24 h^2), 1 - 1/(12 h^2), 1/(24 h^2) integrate cubics exactly.
- *the others*, which should be 0 or 1: the same nodes, with probabilities that give each mean q and variance q(1 - q),
  as presence has. For q itself Gauss and Legendre's three nodes stand.

Every point has its mirror image 1 - z, so models with interactions of pairs are explained exactly; each background row
has points of its own, and each feature meets each node equally often with each background row.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Final

import numpy as np

from fasttrack.explain.arrays import Floats

#: Distance of the outer nodes from 1/2. Smaller ones leave few points at 1/2, larger ones reach too far outside of
#: [0, 1]; from 0.6 to 0.7 the error hardly changes. Up to 0.645, each of `_PRESENCE` has its mean and variance.
_REACH: Final = 0.64
#: Probabilities of presence q, and how often each is drawn.
_PRESENCE: Final = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_UP_TO: Final = (5 / 18, 13 / 18)


@dataclass(frozen=True)
class Gradients:
    """Points at which derivatives are taken.

    Attributes:
        points: (K, N, F) the degree to which each feature is shown, N points for each of K background rows.
        weights: (K, N, F) of each feature's derivative at each point; they sum to 1 over points and background rows.
    """

    points: Floats
    weights: Floats


def gradients(background: int, features: int, pairs: int, seed: int) -> Gradients:
    """Draw `pairs` points and their mirror images for each of `background` rows.

    Args:
        background: K, number of background rows.
        features: F.
        pairs: N / 2, at least 4.
        seed: the same seed gives the same points.
    """
    random = np.random.default_rng(seed)
    outer = 1 / (4 * _REACH * _REACH)
    middle = min(pairs - 1, max(1, round(pairs * (1 - outer))))
    points = np.empty((background, pairs, features), np.float32)
    for k in range(background):
        even = (random.permutation(pairs) + random.random(pairs)) / pairs
        q = np.array(_PRESENCE)[np.searchsorted(_UP_TO, even)]
        upper = (1 + (q - 0.5) / _REACH / outer) / 2
        drawn = np.where(random.random((pairs, features)) < upper[:, None], 0.5 + _REACH, 0.5 - _REACH)
        place = np.argsort(random.random((pairs, features)), axis=0)
        drawn[place[:middle], np.arange(features)] = 0.5
        points[k] = drawn
    points = np.concatenate([points, 1 - points], axis=1)
    side = 1 / (24 * _REACH * _REACH)
    centred = (1 - 2 * side) / (2 * middle)
    weights = np.where(points == 0.5, centred, side / (pairs - middle)) / background
    return Gradients(points, weights.astype(np.float32))


@dataclass(frozen=True)
class Coalitions:
    """All ways to hide features.

    Attributes:
        present: (2^F, F) 0 or 1.
        weights: (F, 2^F): a feature's Shapley value is the weighted sum of the values of all coalitions.
    """

    present: Floats
    weights: Floats


def every(features: int) -> Coalitions:
    """All coalitions of F features with Shapley's weights (Shapley, "A Value for n-Person Games", 1953)."""
    present = (np.arange(2**features)[:, None] >> np.arange(features)) & 1
    size = present.sum(axis=1)
    joins = np.array([1 / (features * comb(features - 1, s)) for s in range(features)] + [0.0])
    leaves = np.array([0.0] + [1 / (features * comb(features - 1, s)) for s in range(features)])
    weights = np.where(present == 1, leaves[size][:, None], -joins[size][:, None]).T
    return Coalitions(present.astype(np.float32), weights)
