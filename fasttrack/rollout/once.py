"""Each key once over all gateways: several of them see the same caller, and one caller is one piece of evidence.

A key's arm is one draw, however many gateways it comes to, so a bet may be laid on it only once. Gateways say which
keys their counts are of; the one that decides, which has the rollout for itself, leaves out those counted before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fasttrack.rollout.counts import ARMS, ArmCounts, Window
from fasttrack.rollout.observing import MOST_KEYS

#: Counts by what makes a key new to them: the first of each says how many keys were, the others what was true of these.
KINDS: Final = {
    "seen": ("keys", "keys_failed", "keys_timed", "keys_slow"),
    "failed": ("first_failures",),
    "slow": ("first_slow",),
}
#: Keeps keys (by their positions) of a kind for good and gives those that were not kept before.
Keep = Callable[[str, Sequence[float]], set[float]]


def room(counted: Window, overall: Window) -> dict[str, int]:
    """How many more keys of each kind are kept: `MOST_KEYS` in all, beyond which there is more than enough evidence.

    Args:
        counted, overall: what was counted of the rollout in its step, and since its start.
    """
    kept = {"seen": counted, "failed": overall, "slow": overall}
    return {
        kind: max(0, MOST_KEYS - sum(getattr(kept[kind].of(arm), names[0]) for arm in ARMS))
        for kind, names in KINDS.items()
    }


def once(windows: Sequence[Window], step: int, room: Mapping[str, int], keep: Keep) -> list[Window]:
    """The windows without keys that were counted before, in one of them or in an earlier call.

    Args:
        windows: in the order in which they came.
        step: the one that the rollout is in. Of earlier ones it is not known any more which keys were seen in them, so
            their windows count none; a key's first failure counts whenever it was.
        room: how many keys of each kind may be kept.
        keep: as `Keep`.
    """
    fresh = {kind: keep(kind, found) if (found := _named(windows, step, kind, room[kind])) else set() for kind in KINDS}
    return [_counted(window, step, fresh) if window.firsts else window for window in windows]


def _named(windows: Iterable[Window], step: int, kind: str, room: int) -> list[float]:
    """The keys of a kind in the first windows, as many as fit whole: half a window might leave one arm out."""
    found: set[float] = set()
    for window in windows:
        if kind == "seen" and window.step != step:
            continue
        more = found.union(*(names.get(KINDS[kind][0], ()) for names in window.firsts.values()))
        if len(more) > room:
            break
        found = more
    return sorted(found)


def _counted(window: Window, step: int, fresh: dict[str, set[float]]) -> Window:
    """The window's counts of keys that are in `fresh`, from which they are taken."""
    arms: dict[str, ArmCounts] = {}
    for arm in ARMS:
        named = window.firsts.get(arm, {})
        counts: dict[str, Any] = {}
        for kind, (first, *others) in KINDS.items():
            own = fresh[kind].intersection(named.get(first, ()) if kind != "seen" or window.step == step else ())
            fresh[kind] -= own
            counts[first] = len(own)
            counts |= {other: len(own.intersection(named.get(other, ()))) for other in others}
        arms[arm] = replace(window.of(arm), **counts)
    return replace(window, champion=arms["champion"], challenger=arms["challenger"], firsts={})
