"""LIME: a weighted linear model around one row, through lime's LimeTabularExplainer.

lime can't sample a missing number or a sequence, so it is given what it can: every feature as a category.
The category of a number is its quartile among the background rows (or "missing"); of a category, its
value; of a sequence, a quartile of the sum of its standardized numbers. A sampled category stands for a
background row that has it, except the row's own category, which stands for the row's own value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fasttrack.errors import ConfigurationError
from fasttrack.explain.arrays import Floats, Integers
from fasttrack.explain.masking import FeatureSpace
from fasttrack.explain.results import Explanation, ranked

SAMPLES = 1000
BINS = 4


class _Categories:
    """Codes of one feature: quartiles of a summary of its columns, or the distinct values when there are few."""

    def __init__(self, columns: Floats) -> None:
        summary = self._summary(columns)
        distinct = np.unique(summary)
        few = len(distinct) <= 3 * BINS
        cuts = (distinct[1:] + distinct[:-1]) / 2 if few else np.unique(np.quantile(summary, (0.25, 0.5, 0.75)))
        self._cuts = cuts
        raw = np.searchsorted(cuts, summary, side="right")
        self._used, first, self.codes = np.unique(raw, return_index=True, return_inverse=True)
        #: for each code a background row that has it
        self.rows: Integers = first

    @staticmethod
    def _summary(columns: Floats) -> Floats:
        # A missing number is encoded as the mean with its indicator set: keep it apart from real means.
        weights = np.ones(columns.shape[1])
        if columns.shape[1] == 2:
            weights[1] = 1e6
        return np.asarray(columns @ weights, dtype=np.float64)

    def code(self, columns: Floats) -> int:
        """The code of the row's own columns (n,); the nearest one, if the background has none like it."""
        raw = int(np.searchsorted(self._cuts, self._summary(columns[None])[0], side="right"))
        return int(np.abs(self._used - raw).argmin())


class LimeExplainer:
    """Explains encoded rows of one model by local linear models.

    Args:
        space: the model and its features.
        background: encoded rows (K, D) that the samples are put together from.
        samples: size of the neighbourhood.
        seed: the same row gets the same explanation.
    """

    def __init__(self, space: FeatureSpace, background: Floats, *, samples: int = SAMPLES, seed: int = 0) -> None:
        if len(background) == 0:
            raise ConfigurationError("LIME needs background rows.", fix="Rebuild the model package with a background.")
        self.space = space
        self.background = background
        self.samples = samples
        self.seed = seed
        self._columns = [np.flatnonzero(space.owner == f) for f in range(len(space.names))]
        self._categories = [_Categories(background[:, c]) for c in self._columns]
        self._codes = np.stack([c.codes for c in self._categories], axis=1)

    def _decode(self, codes: Integers, row: Floats, own: Integers) -> Floats:
        """Codes (B, F) to encoded rows (B, D)."""
        rows = np.repeat(row[None], len(codes), axis=0)
        for feature, (columns, categories) in enumerate(zip(self._columns, self._categories, strict=True)):
            other = np.flatnonzero(codes[:, feature] != own[feature])
            picked = categories.rows[codes[other, feature].astype(int)]
            rows[np.ix_(other, columns)] = self.background[np.ix_(picked, columns)]
        return rows

    def _asked(self, codes: Integers, row: Floats, own: Integers, check: Callable[[], None]) -> Floats:
        check()
        return self.space.predict(self._decode(codes, row, own))

    def explain(self, row: Floats, values: Sequence[Any], check: Callable[[], None] = lambda: None) -> Explanation:
        """Explain one prediction.

        Args:
            row: the encoded row (D,).
            values: the raw values of the features, for display.
            check: called before the model is asked; what it raises ends the work.
        """
        # Imported here: lime takes seconds (scikit-learn, matplotlib).
        from lime.lime_tabular import LimeTabularExplainer

        features = len(self.space.names)
        own = np.array([c.code(row[columns]) for c, columns in zip(self._categories, self._columns, strict=True)])
        explainer = LimeTabularExplainer(
            self._codes,
            mode="regression",
            categorical_features=range(features),
            discretize_continuous=False,
            feature_selection="none",
            random_state=self.seed,
        )
        found = explainer.explain_instance(
            own,
            lambda codes: self._asked(codes, row, own, check),
            num_features=features,
            num_samples=self.samples,
        )
        contributions = np.zeros(features)
        for feature, weight in found.local_exp[1]:
            contributions[feature] = weight
        prediction = float(found.predicted_value)
        return Explanation(
            "lime", float(found.intercept[1]), prediction, ranked(self.space.names, values, contributions)
        )
