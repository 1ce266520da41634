"""Made-up traffic for rollouts, decided as the controller does: one look a second."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fasttrack.rollout.counts import ArmCounts, Window
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.verdict import Action, Evidence, judge, weigh


@dataclass(frozen=True)
class Traffic:
    """New keys a second, and the shares that fail and are slow: so many `times` as large in the challenger."""

    keys: float = 100.0
    failing: float = 0.02
    slow: float = 0.05
    times_failing: float = 1.0
    times_slow: float = 1.0


def run(plan: Plan, traffic: Traffic, draw: np.random.Generator, seconds: int = 3_000) -> tuple[Action, int]:
    """How a rollout ends (`hold`: not within `seconds`), and after how many seconds."""
    seen, step, since, counted = Evidence(), 0, 0, Window()
    for now in range(1, seconds + 1):
        window = _second(plan.weight(step), step, traffic, draw)
        seen = weigh(plan, seen, step, window)
        counted.add(window)
        verdict = judge(plan, seen, step, counted, now - since)
        if verdict.action in ("promote", "roll_back"):
            return verdict.action, now
        if verdict.action == "advance":
            seen, step, since = replace(seen, fine={}, labels=0), step + 1, now
            counted = Window(step)
    return "hold", seconds


def _second(weight: float, step: int, traffic: Traffic, draw: np.random.Generator) -> Window:
    keys = draw.poisson(traffic.keys)
    theirs = draw.binomial(keys, weight)
    return Window(
        step,
        _arm(keys - theirs, traffic.failing, traffic.slow, draw),
        _arm(theirs, traffic.failing * traffic.times_failing, traffic.slow * traffic.times_slow, draw),
    )


def _arm(keys: int, failing: float, slow: float, draw: np.random.Generator) -> ArmCounts:
    failed = int(draw.binomial(keys, failing))
    late = int(draw.binomial(keys - failed, slow))
    good = int(keys) - failed
    return ArmCounts(int(keys), failed, int(keys), failed, good, late, first_failures=failed, first_slow=late)
