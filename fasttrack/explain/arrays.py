"""Array types of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]
#: A model: rows of encoded columns (B, D) in, probabilities (B,) out.
PredictRows = Callable[[Floats], Floats]
