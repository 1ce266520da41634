"""What a model reads: rows as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        numeric: float32 [B, n], standardized; missing is 0; missing-indicators come last.
        categorical: int64 [B, c]; 0 is unknown or missing.
        sequence: float32 [B, N, k], standardized, oldest first, left-padded with 0; None without a sequence feature.
        length: int64 [B], how many of the last positions of `sequence` are real; None without a sequence feature.
    """

    numeric: Array
    categorical: Array
    sequence: Array | None = None
    length: Array | None = None

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, index: Array | slice) -> Batch:
        """The rows at `index`."""
        return Batch(
            self.numeric[index],
            self.categorical[index],
            None if self.sequence is None else self.sequence[index],
            None if self.length is None else self.length[index],
        )

    def tensors(self) -> dict[str, Array]:
        """The model inputs by their name in signature.json, in its order."""
        found = {"numeric": self.numeric, "categorical": self.categorical}
        if self.sequence is not None and self.length is not None:
            found |= {"sequence": self.sequence, "length": self.length}
        return found
