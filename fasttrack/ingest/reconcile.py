"""Prove that nothing is lost and nothing is twice: every message of every topic is in exactly one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import NotFoundError
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.deadletters import replayed
from fasttrack.ingest.holes import Offsets, present, runs
from fasttrack.ingest.marks import Level, levels
from fasttrack.ingest.spans import Stretch, named, spans
from fasttrack.lake.tables import dead_letters_path, duplicates_path, raw_path, read
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_NAMED = 20

#: What to do about offsets that Kafka deleted before the lake had them.
DELETED_FIX = (
    "Raise the topic's retention and drain into a new lake, as the drain of this one stops there; send the lost events "
    "again if their source still has them."
)


@dataclass(frozen=True)
class Fault:
    """Offsets ``first .. last`` of one partition: in no table (`gaps`, `deleted`) or there too often (`repeats`)."""

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
        missing: how many are in none although the lake is past them (the events of `gaps`).
        waiting: how many are in none as no drain has come to them yet.
        repeated: how many records there are too many.
        holes: offsets at which Kafka itself holds no message (compaction, transactions); not counted as produced.
        deleted: offsets that Kafka deleted before the lake had them (retention). Nobody can tell any more how many of
            them held a message, so they are not counted as produced, and nothing adds up.
    """

    produced: int = 0
    landed: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    missing: int = 0
    waiting: int = 0
    repeated: int = 0
    holes: int = 0
    deleted: int = 0

    @property
    def balanced(self) -> bool:
        """Whether produced = landed + duplicates + dead-lettered, offset by offset."""
        sums = self.produced == self.landed + self.duplicates + self.dead_lettered
        return sums and not (self.missing or self.waiting or self.repeated or self.deleted)


@dataclass
class Replayed:
    """The dead letters of a stream that were sent again, and what the messages sent for them became.

    Attributes:
        sent: how many were sent; each is a message of its own, which the counts of its stream include.
        landed, duplicates, dead_lettered: how many of them each table records.
        pending: how many the lake does not have yet.
    """

    sent: int = 0
    landed: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    pending: int = 0


@dataclass
class Reconciliation:
    """The outcome.

    Attributes:
        streams: counts by stream.
        total: their sum.
        gaps: runs of offsets that are in no table although the lake is past them (the first 20).
        repeats: runs of offsets that are recorded more than once (the first 20).
        deleted: runs of offsets that Kafka deleted before the lake had them (the first 20).
        offsets: for each topic, the ``[first, end)`` of each partition that was compared.
        replays: by stream, what became of dead letters that were sent again.
    """

    streams: dict[str, Counts] = field(default_factory=dict)
    total: Counts = field(default_factory=Counts)
    gaps: list[Fault] = field(default_factory=list)
    repeats: list[Fault] = field(default_factory=list)
    deleted: list[Fault] = field(default_factory=list)
    offsets: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    replays: dict[str, Replayed] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether every stream's counts add up, offset by offset."""
        return all(counts.balanced for counts in self.streams.values())


def reconcile(
    usecase: UseCase,
    settings: Settings,
    streams: Sequence[str] = (),
    stretches: Sequence[Stretch] = (),
    drained: bool = False,
) -> Reconciliation:
    """Compare every offset that the topics hold now with the lake.

    Messages produced after this began are not looked at. Topics that were deleted are not either: a topic that was
    made again is compared with its own rows only. What Kafka deleted from the beginning of a partition is asked for
    where the drain had begun the partition and the lake had not come to it; not if `stretches` are named.

    Args:
        usecase: whose streams.
        settings: needs `kafka` and `lake`.
        streams: only these.
        stretches: only these offsets.
        drained: only what the lake had come to when this began: producers go on while a pipeline runs.

    Raises:
        ConfigurationError: a stretch reaches beyond what its topic holds.
        NotFoundError: a stream or a topic is missing.
        UnavailableError: the broker does not answer.
        StorageError: the lake can't be read.
    """
    chosen = named(usecase, streams)
    broker = Broker.at(settings)
    broker.greet()
    topics = broker.require([usecase.topic(name) for name in chosen])
    held = broker.offsets(topics)
    by_stream = {name: topics[usecase.topic(name)] for name in chosen}
    # Before the rows are read: what lands meanwhile is below no mark that is known here.
    level = levels(usecase, settings, broker.cluster_id(), by_stream)
    found = Reconciliation(offsets=spans(usecase, topics, held, stretches))
    for name, topic in by_stream.items():
        if topic.name in found.offsets:
            lows = [held[topic.name, p].earliest for p in range(topic.partitions)]
            upto = [level[name, p].reached(low) for p, low in enumerate(lows)]
            if drained:
                pairs = zip(found.offsets[topic.name], upto, strict=True)
                found.offsets[topic.name] = [(low, max(low, min(high, mark))) for (low, high), mark in pairs]
            rows = recorded(usecase, settings, name, topic, found.offsets[topic.name])
            counts = found.streams[name] = _stream(broker, name, topic, rows, upto, found)
            if not stretches:
                mine = [level[name, p] for p in range(topic.partitions)]
                counts.deleted = _deleted(usecase, settings, name, topic, mine, lows, found)
            found.replays[name] = _replays(usecase, settings, name)
    for counts in found.streams.values():
        for key, value in vars(counts).items():
            setattr(found.total, key, getattr(found.total, key) + value)
    return found


def recorded(
    usecase: UseCase, settings: Settings, stream: str, topic: Topic, spans: Sequence[tuple[int, int]] | None = None
) -> list[tuple[Offsets, Offsets]]:
    """Partition and offset of every row of a topic, in the raw, duplicates and dead-letters tables.

    Args:
        spans: the ``[low, high)`` of each partition that is asked for; all if absent.

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
        mine = ds.field(topic_id) == topic.id
        if spans is not None:
            mine &= _within(partition, offset, spans)
        try:
            rows = read(path, [partition, offset], mine)
            found.append((rows.column(0).to_numpy().astype(np.int64), rows.column(1).to_numpy()))
        except NotFoundError:
            found.append((np.empty(0, np.int64), np.empty(0, np.int64)))
    return found


def _within(partition: str, offset: str, spans: Sequence[tuple[int, int]]) -> ds.Expression:
    """Rows within the spans; files whose statistics exclude them are not opened."""
    parts = [
        (ds.field(partition) == number) & (ds.field(offset) >= low) & (ds.field(offset) < high)
        for number, (low, high) in enumerate(spans)
        if low < high
    ]
    return reduce(or_, parts) if parts else ds.scalar(False)


def _stream(
    broker: Broker,
    name: str,
    topic: Topic,
    rows: list[tuple[Offsets, Offsets]],
    reached: Sequence[int],
    found: Reconciliation,
) -> Counts:
    counts = Counts()
    for partition, (low, high) in enumerate(found.offsets[topic.name]):
        mine = [o[p == partition] for p, o in rows]
        counts.landed += len(mine[0])
        counts.duplicates += len(mine[1])
        counts.dead_lettered += len(mine[2])
        times = np.bincount(np.concatenate(mine) - low, minlength=high - low)
        absent = np.flatnonzero(times == 0) + low
        # Only Kafka knows whether there is a message to miss.
        missing = present(broker, topic.name, partition, absent)
        counts.produced += high - low - (len(absent) - len(missing))
        counts.holes += len(absent) - len(missing)
        counts.waiting += int((missing >= reached[partition]).sum())
        missing = missing[missing < reached[partition]]
        counts.missing += len(missing)
        counts.repeated += int((times - 1).clip(0).sum())
        for faults, bad in ((found.gaps, missing), (found.repeats, np.flatnonzero(times > 1) + low)):
            _name(faults, name, topic, partition, runs(bad))
    return counts


def _name(faults: list[Fault], stream: str, topic: Topic, partition: int, bad: Sequence[tuple[int, int]]) -> None:
    """Add runs of offsets to the faults, as long as there is room."""
    for first, last in bad[: _NAMED - len(faults)]:
        faults.append(Fault(stream, topic.name, partition, first, last))


def _deleted(
    usecase: UseCase,
    settings: Settings,
    name: str,
    topic: Topic,
    level: Sequence[Level],
    lows: Sequence[int],
    found: Reconciliation,
) -> int:
    """How many offsets Kafka no longer has, and no table, though the drain had promised them: it had begun before them.

    From the raw table's mark on nothing was read. Below it a table without rows may be behind and lack nothing, so
    there it is the rows that tell.
    """
    spans = [(low, low) for low in lows]
    for partition, low in enumerate(lows):
        first, landed = level[partition].promised(), level[partition].landed
        if first is not None and landed is not None and first < low:
            spans[partition] = (first, min(landed, low))
    rows = recorded(usecase, settings, name, topic, spans)
    count = 0
    for partition, (first, last) in enumerate(spans):
        decided = np.concatenate([o[p == partition] for p, o in rows])
        bad = runs(np.setdiff1d(np.arange(first, last), decided))
        if last < lows[partition]:
            unread = bad.pop()[0] if bad and bad[-1][1] == last - 1 else last
            bad.append((unread, lows[partition] - 1))
        count += sum(last - first + 1 for first, last in bad)
        _name(found.deleted, name, topic, partition, bad)
    return count


def _places(partitions: Offsets, offsets: Offsets) -> Offsets:
    """Partition and offset as one number: no topic comes near 2**48 messages a partition."""
    return (partitions << 48) | offsets


def _replays(usecase: UseCase, settings: Settings, stream: str) -> Replayed:
    done = replayed(usecase, settings, stream)
    counts = Replayed(sent=done.num_rows)
    for topic_id in done.column("sent_topic_id").unique().to_pylist():
        mine = done.filter(pc.equal(done.column("sent_topic_id"), topic_id))
        sent = _places(*(mine.column(name).to_numpy().astype(np.int64) for name in ("sent_partition", "sent_offset")))
        rows = recorded(usecase, settings, stream, Topic(usecase.topic(stream), topic_id, 0))
        became = [int(np.isin(sent, _places(*places)).sum()) for places in rows]
        counts.landed += became[0]
        counts.duplicates += became[1]
        counts.dead_lettered += became[2]
    counts.pending = counts.sent - counts.landed - counts.duplicates - counts.dead_lettered
    return counts
