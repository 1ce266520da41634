"""Point-in-time kernels in numpy: what was known of a key strictly before a moment.

Times are int64 microseconds since the epoch, keys are int64 codes (negative: no key). Every result depends only
on the events that it may see and on their order: values come out bit for bit the same whatever else is in the
history. That is why no running sums are used here: a difference of two running sums carries the rounding errors of
events outside the window, and so would differ between the full history offline and the short one online.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasttrack.usecase.features import Aggregate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MICROSECONDS_PER_HOUR = 3_600_000_000.0


@dataclass(frozen=True)
class History:
    """Events sorted by (key, time, tie), ready to be searched.

    Attributes:
        keys: int64 [n], the sorted key codes; events without a key are left out.
        times: int64 [n], microseconds.
        order: int64 [n], position of each sorted event in the arrays that `build` was given.
        ticks: int64 [m], the distinct times, ascending.
        codes: int64 [n], (key, rank of time) in one number, ascending.
    """

    keys: Integers
    times: Integers
    order: Integers
    ticks: Integers
    codes: Integers

    @classmethod
    def build(cls, keys: Integers, times: Integers, ties: Integers) -> History:
        """Sort events.

        Args:
            keys: int64 [n] key codes, negative for events without a key.
            times: int64 [n] event times in microseconds.
            ties: int64 [n]; of two events with the same key and time the one with the larger tie is the later.
        """
        order = np.lexsort((ties, times, keys)).astype(np.int64)
        order = order[np.searchsorted(keys[order], 0) :]
        ticks, ranks = np.unique(times[order], return_inverse=True)
        codes = keys[order] * (len(ticks) + 1) + ranks
        return cls(keys[order], times[order], order, ticks, codes)

    def before(self, keys: Integers, times: Integers) -> Integers:
        """For each (key, time), the position after the last event that sorts before it: int64 [q].

        Events of the key in [a, b) are those from ``before(key, a)`` up to ``before(key, b)``. A negative key
        gives 0 for every time, so such a range is empty.
        """
        ranks = np.searchsorted(self.ticks, times, side="left")
        return np.searchsorted(self.codes, keys * (len(self.ticks) + 1) + ranks, side="left").astype(np.int64)


@dataclass(frozen=True)
class Aggregates:
    """Aggregates of ranges; float64 [q] each, NaN where undefined.

    Attributes:
        count: number of values.
        mean: NaN for an empty range.
        maximum: NaN for an empty range.
        std: sample standard deviation (n - 1), NaN for fewer than two values.
    """

    count: Floats
    mean: Floats
    maximum: Floats
    std: Floats

    def get(self, name: Aggregate) -> Floats:
        """The aggregate of that name in a use case."""
        return {"count": self.count, "mean": self.mean, "max": self.maximum, "std": self.std}[name]


def aggregate(values: Floats, starts: Integers, ends: Integers) -> Aggregates:
    """Count, mean, maximum and sample standard deviation of ``values[start:end]`` for every pair.

    A range is cut into blocks whose lengths are the powers of two of its length. The means and the sums of squared
    deviations of all blocks of one length are made from those of half that length, and blocks are merged by the
    update of Chan, Golub and LeVeque (1983). All terms of the squared deviations are positive, so the relative
    error grows with the logarithm of the length only. Time is O((n + q) log longest), memory O(n + q).

    Args:
        values: float64 [n], no NaN.
        starts: int64 [q].
        ends: int64 [q], not below `starts`.
    """
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    mean, squares = np.zeros(len(starts)), np.zeros(len(starts))
    maximum = np.full(len(starts), -np.inf)
    at = starts.copy()
    block_mean, block_squares, block_max = values, np.zeros(len(values)), values
    size = 1
    while size <= longest:
        chosen = np.flatnonzero(lengths & size)
        place = at[chosen]
        merged = (lengths[chosen] & (size - 1)).astype(np.float64)
        difference = block_mean[place] - mean[chosen]
        share = size / (merged + size)
        squares[chosen] += block_squares[place] + np.square(difference) * merged * share
        mean[chosen] += difference * share
        maximum[chosen] = np.maximum(maximum[chosen], block_max[place])
        at[chosen] += size
        if 2 * size <= longest:
            difference = block_mean[size:] - block_mean[:-size]
            block_squares = block_squares[size:] + block_squares[:-size] + np.square(difference) * (size / 2)
            block_mean = 0.5 * block_mean[size:] + 0.5 * block_mean[:-size]
            block_max = np.maximum(block_max[size:], block_max[:-size])
        size *= 2
    empty, single = lengths < 1, lengths < 2
    std = np.sqrt(squares / np.maximum(lengths - 1, 1))
    return Aggregates(
        lengths.astype(np.float64),
        np.where(empty, np.nan, mean),
        np.where(empty, np.nan, maximum),
        np.where(single, np.nan, std),
    )


def windows(history: History, values: Floats, keys: Integers, times: Integers, lengths: Integers) -> list[Aggregates]:
    """Aggregates over [t - w, t) for each query and each window length, skipping missing values.

    Args:
        history: the events.
        values: float64 [n] in the order of `history`, NaN where missing.
        keys: int64 [q] key codes of the queries.
        times: int64 [q] query times t.
        lengths: int64 [w] window lengths in microseconds.
    """
    present = ~np.isnan(values)
    known = np.concatenate(([0], np.cumsum(present)))
    ends = known[history.before(keys, times)]
    starts = np.concatenate([known[history.before(keys, times - length)] for length in lengths])
    found = aggregate(values[present], starts, np.tile(ends, len(lengths)))
    parts = [np.split(part, len(lengths)) for part in (found.count, found.mean, found.maximum, found.std)]
    return [Aggregates(*columns) for columns in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Recent:
    """The last events before each query.

    Attributes:
        length: int64 [q], how many there are, at most N.
        values: per field float64 [q, N], oldest first, padded at the left with NaN.
        age_hours: float64 [q, N], hours from the event to the query time, padded alike.
    """

    length: Integers
    values: dict[str, Floats]
    age_hours: Floats


def recent(
    history: History, values: Mapping[str, Floats], keys: Integers, times: Integers, count: int, max_age: int
) -> Recent:
    """The latest `count` events in [t - max_age, t) of each query's key.

    Args:
        history: the events.
        values: per field float64 [n] in the order of `history`, NaN where missing.
        keys: int64 [q] key codes of the queries.
        times: int64 [q] query times t.
        count: N, at least 1.
        max_age: microseconds.
    """
    ends = history.before(keys, times)
    starts = np.maximum(history.before(keys, times - max_age), ends - count)
    places = ends[:, None] + np.arange(-count, 0)
    inside = places >= starts[:, None]
    places = np.where(inside, places, 0)
    if not len(history.times):
        nothing = np.full(places.shape, np.nan)
        return Recent(ends - starts, dict.fromkeys(values, nothing), nothing)
    ages = (times[:, None] - history.times[places]) / MICROSECONDS_PER_HOUR
    found = {field: np.where(inside, column[places], np.nan) for field, column in values.items()}
    return Recent(ends - starts, found, np.where(inside, ages, np.nan))


def following(history: History, keys: Integers, times: Integers) -> Integers:
    """The position of the first event at or after t of each query's key, -1 where there is none: int64 [q]."""
    if not len(history.keys):
        return np.full(len(keys), -1, dtype=np.int64)
    places = history.before(keys, times)
    clipped = np.minimum(places, len(history.keys) - 1)
    found = (places < len(history.keys)) & (history.keys[clipped] == keys)
    return np.where(found, places, -1)
