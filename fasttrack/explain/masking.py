"""Hiding features: a row's encoded columns are replaced, group by group, by those of background rows.

A raw feature owns one or more encoded columns (a number and its missing-indicator, a whole sequence and
its length). Features are hidden on encoded rows, so that a request encodes its row once and the
background is encoded once for all requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fasttrack.errors import ConfigurationError
from fasttrack.explain.arrays import Booleans, Floats, Integers, PredictRows


@dataclass(frozen=True)
class FeatureSpace:
    """Encoded rows, and which raw feature each of their columns belongs to.

    Attributes:
        names: the F raw features, in the order of the use case.
        owner: (D,) for each encoded column the index of its feature.
        predict: encoded rows (B, D) to probabilities (B,).
    """

    names: tuple[str, ...]
    owner: Integers
    predict: PredictRows
    _membership: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owned = np.unique(self.owner)
        if len(self.names) == 0 or not np.array_equal(owned, np.arange(len(self.names))):
            raise ConfigurationError(
                f"{len(self.names)} features can't own the encoded columns of {owned.tolist()}.",
                fix="Every feature must own at least one column, and every column one feature.",
            )
        object.__setattr__(self, "_membership", np.eye(len(self.names), dtype=np.float32)[self.owner])

    def differs(self, row: Floats, background: Floats) -> Booleans:
        """(K, F) whether feature f of `row` (D,) and of background row k (K, D) are encoded differently.

        Where they are equal, hiding f changes nothing for k, and the model needn't be asked.
        """
        unequal = (background != row).astype(np.float32) @ self._membership
        return np.asarray(unequal > 0)

    def masked(self, present: Booleans, row: Floats, background: Floats) -> Floats:
        """(M, K, D): `row` where a feature is present (M, F), else background row k of (K, D)."""
        return np.where(present[:, self.owner][:, None, :], row, background[None])


def stratified_background(rows: Floats, predict: PredictRows, size: int) -> Floats:
    """`size` rows that stand for all: one from the middle of each slice of equal size by prediction.

    A random pick of 16 rows moves the base value by several points; slicing by prediction keeps the mean
    and the spread of the model's output, which is what hidden features are averaged over.

    Args:
        rows: encoded rows (K, D).
        predict: the model.
        size: how many rows to keep; all are kept when there are not more.
    """
    if len(rows) <= size:
        return rows
    order = np.argsort(predict(rows), kind="stable")
    middles = ((np.arange(size) + 0.5) * len(rows) / size).astype(int)
    return np.ascontiguousarray(rows[order[middles]])


def names_of(features: Sequence[str]) -> tuple[str, ...]:
    """Feature names, refused when one occurs twice.

    Raises:
        ConfigurationError: if a name occurs twice.
    """
    if len(set(features)) != len(features):
        raise ConfigurationError("A feature name occurs twice.", fix="Rename one of the columns in the use case.")
    return tuple(features)
