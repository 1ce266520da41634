"""One trial of a Katib Experiment: fit a candidate, and tell the metrics collector after each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from fasttrack.errors import NotFoundError, StorageError
from fasttrack.lake.tables import features_path
from fasttrack.settings import Settings
from fasttrack.tuning.space import select
from fasttrack.tuning.trial import Trials
from fasttrack.usecase import UseCase


def trial(usecase: UseCase, features: str, assignment: Mapping[str, str], metrics: Path) -> dict[str, float]:
    """Run one trial and return its scores.

    Args:
        usecase: the use case.
        features: where the feature table lies.
        assignment: a value, as text, for each dimension of the search space.
        metrics: the file that the collector follows; a JSON line is appended for each epoch, and one with the scores.

    Raises:
        ConfigurationError: a value is absent or out of its range.
        StepError: the fit diverged.
        StorageError: `metrics` can't be written.
    """
    architecture, parameters = select(usecase, assignment)
    metric = usecase.tuning.metric
    scores = Trials(usecase, features).run(
        architecture, parameters, usecase.tuning.seed, lambda step, score: _tell(metrics, {metric: score}, step)
    )
    # The best epoch again, as the last line: Katib compares trials by the best value, early stopping by the newest.
    _tell(metrics, scores, None)
    return scores


def newest_table(usecase: UseCase, settings: Settings) -> str:
    """The feature table that was made last.

    Raises:
        NotFoundError: there is none.
    """
    folder = Path(features_path(settings, usecase, ""))
    found = sorted(folder.glob("*/_stats.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NotFoundError("there is no feature table.", where=str(folder), fix="Run the features step first.")
    return str(found[-1].parent)


def _tell(path: Path, scores: Mapping[str, float], step: int | None) -> None:
    # Katib's collector takes values that are texts and skips numbers.
    line: dict[str, object] = {name: f"{value:.6f}" for name, value in scores.items()}
    # As text: of a number it takes the fraction for nanoseconds, and then loses the order of lines within a second.
    line["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds")
    if step is not None:
        line["step"] = str(step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
    except OSError as error:
        raise StorageError(f"can't be written: {error.strerror}.", where=str(path), fix="Free disk space.") from error
