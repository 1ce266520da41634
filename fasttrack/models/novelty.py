"""How unlike the rows that a model was trained on a row is, all features together; numpy only.

A value outside its own range is one thing; values that are ordinary each by itself, and never occurred together, are
another. The score is the squared Mahalanobis distance of the encoded numbers from the training rows' mean (Lee et al.,
"A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018), and a row is unusual where too few
held-out rows have as large a score: conformal anomaly detection (Laxhammar and Falkman, 2010), whose share of false
alarms is at most the level if held-out and asked rows are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fasttrack.models.batch import Array, Batch

#: The largest share of ordinary rows that may be taken for unusual ones; only so many scores are kept.
LARGEST_LEVEL: Final = 0.05


def described(batch: Batch) -> Array:
    """The numbers that are judged, float64 [B, d]: numeric columns; a sequence's mean, newest event and length.

    The encoder has cut them at the ends of their ranges, so a single wild value does not decide.
    """
    parts = [batch.numeric.astype(np.float64)]
    if batch.sequence is not None and batch.length is not None:
        # The padding holds zeros.
        count = np.maximum(batch.length, 1)[:, None]
        length = batch.length[:, None] / batch.sequence.shape[1]
        parts += [batch.sequence.sum(axis=1, dtype=np.float64) / count, batch.sequence[:, -1], length]
    found: Array = np.concatenate(parts, axis=1)
    return found


@dataclass(frozen=True)
class Novelty:
    """What scores are made from.

    Attributes:
        center: mean of the training rows, float64 [d].
        whitening: [d, d]; differences times it are uncorrelated and of variance 1.
        tail: the largest scores of held-out rows, the largest first: at least `LARGEST_LEVEL` of them.
        rows: how many held-out rows there were.
    """

    center: Array
    whitening: Array
    tail: Array
    rows: int

    def scores(self, batch: Batch) -> Array:
        """Squared distances, float64 [B]."""
        white = (described(batch) - self.center) @ self.whitening
        found: Array = np.einsum("bd,bd->b", white, white)
        return found

    def threshold(self, level: float) -> float:
        """The score above which a row is unusual; infinite where there were too few held-out rows to say so.

        Args:
            level: share of ordinary rows that may be taken for unusual ones, up to `LARGEST_LEVEL`.
        """
        most = math.floor(level * (self.rows + 1)) - 1
        if most < 0:
            return math.inf
        return float(self.tail[most]) if most < len(self.tail) else -math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which `from_json` makes an equal one."""
        return {
            "center": self.center.tolist(),
            "whitening": self.whitening.tolist(),
            "tail": self.tail.tolist(),
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Novelty:
        """What `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        center, whitening, tail = (np.array(document[name], np.float64) for name in ("center", "whitening", "tail"))
        if center.ndim != 1 or whitening.shape != (len(center), len(center)) or tail.ndim != 1:
            raise ValueError(f"shapes {center.shape}, {whitening.shape} and {tail.shape} don't belong together")
        if not all(np.isfinite(each).all() for each in (center, whitening, tail)):
            raise ValueError("there are numbers that are not finite")
        return cls(center, whitening, tail, int(document["rows"]))
