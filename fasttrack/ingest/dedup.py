"""Duplicates by event id: an index of the ids of one partition, rebuilt from the table, never a second truth."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_GENERATIONS = 8


class SeenIds:
    """The event ids of a partition within a window of event time.

    Ids lie in generations; a generation is forgotten when all of it is older than the window before the newest event.
    So a copy within the window is always found, an older one perhaps.

    Args:
        window: the stream's ``dedup_window``.
    """

    def __init__(self, window: timedelta) -> None:
        self._window = window // timedelta(microseconds=1)
        self._generations: list[_Generation] = []
        self._newest = -(2**63)

    def __len__(self) -> int:
        return sum(len(generation.ids) for generation in self._generations)

    def first(self, ids: pa.Array, when: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which events are seen for the first time; they are remembered.

        Args:
            ids: event ids in offset order, ``[n]`` strings (or integers).
            when: their event times in microseconds, ``[n]``.

        Returns:
            ``[n]``: True for the first copy of an id, False for every later one.
        """
        given = ids.to_pylist()
        fresh = set(given)
        mask = np.ones(len(given), np.bool_)
        again: set[str] = set()
        for generation in self._generations:
            again |= generation.ids & fresh
        inside: set[str] = set()
        if len(fresh) < len(given):
            here: set[str] = set()
            inside = {event_id for event_id in given if event_id in here or here.add(event_id)}  # type: ignore[func-returns-value]
        new = fresh - again
        if again or inside:
            self._mark(given, again, inside, mask)
        if len(given):
            self._remember(new, int(when.min()), int(when.max()))
        return mask

    @staticmethod
    def _mark(given: list[str], again: set[str], inside: set[str], mask: npt.NDArray[np.bool_]) -> None:
        suspects = again | inside
        for at in [at for at, event_id in enumerate(given) if event_id in suspects]:
            if given[at] in again:
                mask[at] = False
            # The next copy within this batch is a second one.
            again.add(given[at])

    def _remember(self, ids: set[str], low: int, high: int) -> None:
        current = self._generations[-1] if self._generations else None
        if current is None or max(high, current.newest) - min(low, current.oldest) > self._window // _GENERATIONS:
            self._generations.append(current := _Generation(low, high))
        current.oldest, current.newest = min(low, current.oldest), max(high, current.newest)
        current.ids |= ids
        self._newest = max(self._newest, high)
        self._generations = [g for g in self._generations if g.newest >= self._newest - self._window]


class _Generation:
    def __init__(self, oldest: int, newest: int) -> None:
        self.oldest = oldest
        self.newest = newest
        self.ids: set[str] = set()
