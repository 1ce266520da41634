"""The numpy kernels against exact arithmetic, for any values and any ranges."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.features.kernel import Aggregates, History, aggregate, following, recent, windows

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False, width=64) | st.integers(-50, 50).map(float) | st.just(0.1)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[list[float], list[tuple[int, int]]]:
    values = draw(st.lists(NUMBERS, max_size=70))
    positions = st.integers(0, len(values))
    return values, [(min(a, b), max(a, b)) for a, b in draw(st.lists(st.tuples(positions, positions), max_size=20))]


def _aggregate(values: list[float], pairs: list[tuple[int, int]]) -> Aggregates:
    starts, ends = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return aggregate(np.array(values, dtype=np.float64), starts, ends)


@settings(deadline=None)
@given(ranges())
def test_aggregates_equal_exact_sums(case: tuple[list[float], list[tuple[int, int]]]) -> None:
    values, pairs = case
    found = _aggregate(values, pairs)
    for i, (start, end) in enumerate(pairs):
        part = values[start:end]
        size = max(map(abs, part), default=0.0)
        assert found.count[i] == len(part)
        if not part:
            assert np.isnan([found.mean[i], found.maximum[i], found.std[i]]).all()
            continue
        mean = math.fsum(part) / len(part)
        assert found.maximum[i] == max(part)
        assert abs(found.mean[i] - mean) <= 1e-9 * abs(mean) + 1e-14 * size
        if len(part) == 1:
            assert np.isnan(found.std[i])
            continue
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in part) / (len(part) - 1))
        assert abs(found.std[i] - std) <= 1e-9 * std + 1e-14 * size


@settings(deadline=None)
@given(ranges())
def test_a_range_gives_the_same_bits_whatever_lies_around_it(case: tuple[list[float], list[tuple[int, int]]]) -> None:
    values, pairs = case
    found = _aggregate(values, pairs)
    for i, (start, end) in enumerate(pairs):
        alone = _aggregate(values[start:end], [(0, end - start)])
        for name in ("count", "mean", "maximum", "std"):
            assert getattr(found, name)[i].tobytes() == getattr(alone, name)[0].tobytes()


def test_a_constant_far_from_zero_has_no_spread_and_keeps_its_mean() -> None:
    found = _aggregate([1e9 + 0.1] * 61, [(0, 61), (3, 60)])
    assert (found.std == 0).all()
    assert (found.mean == 1e9 + 0.1).all()


def test_a_small_spread_survives_a_huge_neighbour() -> None:
    found = _aggregate([1e17, 1.0, 2.0, 3.0, -1e17], [(1, 4)])
    assert (found.mean[0], found.std[0]) == (2.0, 1.0)


@settings(deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 20), st.integers(0, 3)), max_size=40),
    queries=st.lists(st.tuples(st.integers(-1, 4), st.integers(-2, 25)), max_size=15),
)
def test_positions_bound_the_events_before(events: list[tuple[int, int, int]], queries: list[tuple[int, int]]) -> None:
    keys, times, ties = np.array(events, dtype=np.int64).reshape(-1, 3).T
    history = History.build(keys, times, ties)
    asked, at = np.array(queries, dtype=np.int64).reshape(-1, 2).T
    places = history.before(asked, at)
    starts = history.before(asked, np.full(len(at), -100))
    nexts = following(history, asked, at)
    for i, (key, time) in enumerate(queries):
        inside = history.order[starts[i] : places[i]]
        expected = sorted((e for e in events if key >= 0 and e[0] == key and e[1] < time), key=lambda e: e[1:])
        assert [events[j] for j in inside] == expected
        later = [e[1] for e in events if key >= 0 and e[0] == key and e[1] >= time]
        assert (nexts[i] < 0) == (not later)
        if later:
            assert (history.keys[nexts[i]], history.times[nexts[i]]) == (key, min(later))


def test_missing_values_are_skipped_by_windows_and_kept_by_recent() -> None:
    history = History.build(np.zeros(4, np.int64), np.array([1, 2, 3, 9]), np.arange(4))
    values = np.array([4.0, np.nan, 8.0, 1.0])
    (found,) = windows(history, values, np.array([0]), np.array([9]), np.array([8]))
    assert (found.count[0], found.mean[0], found.maximum[0]) == (2, 6, 8)
    last = recent(history, {"v": values}, np.array([0, 0]), np.array([3, 1]), 2, 100)
    assert np.array_equal(last.values["v"], [[4.0, np.nan], [np.nan, np.nan]], equal_nan=True)
    assert last.length.tolist() == [2, 0]
    assert last.age_hours[0].tolist() == [2 / 3.6e9, 1 / 3.6e9]


def test_window_and_age_include_their_start_and_exclude_their_end() -> None:
    history = History.build(np.zeros(3, np.int64), np.array([10, 15, 20]), np.arange(3))
    (found,) = windows(history, np.ones(3), np.array([0]), np.array([20]), np.array([10]))
    assert found.count[0] == 2
    assert recent(history, {}, np.array([0]), np.array([20]), 5, 10).length[0] == 2
    assert recent(history, {}, np.array([0]), np.array([20]), 5, 9).length[0] == 1
