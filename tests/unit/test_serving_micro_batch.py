"""What is asked within one turn of the event loop is one forward pass, and everybody gets their own rows back."""

from __future__ import annotations

import asyncio
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.models import Batch
from fasttrack.models.inference import Prediction
from fasttrack.serving.micro_batch import MicroBatcher


class Model:
    """Says of each row its own number, and remembers how many rows it was asked for at a time."""

    def __init__(self, refuses=None):
        self.asked = []
        self.threads = set()
        self._refuses = refuses

    def predict(self, batch):
        self.asked.append(len(batch))
        self.threads.add(threading.get_ident())
        if self._refuses is not None:
            raise self._refuses
        said = batch.numeric[:, 0]
        return Prediction(said, said + 1, said + 2, said + 3)


def batch(numbers, *, sequence=True):
    """Rows that are told apart by their first number."""
    count = len(numbers)
    numeric = np.array(numbers, np.float32).reshape(count, 1)
    codes = np.zeros((count, 2), np.int64)
    if not sequence:
        return Batch(numeric, codes)
    return Batch(numeric, codes, np.zeros((count, 3, 2), np.float32), np.full(count, 3, np.int64))


def together(model, batches):
    """Ask for all of them before the loop turns; what each caller got, or the error."""

    async def ask():
        batcher = MicroBatcher(model.predict)
        return await asyncio.gather(*map(batcher.predict, batches), return_exceptions=True)

    return asyncio.run(ask())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.booleans())
def test_everybody_gets_their_own_rows_whatever_others_ask(sizes, sequence):
    edges = np.concatenate([[0], np.cumsum(sizes)])
    asked = [list(range(low, high)) for low, high in itertools.pairwise(edges)]
    model = Model()
    answers = together(model, [batch(numbers, sequence=sequence) for numbers in asked])
    for numbers, answer in zip(asked, answers, strict=True):
        for offset, column in enumerate((answer.probability, answer.value, answer.lower, answer.upper)):
            np.testing.assert_array_equal(column, np.array(numbers, np.float32) + offset)
    assert sum(model.asked) == sum(sizes)
    assert max(model.asked) <= 256
    # No two passes could have been one.
    assert all(a + b > 256 for a, b in itertools.pairwise(model.asked)) or len(model.asked) <= 2


def test_a_turn_is_one_pass():
    model = Model()
    together(model, [batch([n]) for n in range(8)])
    assert model.asked == [8]


def test_who_comes_later_is_not_waited_for():
    model = Model()

    async def ask():
        batcher = MicroBatcher(model.predict)
        first = asyncio.ensure_future(batcher.predict(batch([1])))
        while not first.done():
            await asyncio.sleep(0)
        await batcher.predict(batch([2]))

    asyncio.run(ask())
    assert model.asked == [1, 1]


def test_who_gave_up_is_left_out():
    model = Model()

    async def ask():
        batcher = MicroBatcher(model.predict)
        gone, stays = (asyncio.ensure_future(batcher.predict(batch([n]))) for n in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask()).probability.tolist() == [2.0]
    assert model.asked in ([1], [2])


def test_many_rows_go_by_themselves_on_a_thread():
    model = Model()
    few, many = together(model, [batch([7]), batch(range(1000))])
    assert few.probability.tolist() == [7.0]
    assert many.probability.tolist() == list(range(1000))
    assert sorted(model.asked) == [1, 1000]
    assert len(model.threads) == 2


def test_an_error_reaches_everybody_who_asked():
    failure = ValueError("broken")
    assert together(Model(failure), [batch([1]), batch([2])]) == [failure, failure]


def test_after_an_error_it_goes_on():
    model = Model(ValueError("broken"))

    async def ask():
        batcher = MicroBatcher(model.predict)
        with pytest.raises(ValueError, match="broken"):
            await batcher.predict(batch([1]))
        model._refuses = None
        return await batcher.predict(batch([3]))

    assert asyncio.run(ask()).value.tolist() == [4.0]
