"""The metrics that lie beside an evaluated model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import NotFoundError


def read_metrics(model: str) -> dict[str, Any]:
    """The metrics that lie beside a model.

    Raises:
        NotFoundError: there are none.
    """
    path = Path(model) / "metrics.json"
    if not path.is_file():
        raise NotFoundError("the model has no metrics.", where=str(path), fix="Run the evaluate step first.")
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of the model and of each baseline under flat names, such as ``auc`` and ``group_mean.auc``."""
    named = {"": metrics["model"], **{f"{name}.": found for name, found in metrics["baselines"].items()}}
    return {
        prefix + name: float(value)
        for prefix, found in named.items()
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
