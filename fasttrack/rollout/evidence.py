"""Always-valid evidence: e-processes that may be looked at after every request without more false alarms.

Each is the wealth of a gambler who bets against a null hypothesis at fair odds. Under the null it exceeds ``1/alpha``
at any time with a probability of at most alpha (Ville 1939; Ramdas, Gruenwald, Vovk, Shafer 2023, "Game-theoretic
statistics and safe anytime-valid inference"). Wealths are kept as logarithms, one for each alternative that is bet on;
their mean is an e-process again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

#: How many times as likely the challenger fails, in the alternatives that are bet on.
RATIOS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
#: Shares of what is tolerated, in the alternatives to "as much as is tolerated or more".
_FRACTIONS: Final = (0.5, 0.25, 0.05)
#: Stakes on a bounded mean.
_STAKES: Final = (0.02, 0.05, 0.1, 0.2, 0.4)


def log_mean(logs: Sequence[float]) -> float:
    """The logarithm of the mean of ``exp(logs)``; 0 (an e-value of 1, no evidence) without any."""
    if not logs:
        return 0.0
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))


def harm(logs: Sequence[float], weight: float, *, challenger: int, champion: int) -> list[float]:
    """Wealth against "the challenger fails no more often", after more failing keys.

    Keys are given to the challenger at random with probability `weight`, so if that makes no difference, each key that
    fails for the first time is the challenger's with probability `weight`, whatever makes keys fail and whenever: the
    anytime-valid logrank test (ter Schure, Perez-Ortiz, Ly, Gruenwald 2020) with a known share at risk.

    Args:
        logs: log wealths so far, one for each of `RATIOS`; empty at first.
        weight: the challenger's share of the keys, above 0 and below 1.
        challenger, champion: keys that failed for the first time, by arm.
    """
    return _bets(logs, [_share(ratio, weight) for ratio in RATIOS], weight, challenger, champion)


def no_worse(logs: Sequence[float], weight: float, ratio: float, *, challenger: int, champion: int) -> list[float]:
    """Wealth against "the challenger fails `ratio` times as often or more", after more failing keys; else as `harm`."""
    better = [_share(1 + (ratio - 1) * fraction, weight) for fraction in (0.0, 0.25)]
    return _bets(logs, better, _share(ratio, weight), challenger, champion)


def within(logs: Sequence[float], tolerance: float, *, keys: int, failed: int) -> list[float]:
    """Wealth against "a share of `tolerance` of the keys or more fail", after `keys` more of which `failed` did."""
    return _bets(logs, [tolerance * fraction for fraction in _FRACTIONS], tolerance, failed, keys - failed)


def larger(logs: Sequence[float], differences: Sequence[float], margin: float = 0.0) -> list[float]:
    """Wealth against "the mean difference is at most `margin`", after more differences within [-1, 1].

    Betting on a bounded mean (Waudby-Smith, Ramdas 2024, "Estimating means of bounded random variables by betting").
    """
    wealth = list(logs) or [0.0] * len(_STAKES)
    for difference in differences:
        gain = (max(-1.0, min(1.0, difference)) - margin) / (1 + abs(margin))
        wealth = [log + math.log1p(stake * gain) for log, stake in zip(wealth, _STAKES, strict=True)]
    return wealth


def _share(ratio: float, weight: float) -> float:
    """The challenger's share of the failing keys where its keys fail `ratio` times as often."""
    return ratio * weight / (ratio * weight + 1 - weight)


def _bets(logs: Sequence[float], alternatives: Sequence[float], null: float, yes: int, no: int) -> list[float]:
    before = list(logs) or [0.0] * len(alternatives)
    return [
        log + yes * math.log(other / null) + no * math.log((1 - other) / (1 - null))
        for log, other in zip(before, alternatives, strict=True)
    ]
