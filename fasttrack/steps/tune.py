"""Step tune: choose architecture and hyperparameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import orjson

from fasttrack.steps.frame import Step, step
from fasttrack.steps.reuse import code_digest, fingerprint, place, recall, remember
from fasttrack.steps.substrate import substrate

_CODE = ("models", "training", "tuning")
_SECTIONS = ("streams", "prediction", "label", "features", "split", "models", "tuning", "training", "gate")


@dataclass(frozen=True)
class Choice:
    """What the search chose.

    Attributes:
        candidate: JSON text with ``architecture`` and ``parameters``.
        metric: name of what was compared.
        score: the best trial's value of it.
    """

    candidate: str
    metric: str
    score: float


def tune(usecase: str, run_id: str, features: str, round: int) -> Choice:
    """Search for the best candidate; a search over the same rows and space is not repeated.

    Raises:
        DataQualityError: the table has too few rows, or only one class.
    """
    with step(f"tune-{round}", usecase, run_id) as at:
        key = fingerprint(at.usecase, "tune", features, str(round), parts=_CODE, keys=_SECTIONS)
        found = recall(at, key)
        if found is None:
            found = remember(at, key, substrate().search(at, features, round, _trials(at)))
        at.record.update(found)
        candidate = {"architecture": found["architecture"], "parameters": found["parameters"]}
        text = orjson.dumps(candidate, option=orjson.OPT_SORT_KEYS).decode()
        return Choice(text, at.usecase.tuning.metric, float(found["score"]))


def _trials(at: Step) -> Path:
    """Finished trials: the next round goes on from them, and so does a search that was broken off."""
    digest = hashlib.sha256("".join(code_digest(part) for part in _CODE).encode()).hexdigest()
    return place(at, f"trials-{digest[:12]}")
