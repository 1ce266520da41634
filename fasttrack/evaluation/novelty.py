"""Learn which rows are unusual: from training rows what is ordinary, from held-out rows how far ordinary rows go."""

from __future__ import annotations

import math
from typing import Final, TypeVar

import numpy as np
from sklearn.covariance import ledoit_wolf

from fasttrack.models import Batch
from fasttrack.models.novelty import LARGEST_LEVEL, Novelty, described
from fasttrack.training.data import Rows

_Rows = TypeVar("_Rows", Rows, Batch)
#: Of a larger split evenly spaced rows are looked at.
_ROWS: Final = 100_000
_DIGITS: Final = 7


def fit(train: Batch, held_out: Batch) -> Novelty:
    """Learn from encoded rows.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, 2004), so that columns that never vary
    or depend on one another do no harm.

    Args:
        train: rows that the model learnt from, at least two.
        held_out: rows that it did not learn from.
    """
    rows = described(train)
    center = rows.mean(axis=0)
    covariance, _ = ledoit_wolf(rows - center, assume_centered=True)
    # Rows that are all the same have no spread at all.
    values, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(np.maximum(values, 1e-6))) @ vectors.T
    rounded = Novelty(_rounded(center), _rounded(whitening), np.zeros(0), 0)
    scores = np.sort(rounded.scores(held_out))[::-1]
    kept = math.ceil(LARGEST_LEVEL * (len(scores) + 1))
    return Novelty(rounded.center, rounded.whitening, _rounded(scores[:kept]), len(scores))


def spaced(rows: _Rows) -> _Rows:
    """As many rows as `fit` needs, evenly spaced; taken before they are encoded, where nothing else needs the rest."""
    count = len(rows)
    return rows if count <= _ROWS else rows.take(np.linspace(0, count - 1, _ROWS).astype(np.int64))


def _rounded(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """To seven digits: what a sum's order changes must not reach the package's bytes."""
    with np.errstate(divide="ignore"):
        scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(np.abs(values))))
    scale[~np.isfinite(scale)] = 1.0
    return np.round(values * scale) / scale
