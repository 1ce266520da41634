"""The gate: may this model be published?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fasttrack.errors import UseCaseError
from fasttrack.usecase import UseCase
from fasttrack.usecase.learning import Threshold


@dataclass(frozen=True)
class Check:
    """One threshold against one number.

    Attributes:
        subject: what was measured, e.g. ``auc`` or ``auc (carrier=AA) - hist_gradient_boosting``.
        value: the number; None when it is not defined.
        bound: e.g. ``>= 0.62``.
        passed: whether it holds.
    """

    subject: str
    value: float | None
    bound: str
    passed: bool

    def __str__(self) -> str:
        value = "undefined" if self.value is None else f"{self.value:.4f}"
        return f"{self.subject} is {value}, {'as required' if self.passed else 'but must be'} {self.bound}"


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        accepted: whether every check passed.
        reasons: why not, one sentence a failed check; empty when accepted.
        checks: all of them.
    """

    accepted: bool
    reasons: list[str]
    checks: list[Check]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as they stand in metrics.json."""
        return asdict(self)


def decide(usecase: UseCase, metrics: Mapping[str, Any]) -> Decision:
    """Hold a report against ``usecase.gate``.

    Args:
        usecase: the use case.
        metrics: what `fasttrack.evaluation.evaluate.evaluate` wrote: ``model``, ``baselines``, ``slices``,
            ``baseline_slices``.

    Raises:
        UseCaseError: a threshold names a metric or baseline that the report has not.
    """
    checks = [
        _check(threshold, metrics["model"], metrics["baselines"], "", f"gate.thresholds[{number}]")
        for number, threshold in enumerate(usecase.gate.thresholds)
    ]
    checks.extend(_slice_checks(usecase, metrics))
    reasons = [str(check) for check in checks if not check.passed]
    return Decision(not reasons, reasons, checks)


def _slice_checks(usecase: UseCase, metrics: Mapping[str, Any]) -> Iterator[Check]:
    for number, threshold in enumerate(usecase.gate.slice_thresholds):
        for column in usecase.gate.slices:
            for value, scores in metrics["slices"][column].items():
                if scores["rows"] < usecase.gate.slice_min_rows:
                    continue
                baselines = {name: found[column][value] for name, found in metrics["baseline_slices"].items()}
                yield _check(threshold, scores, baselines, f" ({column}={value})", f"gate.slice_thresholds[{number}]")


def _check(
    threshold: Threshold, scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]], suffix: str, where: str
) -> Check:
    value = _value(scores, threshold.metric, where)
    subject = threshold.metric + suffix
    if threshold.minus_baseline is not None:
        if threshold.minus_baseline not in baselines:
            raise UseCaseError(
                f"there is no baseline {threshold.minus_baseline!r}.",
                where=where,
                fix=f"Choose from {sorted(baselines)}.",
            )
        other = _value(baselines[threshold.minus_baseline], threshold.metric, where)
        value = None if value is None or other is None else value - other
        subject += f" - {threshold.minus_baseline}"
    if threshold.at_least is not None:
        bound, held = f">= {threshold.at_least:g}", value is not None and value >= threshold.at_least
    else:
        limit = math.inf if threshold.at_most is None else threshold.at_most
        bound, held = f"<= {limit:g}", value is not None and value <= limit
    return Check(subject, value, bound, held)


def _value(scores: Mapping[str, Any], metric: str, where: str) -> float | None:
    if metric not in scores:
        raise UseCaseError(
            f"metric {metric!r} is not in the report.", where=where, fix=f"Choose from {sorted(scores)}."
        )
    found = scores[metric]
    return float(found) if found is not None and math.isfinite(found) else None
