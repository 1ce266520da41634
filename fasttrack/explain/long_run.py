"""A slow, unbiased estimate of SHAP values, to measure the fast ones against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fasttrack.explain.arrays import Floats
from fasttrack.explain.layered import AdditiveModel

_BATCHES = 8


def long_run(
    model: AdditiveModel, background: Floats, row: Floats, *, permutations: int = 64, seed: int = 0
) -> tuple[Floats, Floats]:
    """SHAP values by walks in random order and their reverse (Castro et al. 2009; Mitchell et al. 2022).

    No derivatives, no regression, no correction: nothing that the estimators which it judges use.

    Args:
        model: the model.
        background: encoded rows (K, D), all of which are used.
        row: the encoded row (D,) to explain.
        permutations: pairs of walks for each background row, a multiple of 8; each background row has its own.
        seed: of the orders.

    Returns:
        The (F,) values in probability, and their (F,) standard errors.
    """
    random = np.random.default_rng(seed)
    with torch.no_grad():
        hidden, shown = model.shares(background), model.shares(row[None])[0]
        batches = [_walked(model, hidden, shown, permutations // _BATCHES, random) for _ in range(_BATCHES)]
    found = np.stack(batches)
    return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(_BATCHES)


def _walked(model: AdditiveModel, hidden: Tensor, shown: Tensor, pairs: int, random: np.random.Generator) -> Floats:
    features = len(shown)
    total = np.zeros(features)
    for of_row in hidden:
        orders = np.argsort(random.random((pairs, features)), axis=1)
        orders = np.concatenate([orders, orders[:, ::-1]])
        steps = (shown - of_row)[torch.from_numpy(orders)].cumsum(dim=1)
        start = of_row.sum(dim=0) + model.bias
        sums = torch.cat([start.expand(len(orders), 1, -1), start + steps], dim=1)
        values = model.probability(sums.flatten(0, 1)).double().view(len(orders), features + 1).numpy()
        np.add.at(total, orders, np.diff(values, axis=1))
    return total / (2 * pairs * len(hidden))


def relative_error(found: Floats, truth: Floats) -> float:
    """The distance of two vectors (F,), as a share of the true one's length."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
