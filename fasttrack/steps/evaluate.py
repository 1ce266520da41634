"""Step evaluate: scores of the model and of the baselines, calibrated intervals."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fasttrack.errors import StorageError
from fasttrack.progress import track
from fasttrack.steps.frame import step
from fasttrack.steps.metrics import read_metrics, scores
from fasttrack.steps.reuse import RESULT, fingerprint, place, recall, remember
from fasttrack.usecase import UseCase

_CODE = ("models", "training", "evaluation")
_AMORTIZED = "amortized"
_SECTIONS = ("streams", "prediction", "label", "features", "split", "training", "gate")


@dataclass(frozen=True)
class Scores:
    """What the evaluation found.

    Attributes:
        path: the folder of the model with ``metrics.json`` and ``conformal.json``.
        metrics: the model's numbers, flat, for Kubeflow's pages.
    """

    path: str
    metrics: dict[str, float]


def evaluate(usecase: str, run_id: str, features: str, model: str, round: int) -> Scores:
    """Score a model on the test period; the same model on the same rows is not scored again.

    Where the use case asks for a variant of the model, it is made and judged here; where it offers amortized
    explanations, their explainer is trained and measured for what is packaged.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        features: where the feature table lies.
        model: the folder of the fitted model, which stays as it is.
        round: which attempt this is, from 1.

    Raises:
        NotFoundError: there is no fitted model.
        StorageError: the evaluated model can't be written.
    """
    with step(f"evaluate-{round}", usecase, run_id) as at:
        amortized = _AMORTIZED in at.usecase.serving.explanations
        inputs, code = ((_AMORTIZED,), ("explain",)) if amortized else ((), ())
        inputs = (*inputs, str(at.usecase.serving.novelty_level))
        if at.usecase.serving.variant is not None:
            inputs = (*inputs, at.usecase.serving.variant.model_dump_json())
        key = fingerprint(
            at.usecase, "evaluate", features, Path(model).name, *inputs, parts=(*_CODE, *code), keys=_SECTIONS
        )
        folder = place(at, key)
        if recall(at, key) is None:
            # Here, so that an evaluation that is reused doesn't wait for torch.
            from fasttrack.evaluation.evaluate import evaluate as judge

            _copy(Path(model), folder)
            judge(at.usecase, features, folder)
            if amortized:
                _explainer(at.usecase, features, folder)
            remember(at, key, {"model": model})
        metrics = read_metrics(str(folder))
        at.record.update(model=str(folder), metrics=metrics)
        return Scores(str(folder), scores(metrics))


def _explainer(usecase: UseCase, features: str, folder: Path) -> None:
    from fasttrack.explain.amortized_fit import fit_folder

    with track("Training the explainer", total=1, unit="models") as bar:
        fit_folder(usecase, features, folder)
        bar.advance()


def _copy(model: Path, folder: Path) -> None:
    try:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RESULT, ".work"))
    except OSError as error:
        raise StorageError(f"can't be copied: {error}.", where=str(model), fix="Free disk space.") from error
