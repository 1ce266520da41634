"""Full model or compressed one: which of them the package holds, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fasttrack.evaluation.gate import Check, Decision
from fasttrack.usecase import UseCase
from fasttrack.usecase.serving import Variant

#: By metric; None where it is not defined.
Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Standing:
    """What a full model and its variant are compared by.

    Attributes:
        validate: every metric on the validation split.
        test: every metric on the test split.
        decision: the gate's answer.
        size: of its weights file, in bytes.
    """

    validate: Scores
    test: Scores
    decision: Decision
    size: int


def choose(usecase: UseCase, variant: Variant, full: Standing, compressed: Standing) -> dict[str, Any]:
    """The section ``variant`` of metrics.json; ``packaged`` says whether the variant takes the full model's place.

    It does if the gate accepts it, and if by no metric of ``gate.thresholds`` it is worse than the full model by more
    than the tolerance, on the validation split: the test split only reports and passes the gate's judgement.
    """
    checks = tolerated(usecase, variant.tolerance, full.validate, compressed.validate)
    reasons = [str(check) for check in checks if not check.passed]
    reasons += [f"the gate refuses it: {reason}" for reason in compressed.decision.reasons]
    return {
        "quantization": variant.quantization,
        "pruning": variant.pruning,
        "tolerance": variant.tolerance,
        "packaged": not reasons,
        "reasons": reasons,
        "checks": [asdict(check) for check in checks],
        "gate": {"accepted": compressed.decision.accepted, "full_model_accepted": full.decision.accepted},
        "full": {"validate": full.validate, "test": full.test, "bytes": full.size},
        "compressed": {"validate": compressed.validate, "test": compressed.test, "bytes": compressed.size},
    }


def tolerated(usecase: UseCase, tolerance: float, full: Scores, compressed: Scores) -> list[Check]:
    """One check a metric and direction of ``gate.thresholds``; all metrics are in the scores, the gate has asked."""
    wanted = dict.fromkeys((each.metric, each.at_least is not None) for each in usecase.gate.thresholds)
    return [_check(metric, rising, tolerance, full[metric], compressed[metric]) for metric, rising in wanted]


def _check(metric: str, rising: bool, tolerance: float, full: float | None, compressed: float | None) -> Check:
    subject = f"{metric} (validation) of the variant - full model"
    # Scores are kept with six digits, differences as well.
    slack = 0.0 if full is None else round(tolerance * abs(full), 6)
    bound = f">= {-slack:g}" if rising else f"<= {slack:g}"
    if full is None or compressed is None:
        return Check(subject, None, bound, False)
    change = round(compressed - full, 6)
    return Check(subject, change, bound, change >= -slack if rising else change <= slack)


def outcome(metrics: Mapping[str, Any]) -> str:
    """One line on the variant of an evaluated model; empty where the use case asks for none."""
    found = metrics.get("variant")
    if not found:
        return ""
    parts = [found["quantization"] or "", f"{found['pruning']:.0%} pruned" if found["pruning"] else ""]
    named = f"Variant ({', '.join(part for part in parts if part)})"
    if not found["packaged"]:
        return f"{named}: refused, the full model is packaged; {'; '.join(found['reasons'])}"
    metric = found["checks"][0]["subject"].split()[0]
    scores = [found[which]["test"][metric] for which in ("compressed", "full")]
    shown = " instead of ".join("undefined" if score is None else f"{score:.4f}" for score in scores)
    size = found["compressed"]["bytes"] / found["full"]["bytes"]
    return f"{named}: packaged; {metric} {shown}, {size:.0%} of the bytes"
