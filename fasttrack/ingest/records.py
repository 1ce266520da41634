"""What the lake has of a topic: which offsets stand in which table, counted or a stretch of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from operator import or_

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from fasttrack.errors import NotFoundError
from fasttrack.ingest.holes import Offsets
from fasttrack.lake.failures import storage
from fasttrack.lake.storage import patiently
from fasttrack.lake.tables import dead_letters_path, duplicates_path, load, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: How many offsets are looked at together: some 100 bytes of memory each while they are. Fewer cost more time.
STRETCH = 2_000_000

Span = tuple[int, int]


def stretches(low: int, high: int) -> Iterator[Span]:
    """``[low, high)`` in pieces that memory has room for."""
    for first in range(low, high, STRETCH):
        yield first, min(first + STRETCH, high)


class Records:
    """The rows of one topic in the raw, duplicates and dead-letters tables, in this order, as they are now.

    A table that is not there has none. Files whose statistics exclude what is asked for are not opened.

    Args:
        usecase: whose lake.
        settings: needs `lake`.
        stream: the topic's.
        topic_id: tells the topic from one of the same name that was deleted.

    Raises:
        StorageError: the lake can't be read.
    """

    def __init__(self, usecase: UseCase, settings: Settings, stream: str, topic_id: str) -> None:
        shared = duplicates_path(settings, usecase), dead_letters_path(settings, usecase)
        self._tables = [_Table(raw_path(settings, usecase, stream), topic_id, "_")]
        self._tables += [_Table(path, topic_id, "") for path in shared]

    def count(self, spans: Sequence[Span]) -> tuple[int, int, int]:
        """How many rows each table has within the ``[low, high)`` of each partition; of whole files they are not read.

        Raises:
            StorageError: the lake can't be read.
        """
        landed, duplicates, dead = (table.count(spans) for table in self._tables)
        return landed, duplicates, dead

    def offsets(self, partition: int, low: int, high: int) -> tuple[Offsets, Offsets, Offsets]:
        """The offsets ``low <= offset < high`` of a partition that each table has, in no particular order.

        Raises:
            StorageError: the lake can't be read.
        """
        landed, duplicates, dead = (table.offsets(partition, low, high) for table in self._tables)
        return landed, duplicates, dead


class _Table:
    def __init__(self, path: str, topic_id: str, prefix: str) -> None:
        self._path, self._mine = path, ds.field(f"{prefix}topic_id") == topic_id
        self._partition, self._offset = f"{prefix}partition", f"{prefix}offset"
        self._rows: ds.Dataset | None = None
        try:
            table = load(path)
        except NotFoundError:
            return
        with storage(path):
            self._rows = patiently(path, table.to_pyarrow_dataset)

    def _within(self, partition: int, low: int, high: int) -> ds.Expression:
        here = ds.field(self._partition) == partition
        return here & (ds.field(self._offset) >= low) & (ds.field(self._offset) < high)

    def count(self, spans: Sequence[Span]) -> int:
        parts = [self._within(number, *span) for number, span in enumerate(spans) if span[0] < span[1]]
        if self._rows is None or not parts:
            return 0
        with storage(self._path):
            where = self._mine & reduce(or_, parts)
            return int(patiently(self._path, partial(self._rows.count_rows, filter=where)))

    def offsets(self, partition: int, low: int, high: int) -> Offsets:
        if self._rows is None or low >= high:
            return np.empty(0, np.int64)
        where = self._mine & self._within(partition, low, high)
        with storage(self._path):
            rows: pa.Table = patiently(self._path, partial(self._rows.to_table, columns=[self._offset], filter=where))
        found: Offsets = rows.column(0).to_numpy()
        return found
