"""Rows whose values never occurred together are unusual; ordinary ones are taken for such no oftener than the level."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.evaluation.novelty import fit
from fasttrack.models import Batch
from fasttrack.models.novelty import LARGEST_LEVEL, Novelty


def batch(numbers, sequence=None, length=None):
    numbers = np.asarray(numbers, np.float32)
    return Batch(numbers, np.zeros((len(numbers), 0), np.int64), sequence, length)


def drawn(count, seed, kind="normal"):
    """Three columns, of which the second follows the first."""
    random = np.random.default_rng(seed)
    free = getattr(random, kind)
    first = free(size=(count, 1)) if kind != "standard_t" else random.standard_t(3, (count, 1))
    second = first + random.normal(0, 0.1, (count, 1))
    third = random.exponential(size=(count, 1))
    return batch(np.concatenate([first, second, third], axis=1))


def share(found, rows, level):
    return float((found.scores(rows) > found.threshold(level)).mean())


@pytest.mark.parametrize("kind", ["normal", "exponential", "standard_t"])
@pytest.mark.parametrize("level", [0.05, 0.01, 0.002])
def test_ordinary_rows_are_unusual_no_oftener_than_the_level(kind, level):
    found = fit(drawn(4000, 0, kind), drawn(4000, 1, kind))
    # Five standard deviations of two binomial shares.
    slack = 5 * math.sqrt(2 * level / 4000)
    assert abs(share(found, drawn(4000, 2, kind), level) - level) < slack


def test_values_that_never_occurred_together_are_unusual_though_each_is_ordinary():
    found = fit(drawn(4000, 0), drawn(4000, 1))
    together, apart = batch([[1.5, 1.5, 1.0]]), batch([[1.5, -1.5, 1.0]])
    assert share(found, together, 0.001) == 0
    assert share(found, apart, 0.001) == 1


def test_a_sequence_is_judged_too():
    def rows(count, seed, newest=0.0):
        random = np.random.default_rng(seed)
        events = random.normal(0, 1, (count, 4, 2)).astype(np.float32)
        length = random.integers(0, 5, count)
        events[np.arange(4) < (4 - length)[:, None]] = 0
        events[:, -1, 0] += np.float32(newest) * (length > 0)
        return batch(random.normal(0, 1, (count, 2)), events, length)

    found = fit(rows(3000, 0), rows(3000, 1))
    assert share(found, rows(3000, 2), 0.01) < 0.03
    assert share(found, rows(3000, 3, newest=9.0), 0.01) > 0.7


@given(
    scores=st.lists(st.floats(0, 1e6), min_size=1, max_size=300),
    level=st.floats(1e-4, LARGEST_LEVEL),
)
def test_of_the_held_out_rows_themselves_fewer_than_the_level_are_above_the_threshold(scores, level):
    ordered = np.sort(np.array(scores))[::-1]
    kept = math.ceil(LARGEST_LEVEL * (len(ordered) + 1))
    found = Novelty(np.zeros(1), np.eye(1), ordered[:kept], len(ordered))
    above = int((ordered > found.threshold(level)).sum())
    assert (above + 1) / (len(ordered) + 1) <= level or above == 0


def test_few_held_out_rows_say_nothing_of_any_row():
    found = fit(drawn(1000, 0), drawn(100, 1))
    assert found.threshold(0.001) == math.inf
    assert found.threshold(0.05) < math.inf


def test_columns_that_never_vary_or_repeat_another_do_no_harm():
    def rows(seed):
        numbers = np.random.default_rng(seed).normal(0, 1, (2000, 1))
        return batch(np.concatenate([numbers, numbers, np.ones_like(numbers)], axis=1))

    found = fit(rows(0), rows(1))
    assert np.isfinite(found.scores(rows(2))).all()
    assert share(found, rows(2), 0.01) < 0.03


def test_what_the_package_holds_judges_alike():
    found = fit(drawn(2000, 0), drawn(2000, 1))
    again = Novelty.from_json(json.loads(json.dumps(found.to_json())))
    rows = drawn(50, 2)
    np.testing.assert_array_equal(again.scores(rows), found.scores(rows))
    assert again.threshold(0.01) == found.threshold(0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"center": [0.0]},
        {"whitening": [[1.0]]},
        {"tail": [[1.0]]},
        {"center": [math.nan, 0.0, 0.0]},
        {"rows": "many"},
        {"center": None},
    ],
)
def test_a_damaged_file_is_refused(change):
    document = fit(drawn(100, 0), drawn(100, 1)).to_json() | change
    with pytest.raises((KeyError, TypeError, ValueError)):
        Novelty.from_json(document)
