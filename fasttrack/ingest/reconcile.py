"""Prove that nothing is lost and nothing is twice: every offset of every topic is in exactly one table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

from fasttrack.errors import NotFoundError
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.lake.tables import dead_letters_path, duplicates_path, raw_path, read
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_NAMED = 20

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """Offsets ``first .. last`` of one partition, in no table (`gaps`) or recorded more than once (`repeats`)."""

    stream: str
    topic: str
    partition: int
    first: int
    last: int


@dataclass
class Counts:
    """Counts of one stream, or of all.

    Attributes:
        produced: messages that the topic holds.
        landed, duplicates, dead_lettered: how many of them each table records.
        missing: how many are in none (the events of `gaps`).
        repeated: how many records there are too many.
    """

    produced: int = 0
    landed: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    missing: int = 0
    repeated: int = 0

    @property
    def balanced(self) -> bool:
        """Whether produced = landed + duplicates + dead-lettered, offset by offset."""
        sums = self.produced == self.landed + self.duplicates + self.dead_lettered
        return sums and not self.missing and not self.repeated


@dataclass
class Reconciliation:
    """The outcome.

    Attributes:
        streams: counts by stream.
        total: their sum.
        gaps: runs of offsets that are in no table (the first 20).
        repeats: runs of offsets that are recorded more than once (the first 20).
        offsets: for each topic, the ``[earliest, end)`` of each partition that was compared.
    """

    streams: dict[str, Counts] = field(default_factory=dict)
    total: Counts = field(default_factory=Counts)
    gaps: list[Fault] = field(default_factory=list)
    repeats: list[Fault] = field(default_factory=list)
    offsets: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether every stream's counts add up, offset by offset."""
        return all(counts.balanced for counts in self.streams.values())


def reconcile(usecase: UseCase, settings: Settings) -> Reconciliation:
    """Compare every offset that the topics hold now with the lake.

    Messages produced after this began are not looked at. Topics that were deleted are not either: a topic that was
    made again is compared with its own rows only.

    Args:
        usecase: whose streams.
        settings: needs `kafka` and `lake`.

    Raises:
        NotFoundError: a topic is missing.
        UnavailableError: the broker does not answer.
        StorageError: the lake can't be read.
    """
    broker = Broker(settings.require("kafka"))
    broker.greet()
    topics = broker.require([usecase.topic(name) for name in usecase.streams])
    held = broker.offsets(topics)
    found = Reconciliation()
    for name in usecase.streams:
        topic = topics[usecase.topic(name)]
        spans = [(held[topic.name, p].earliest, held[topic.name, p].latest) for p in range(topic.partitions)]
        found.offsets[topic.name] = spans
        found.streams[name] = _stream(usecase, settings, name, topic, spans, found)
    for counts in found.streams.values():
        for key, value in vars(counts).items():
            setattr(found.total, key, getattr(found.total, key) + value)
    return found


def recorded(usecase: UseCase, settings: Settings, stream: str, topic: Topic) -> list[tuple[Offsets, Offsets]]:
    """Partition and offset of every row of a topic, in the raw, duplicates and dead-letters tables.

    Raises:
        StorageError: the lake can't be read.
    """
    places = (
        (raw_path(settings, usecase, stream), "_topic_id", "_partition", "_offset"),
        (duplicates_path(settings, usecase), "topic_id", "partition", "offset"),
        (dead_letters_path(settings, usecase), "topic_id", "partition", "offset"),
    )
    found = []
    for path, topic_id, partition, offset in places:
        try:
            rows = read(path, [partition, offset], ds.field(topic_id) == topic.id)
            found.append((rows.column(0).to_numpy().astype(np.int64), rows.column(1).to_numpy()))
        except NotFoundError:
            found.append((np.empty(0, np.int64), np.empty(0, np.int64)))
    return found


def _stream(
    usecase: UseCase, settings: Settings, name: str, topic: Topic, spans: list[tuple[int, int]], found: Reconciliation
) -> Counts:
    rows = recorded(usecase, settings, name, topic)
    counts = Counts(produced=sum(high - low for low, high in spans))
    for partition, (low, high) in enumerate(spans):
        mine = [o[(p == partition) & (o >= low) & (o < high)] for p, o in rows]
        counts.landed += len(mine[0])
        counts.duplicates += len(mine[1])
        counts.dead_lettered += len(mine[2])
        times = np.bincount(np.concatenate(mine) - low, minlength=high - low)
        counts.missing += int((times == 0).sum())
        counts.repeated += int((times - 1).clip(0).sum())
        for faults, bad in ((found.gaps, times == 0), (found.repeats, times > 1)):
            for first, last in runs(np.flatnonzero(bad) + low)[: _NAMED - len(faults)]:
                faults.append(Fault(name, topic.name, partition, first, last))
    return counts


def runs(offsets: Offsets) -> list[tuple[int, int]]:
    """Ascending offsets as runs ``(first, last)``: 3, 4, 5, 9 gives (3, 5), (9, 9)."""
    if not len(offsets):
        return []
    breaks = np.flatnonzero(np.diff(offsets) != 1)
    firsts = offsets[np.concatenate([[0], breaks + 1])]
    lasts = offsets[np.concatenate([breaks, [len(offsets) - 1]])]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
