"""Step train: fit the chosen candidate."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from fasttrack.steps.frame import step
from fasttrack.steps.reuse import fingerprint, place, recall, remember
from fasttrack.steps.substrate import substrate

_CODE = ("models", "tuning", "training", "gate")
_SECTIONS = ("streams", "prediction", "label", "features", "split", "models", "tuning", "training", "gate")


@dataclass(frozen=True)
class Fitted:
    """The fitted model.

    Attributes:
        path: the folder of its files.
        metadata: its architecture and parameters, as text.
    """

    path: str
    metadata: dict[str, str]


def train(usecase: str, run_id: str, features: str, candidate: str, round: int) -> Fitted:
    """Fit a candidate on all training rows; the same fit is not repeated.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        features: where the feature table lies.
        candidate: JSON text with ``architecture`` and ``parameters``.
        round: which attempt this is, from 1.

    Raises:
        DataQualityError: the table has too few rows, or only one class.
    """
    with step(f"train-{round}", usecase, run_id) as at:
        chosen = orjson.loads(candidate)
        key = fingerprint(at.usecase, "train", features, candidate, parts=_CODE, keys=_SECTIONS)
        folder = place(at, key)
        if recall(at, key) is None:
            made = substrate().fit(at, features, chosen["architecture"], chosen["parameters"], folder)
            remember(at, key, {"candidate": chosen, **made})
        at.record.update(candidate=chosen, model=str(folder))
        return Fitted(str(folder), {"architecture": chosen["architecture"], "parameters": candidate})
