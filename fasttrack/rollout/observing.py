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

    Args:
        step: that the rollout is in.
        shared: other gateways may see the same keys, so windows say which ones they have counted.
    """

    def __init__(self, step: int = 0, *, shared: bool = True) -> None:
        self._shared = shared
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

    def count(
        self, arm: Arm, position: float, *, step: int, failed: bool, seconds: float, slow_seconds: float | None
    ) -> None:
        """Count one request.

        Args:
            arm: that was asked.
            position: `arms.place` of its key, which stands for the key.
            step: under which the arm was drawn. If that is over, the request says nothing about a key: it was drawn
                with another share than the one that its window stands for.
            failed: the arm's servers failed it.
            seconds: what they took.
            slow_seconds: what counts as slow; None while that is not known.
        """
        counts = self._window.of(arm)
        counts.requests += 1
        if failed:
            counts.failures += 1
        else:
            counts.time(seconds)
        if step != self._window.step:
            return
        timed = not failed and slow_seconds is not None
        slow = slow_seconds is not None and not failed and seconds > slow_seconds
        if _first(self._seen, position):
            self._note(arm, "keys", position)
            if failed:
                self._note(arm, "keys_failed", position)
            if timed:
                self._note(arm, "keys_timed", position)
            if slow:
                self._note(arm, "keys_slow", position)
        if failed and _first(self._failed, position):
            self._note(arm, "first_failures", position)
        if slow and _first(self._slow, position):
            self._note(arm, "first_slow", position)

    def _note(self, arm: Arm, name: str, position: float) -> None:
        counts = self._window.of(arm)
        setattr(counts, name, getattr(counts, name) + 1)
        if self._shared:
            self._window.firsts.setdefault(arm, {}).setdefault(name, []).append(position)

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
