"""Rows of requests that are there at the same moment go through the network together.

A forward pass of eight rows costs hardly more than one of a single row. Nobody waits for others to come: a batch is
what the event loop has in hand in one turn, so a lone request is answered as soon as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from fasttrack.models import Batch
from fasttrack.models.batch import Array
from fasttrack.models.inference import Prediction

#: A forward pass of so many rows takes about a millisecond; handing it to a thread costs a tenth of that.
_DIRECT_ROWS: Final = 256

_Waiting = tuple[Batch, "asyncio.Future[Prediction]"]


class MicroBatcher:
    """Collects what is asked within one turn of the event loop; belongs to that loop.

    Args:
        predict: what is asked for all rows together; threads may share it.
    """

    def __init__(self, predict: Callable[[Batch], Prediction]) -> None:
        self._predict = predict
        self._waiting: list[_Waiting] = []

    async def predict(self, batch: Batch) -> Prediction:
        """Predict encoded rows.

        Args:
            batch: B rows; many are predicted on a thread, by themselves.

        Returns:
            B rows, of this batch alone.
        """
        if len(batch) > _DIRECT_ROWS:
            return await asyncio.to_thread(self._predict, batch)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Prediction] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((batch, answer))
        return await answer

    def _flush(self) -> None:
        # Callers that gave up meanwhile are left out.
        waiting = [each for each in self._waiting if not each[1].done()]
        self._waiting = []
        for group in _grouped(waiting):
            try:
                found = self._predict(group[0][0] if len(group) == 1 else _joined([batch for batch, _ in group]))
            except Exception as error:
                for _, answer in group:
                    answer.set_exception(error)
                continue
            start = 0
            for batch, answer in group:
                answer.set_result(found if len(group) == 1 else _part(found, start, start + len(batch)))
                start += len(batch)


def _grouped(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """In order, at most `_DIRECT_ROWS` rows a group."""
    groups: list[list[_Waiting]] = []
    rows = _DIRECT_ROWS
    for each in waiting:
        if rows + len(each[0]) > _DIRECT_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(each)
        rows += len(each[0])
    return groups


def _joined(batches: Sequence[Batch]) -> Batch:
    parts = [batch.tensors() for batch in batches]
    return Batch(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _part(found: Prediction, start: int, end: int) -> Prediction:
    columns: list[Array] = [found.probability, found.value, found.lower, found.upper]
    return Prediction(*(column[start:end] for column in columns))
