"""Duplicates by event id: an index of the ids of one partition, rebuilt from the table, never a second truth.

An id is kept as 128 bits of SipHash (Python's own hash of strings, keyed anew in each process, taken twice), 16 bytes
an event. Two different ids look alike with a probability of n * n / 2**129 for n ids: 1e-23 for ten million.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# A run that spans at most this part of the window may be merged with another: what is older than the window goes with
# its run, so up to a window and an eighth is kept.
_PART = 8
_SALT = "\x00"

Hashes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class SeenIds:
    """The event ids of a partition within a window of event time.

    Ids lie in sorted runs; a run is forgotten when all of it is older than the window before the newest event. So a
    copy within the window is always found, an older one perhaps.

    Args:
        window: the stream's ``dedup_window``.
    """

    def __init__(self, window: timedelta) -> None:
        self._window = window // timedelta(microseconds=1)
        self._runs: list[_Run] = []
        self._newest = -(2**63)

    def __len__(self) -> int:
        return sum(len(run.first) for run in self._runs)

    @property
    def bytes(self) -> int:
        """How much memory the index takes."""
        return sum(run.first.nbytes + run.second.nbytes for run in self._runs)

    def first(self, ids: pa.Array, when: npt.NDArray[np.int64]) -> Mask:
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
        given = ids.to_pylist()
        first = np.fromiter(map(hash, given), np.int64, len(given))
        second = np.fromiter(map(hash, map(_SALT.__add__, given)), np.int64, len(given))
        order = _order(first, second)
        first, second = first[order], second[order]
        new = np.ones(len(given), np.bool_)
        # The order is stable: of equal ids the one with the lowest offset comes first.
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        for run in self._runs:
            new &= ~run.holds(first, second)
        mask[order] = new
        self._remember(_Run(first[new], second[new], int(when.min()), int(when.max())))
        return mask

    def _remember(self, run: _Run) -> None:
        self._newest = max(self._newest, run.newest)
        self._runs = [old for old in self._runs if old.newest >= self._newest - self._window]
        if not len(run.first):
            return
        self._runs.append(run)
        # Runs double in length, so each id is merged a few times and few runs have to be searched.
        while len(self._runs) > 1 and self._may_merge(self._runs[-2], self._runs[-1]):
            newer = self._runs.pop()
            self._runs[-1] = self._runs[-1].merged(newer)

    def _may_merge(self, older: _Run, newer: _Run) -> bool:
        span = max(older.newest, newer.newest) - min(older.oldest, newer.oldest)
        return len(older.first) <= 2 * len(newer.first) and span <= self._window // _PART


class _Run:
    """Hashes in ascending order, and the event times that they span."""

    def __init__(self, first: Hashes, second: Hashes, oldest: int, newest: int) -> None:
        self.first, self.second, self.oldest, self.newest = first, second, oldest, newest

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

    def merged(self, other: _Run) -> _Run:
        """Both as one."""
        first = np.concatenate([self.first, other.first])
        second = np.concatenate([self.second, other.second])
        order = _order(first, second)
        return _Run(first[order], second[order], min(self.oldest, other.oldest), max(self.newest, other.newest))


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
