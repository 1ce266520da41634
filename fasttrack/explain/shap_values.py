"""SHAP values by shap's permutation explainer, fed by a masker that works on encoded rows.

shap's own maskers build one masked row at a time in Python. Ours turns the whole permutation into one
matrix and leaves out the rows that hiding a feature doesn't change, so a request costs `permutations`
forward passes. Antithetic permutations (forward and backward) are exact for models with pairwise
interactions, and sums telescope: base value + contributions = prediction, to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fasttrack.errors import ConfigurationError
from fasttrack.explain.arrays import Booleans, Floats, Integers
from fasttrack.explain.batched_shap import closed
from fasttrack.explain.masking import FeatureSpace, stratified_background
from fasttrack.explain.results import Explanation, ranked

BACKGROUND_ROWS = 16
PERMUTATIONS = 2

#: shap draws its permutations from numpy's global generator: one explanation at a time is seeded and run.
_SHARED_GENERATOR = threading.Lock()


class GroupMasker:
    """A shap masker over encoded rows in which a feature is hidden with all the columns that it owns."""

    supports_delta_masking = True

    def __init__(self, space: FeatureSpace, background: Floats) -> None:
        self.space = space
        self.background = background
        self.shape = (len(background), len(space.names))

    def invariants(self, row: Floats) -> Booleans:
        """(K, F) where hiding the feature changes nothing (shap's protocol)."""
        return ~self.space.differs(row, self.background)

    def __call__(self, toggles: Integers, row: Floats) -> tuple[tuple[Floats], Booleans]:
        """The masked rows of a walk in which each step shows or hides one feature (shap's protocol).

        Args:
            toggles: (M,) the feature that changes at each step; the first entry is shap's no-op.
            row: (D,) the encoded row to explain.

        Returns:
            The (M * K, D) masked rows, and (M, K) which of them differ from the step before.
        """
        steps, (_, features) = len(toggles), self.shape
        flips = np.zeros((steps, features), dtype=np.int64)
        real = toggles < features
        flips[np.flatnonzero(real), toggles[real]] = 1
        present = (np.cumsum(flips, axis=0) % 2).astype(bool)
        varying = np.ones((steps, len(self.background)), dtype=bool)
        varying[real] = self.space.differs(row, self.background)[:, toggles[real]].T
        # Where no feature varies at all, shap sends a single step that is no no-op; it needs its outputs, too.
        varying[0] = True
        masked = self.space.masked(present, row, self.background)
        return (masked.reshape(-1, masked.shape[-1]),), varying


class ShapExplainer:
    """Explains encoded rows of one model; safe to share between threads (they take turns).

    Args:
        space: the model and its features.
        background: encoded rows (K, D) that hidden features are taken from; reduced to `background_rows`.
        background_rows: more rows cost proportionally more time.
        permutations: pairs of forward and backward walks; the error falls with their square root.
        seed: the same row gets the same explanation.
    """

    def __init__(
        self,
        space: FeatureSpace,
        background: Floats,
        *,
        background_rows: int = BACKGROUND_ROWS,
        permutations: int = PERMUTATIONS,
        seed: int = 0,
    ) -> None:
        # Imported here: shap takes seconds (numba, scikit-learn, matplotlib), and servers that only predict have none.
        from shap import PermutationExplainer

        if len(background) == 0:
            raise ConfigurationError("SHAP needs background rows.", fix="Rebuild the model package with a background.")
        self.space = space
        self.background = stratified_background(background, space.predict, background_rows)
        self.seed = seed
        self._evaluations = permutations * (2 * len(space.names) + 1)
        self._permutation = PermutationExplainer(self._probabilities, GroupMasker(space, self.background), seed=seed)

    def _probabilities(self, rows: Floats) -> Floats:
        return np.asarray(self.space.predict(rows), dtype=np.float64)

    def contributions(self, row: Floats) -> tuple[float, Floats]:
        """The base value and the (F,) contributions of an encoded row (D,), in probability."""
        with _SHARED_GENERATOR:
            np.random.seed(self.seed)
            found: dict[str, Any] = self._permutation.explain_row(
                row,
                max_evals=self._evaluations,
                main_effects=False,
                error_bounds=False,
                batch_size="auto",
                outputs=None,
                silent=True,
            )
        return float(found["expected_values"]), np.asarray(found["values"], dtype=np.float64)

    def explain(self, row: Floats, values: Sequence[Any], check: Callable[[], None] = lambda: None) -> Explanation:
        """Explain one prediction.

        Args:
            row: the encoded row (D,).
            values: the raw values of the features, for display.
            check: called before the work begins; it may end it by raising.
        """
        check()
        base, contributions = self.contributions(row)
        prediction = float(self._probabilities(row[None])[0])
        # What rounds to integers may answer a row among others differently in the fourth digit.
        contributions = closed(contributions, prediction - base)
        return Explanation("permutation", base, prediction, ranked(self.space.names, values, contributions))
