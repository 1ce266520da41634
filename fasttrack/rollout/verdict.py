"""From counts to evidence, and from evidence to a decision. Nothing here looks at a clock or a database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from fasttrack.rollout import evidence
from fasttrack.rollout.counts import Window
from fasttrack.rollout.plan import Plan

Action = Literal["hold", "advance", "promote", "roll_back"]
#: Errors, latency, quality: each is tested, so each gets a third of the error that is allowed (Bonferroni).
METRICS: Final = ("errors", "latency", "quality")
#: What counts as slow is what this share of the champion's answers is at most.
SLOW_SHARE: Final = 0.05
#: Either of two ways will do: no worse than the champion, or little enough whatever the champion does.
_WAYS: Final = {"errors": ("errors", "tolerated"), "latency": ("latency", "quick"), "quality": ("quality",)}


@dataclass
class Evidence:
    """Log wealths: of harm over the whole rollout, and, in the step that it is in, of being no worse.

    Attributes:
        harm: by metric.
        fine: by metric; `tolerated` is the second way in which errors can be fine, `quick` that for latency.
        labels: pairs of labelled predictions that were compared in this step.
        unpaired: Brier scores, by arm, that wait for one of the other arm.
    """

    harm: dict[str, list[float]] = field(default_factory=dict)
    fine: dict[str, list[float]] = field(default_factory=dict)
    labels: int = 0
    unpaired: dict[str, list[float]] = field(default_factory=dict)

    def log_harm(self, metric: str) -> float:
        """Log evidence that the challenger is worse."""
        return evidence.log_mean(self.harm.get(metric, ()))

    def log_fine(self, metric: str) -> float:
        """Log evidence that it is not worse by more than the plan allows."""
        ways = [evidence.log_mean(self.fine.get(way, ())) for way in _WAYS[metric]]
        return evidence.log_mean(ways)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What to do, and why in words."""

    action: Action
    why: str


def weigh(plan: Plan, seen: Evidence, step: int, window: Window) -> Evidence:
    """The evidence after one more window, which was counted under `step`."""
    weight = plan.weight(step)
    if not 0 < weight < 1:
        return seen
    harm, fine = dict(seen.harm), dict(seen.fine)
    challenger, champion = window.challenger, window.champion
    pairs = {
        "errors": (challenger.first_failures, champion.first_failures, plan.ratio),
        "latency": (challenger.first_slow, champion.first_slow, plan.slow_ratio),
    }
    for metric, (theirs, ours, ratio) in pairs.items():
        harm[metric] = evidence.harm(harm.get(metric, ()), weight, challenger=theirs, champion=ours)
        fine[metric] = evidence.no_worse(fine.get(metric, ()), weight, ratio, challenger=theirs, champion=ours)
    fine["tolerated"] = evidence.within(
        fine.get("tolerated", ()), plan.tolerance, keys=challenger.keys, failed=challenger.keys_failed
    )
    fine["quick"] = evidence.within(
        fine.get("quick", ()), min(0.5, SLOW_SHARE * plan.slow_ratio),
        keys=challenger.keys_timed, failed=challenger.keys_slow,
    )  # fmt: skip
    return replace(seen, harm=harm, fine=fine)


def weigh_labels(plan: Plan, seen: Evidence, rises: Sequence[float]) -> Evidence:
    """The evidence after labels came: `rises` are the challenger's Brier scores less the champion's, in [-1, 1]."""
    harm = {**seen.harm, "quality": evidence.larger(seen.harm.get("quality", ()), rises)}
    falls = [-rise for rise in rises]
    fine = {**seen.fine, "quality": evidence.larger(seen.fine.get("quality", ()), falls, -plan.quality_margin)}
    return replace(seen, harm=harm, fine=fine, labels=seen.labels + len(rises))


def judge(plan: Plan, seen: Evidence, step: int, counted: Window, seconds: float) -> Verdict:
    """What to do now.

    Args:
        plan: of the rollout.
        seen: all evidence.
        step: the step it is in.
        counted: what was counted in this step.
        seconds: how long this step has taken.
    """
    if plan.mode == "shadow":
        return Verdict("hold", "shadow: the challenger never answers")
    against = math.log(len(METRICS) / plan.false_rollback)
    for metric in METRICS:
        if seen.log_harm(metric) >= against:
            return Verdict("roll_back", _worse(metric, seen, counted))
    if plan.mode == "ab":
        return Verdict("hold", "A/B: somebody decides")
    if seconds < plan.dwell_seconds:
        return Verdict("hold", f"the step has taken {seconds:.0f} of {plan.dwell_seconds:g} s")
    for name, arm in (("challenger", counted.challenger), ("champion", counted.champion)):
        if arm.keys < plan.keys:
            return Verdict("hold", f"the {name} has seen {arm.keys:,} of {plan.keys:,} keys")
    needed = ["errors", "latency", *(["quality"] if plan.labels else [])]
    enough = math.log(len(needed) / plan.false_step)
    for metric in needed:
        if (log := seen.log_fine(metric)) < enough:
            return Verdict("hold", f"{metric}: not yet shown to be no worse (1 to {math.exp(min(log, 99)):.3g}, "
                           f"needed {math.exp(enough):.3g})")  # fmt: skip
    if step + 1 < len(plan.steps):
        return Verdict("advance", f"no worse at {plan.steps[step]:g} %; now {plan.steps[step + 1]:g} %")
    return Verdict("promote", f"no worse at {plan.steps[step]:g} %, the last step")


def _worse(metric: str, seen: Evidence, counted: Window) -> str:
    odds = math.exp(min(seen.log_harm(metric), 99.0))
    theirs, ours = counted.challenger, counted.champion
    usual = f"the champion's {ours.quantile(0.5) or 0:g} s"
    details = {
        "errors": f"{theirs.failures:,} of {theirs.requests:,} requests failed, {ours.failures:,} of {ours.requests:,} "
        "of the champion's",
        "latency": f"half of its answers took {theirs.quantile(0.5) or 0:g} s, {usual}",
        "quality": f"{seen.labels:,} pairs of labelled predictions",
    }  # fmt: skip
    return f"the challenger's {metric} are worse (1 to {odds:.3g} against chance): {details[metric]}"
