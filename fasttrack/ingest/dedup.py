"""Duplicates by event id: an index of the ids of one partition, rebuilt from the table, never a second truth.

An id is kept as 128 bits of SipHash (Python's own hash of strings, keyed anew in each process, taken twice), 16 bytes
an event. Two different ids look alike with a probability of n * n / 2**129 for n ids: 1e-23 for ten million.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# The window is kept in so many parts, each forgotten as a whole: up to a window and an eighth is kept.
_PARTS = 8
_SALT = "\x00"
#: So many events have to have come to a moment, or past it, before the window follows: a few senders whose clocks run
#: ahead would otherwise make it forget everybody else's ids.
SUPPORT = 1000

Hashes = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def clock() -> int:
    """Now, in microseconds since 1970."""
    return time.time_ns() // 1000


class SeenIds:
    """The event ids of a partition within a window of event time.

    The window ends at the newest event, not counting the 1,000 newest, and never later than now. A part of it is
    forgotten when all of it is older than the window. So a copy within the window is always found, an older one
    perhaps.

    Args:
        window: the stream's ``dedup_window``.
        now: tells the time in microseconds since 1970.
    """

    def __init__(self, window: timedelta, now: Callable[[], int] = clock) -> None:
        self._window = window // timedelta(microseconds=1)
        self._width = max(1, self._window // _PARTS)
        self._now = now
        none = np.empty(0, np.int64)
        # The ids of the newest events, and when these were.
        self._newest, self._newest_when = _Run(none, none), none
        # The others, by the part of the time that their event is in.
        self._parts: dict[int, list[_Run]] = {}

    def __len__(self) -> int:
        return sum(len(run.first) for run in self._runs())

    @property
    def bytes(self) -> int:
        """How much memory the index takes."""
        return sum(run.first.nbytes + run.second.nbytes for run in self._runs()) + self._newest_when.nbytes

    def first(self, ids: pa.Array, when: Times) -> Mask:
        """Which events are seen for the first time; they are remembered.

        Args:
            ids: event ids in offset order, ``[n]`` strings.
            when: their event times in microseconds, ``[n]``.

        Returns:
            ``[n]``: True for the first copy of an id, False for every later one.
        """
        mask = np.ones(len(ids), np.bool_)
        if not len(ids):
            return mask
        first, second = _hashes(ids)
        order = _order(first, second)
        first, second = first[order], second[order]
        new = np.ones(len(order), np.bool_)
        # The order is stable: of equal ids the one with the lowest offset comes first.
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        for run in self._runs():
            new &= ~run.holds(first, second)
        mask[order] = new
        self._remember(_Run(first[new], second[new]), when[order][new])
        return mask

    def holds(self, ids: pa.Array) -> Mask:
        """Which ids are remembered, ``[n]``."""
        first, second = _hashes(ids)
        found = np.zeros(len(ids), np.bool_)
        for run in self._runs():
            found |= run.holds(first, second)
        return found

    def _runs(self) -> list[_Run]:
        return [self._newest, *(run for runs in self._parts.values() for run in runs)]

    def _remember(self, run: _Run, when: Times) -> None:
        run, when = run.joined(self._newest, when, self._newest_when)
        if len(when) <= SUPPORT:
            self._newest, self._newest_when = run, when
            return
        old = np.ones(len(when), np.bool_)
        old[np.argpartition(when, -SUPPORT)[-SUPPORT:]] = False
        self._newest, self._newest_when = run.where(~old), when[~old]
        now = self._now()
        oldest = min(int(self._newest_when.min()), now) - self._window
        self._sort_in(run.where(old), when[old], oldest, now + self._window)
        for part in [part for part in self._parts if (part + 1) * self._width <= oldest]:
            del self._parts[part]

    def _sort_in(self, run: _Run, when: Times, oldest: int, far: int) -> None:
        """Put ids to the parts of their time; what is further ahead than `far` shares one, however odd the clocks."""
        parts = np.minimum(when, far) // self._width
        within = (parts + 1) * self._width > oldest
        if not within.all():
            run, parts = run.where(within), parts[within]
        if not len(parts):
            return
        order = np.argsort(parts, kind="stable")
        cuts = np.flatnonzero(np.diff(parts[order])) + 1
        for mine in np.split(order, cuts) if len(cuts) else [slice(None)]:
            self._add(int(parts[mine][0]), run.where(mine))

    def _add(self, part: int, run: _Run) -> None:
        runs = self._parts.setdefault(part, [])
        runs.append(run)
        # Runs double in length, so each id is merged a few times and few runs have to be searched.
        while len(runs) > 1 and len(runs[-2].first) <= 2 * len(runs[-1].first):
            newer = runs.pop()
            runs[-1] = runs[-1].merged(newer)


def _hashes(ids: pa.Array) -> tuple[Hashes, Hashes]:
    given = ids.to_pylist()
    first = np.fromiter(map(hash, given), np.int64, len(given))
    return first, np.fromiter(map(hash, map(_SALT.__add__, given)), np.int64, len(given))


class _Run:
    """Hashes, their first halves in ascending order."""

    def __init__(self, first: Hashes, second: Hashes) -> None:
        self.first, self.second = first, second

    def where(self, chosen: Mask | npt.NDArray[np.intp] | slice) -> _Run:
        """Some of them."""
        return _Run(self.first[chosen], self.second[chosen])

    def holds(self, first: Hashes, second: Hashes) -> Mask:
        """Which of the given ids are here."""
        at = np.searchsorted(self.first, first)
        found = np.zeros(len(first), np.bool_)
        left = np.flatnonzero(at < len(self.first))
        while True:
            left = left[self.first[at[left]] == first[left]]
            if not len(left):
                return found
            found[left] |= self.second[at[left]] == second[left]
            # The same first half with another second one may follow.
            at[left] += 1
            left = left[at[left] < len(self.first)]

    def joined(self, few: _Run, when: Times, few_when: Times) -> tuple[_Run, Times]:
        """With a few more put in, without sorting all; `when` goes along."""
        at = np.searchsorted(self.first, few.first)
        run = _Run(np.insert(self.first, at, few.first), np.insert(self.second, at, few.second))
        return run, np.insert(when, at, few_when)

    def merged(self, other: _Run) -> _Run:
        """Both as one."""
        first = np.concatenate([self.first, other.first])
        second = np.concatenate([self.second, other.second])
        order = _order(first, second)
        return _Run(first[order], second[order])


def _order(first: Hashes, second: Hashes) -> npt.NDArray[np.intp]:
    """The stable order by both halves."""
    # Not `stable`: that sort is six times slower, and hardly any two are equal.
    order = np.argsort(first)
    ordered = first[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.zeros(len(order), np.bool_)
        tied[1:] = same
        tied[:-1] |= same
        among = order[tied]
        order[tied] = among[np.lexsort((among, second[among], first[among]))]
    return order
