"""A gateway's own counting: each key once, as one caller's thousand requests are one piece of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fasttrack.rollout.arms import Arm
from fasttrack.rollout.counts import Window

#: Keys remembered; beyond that, further ones are not counted: there is more than enough evidence then.
MOST_KEYS: Final = 200_000


class Observer:
    """Counts what one gateway sees of one rollout.

    Several gateways may each count the same key once: with four, one caller can be four pieces of evidence.
    """

    def __init__(self, step: int = 0) -> None:
        self._window = Window(step)
        self._seen: set[float] = set()
        self._failed: set[float] = set()
        self._slow: set[float] = set()

    def enter(self, step: int) -> list[Window]:
        """Go on in a step; returns what was counted under the one before, if that was another."""
        if step == self._window.step:
            return []
        left = self.take()
        self._window = Window(step)
        self._seen.clear()
        return left

    def count(self, arm: Arm, position: float, *, failed: bool, seconds: float, slow_seconds: float | None) -> None:
        """Count one request.

        Args:
            arm: that was asked.
            position: `arms.place` of its key, which stands for the key.
            failed: the arm's servers failed it.
            seconds: what they took.
            slow_seconds: what counts as slow; None while that is not known.
        """
        counts = self._window.of(arm)
        counts.requests += 1
        first = _first(self._seen, position)
        counts.keys += first
        counts.keys_failed += first and failed
        if failed:
            counts.failures += 1
            counts.first_failures += _first(self._failed, position)
            return
        counts.time(seconds)
        if slow_seconds is not None:
            slow = seconds > slow_seconds
            counts.keys_timed += first
            counts.keys_slow += first and slow
            counts.first_slow += slow and _first(self._slow, position)

    def mirrored(
        self,
        ours: Sequence[float] | None = None,
        theirs: Sequence[float] | None = None,
        *,
        failed: bool = False,
        dropped: bool = False,
    ) -> None:
        """Count one mirrored request.

        Args:
            ours, theirs: probabilities by row, of champion and challenger. None of ours: there is nothing to compare;
                where the challenger does not answer all of the champion's rows, it has failed.
            failed: the challenger gave no answer.
            dropped: it was not asked.
        """
        mirror = self._window.mirror
        if dropped:
            mirror.dropped += 1
            return
        mirror.requests += 1
        if failed or (ours is not None and (theirs is None or len(theirs) != len(ours))):
            mirror.failures += 1
            return
        for our, their in zip(ours or (), theirs or (), strict=False):
            mirror.rows += 1
            mirror.disagreements += (our >= 0.5) != (their >= 0.5)
            mirror.difference += abs(our - their)

    def take(self) -> list[Window]:
        """What was counted since the last time; nothing if that is nothing."""
        if self._window.empty:
            return []
        taken, self._window = self._window, Window(self._window.step)
        return [taken]


def _first(known: set[float], position: float) -> bool:
    if position in known or len(known) >= MOST_KEYS:
        return False
    known.add(position)
    return True
