"""Prove that nothing is lost and nothing is twice: every message of every topic is in exactly one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.compute as pc

from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.deadletters import replayed
from fasttrack.ingest.holes import Offsets, present, runs
from fasttrack.ingest.marks import Level, levels
from fasttrack.ingest.records import Records, stretches
from fasttrack.ingest.spans import Stretch, named, spans
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
        DataLossError: Kafka deleted offsets while this looked for messages at them.
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
            records = Records(usecase, settings, name, topic.id)
            counts = found.streams[name] = _stream(broker, name, topic, records, upto, found)
            if not stretches:
                mine = [level[name, p] for p in range(topic.partitions)]
                counts.deleted = _deleted(name, topic, records, mine, lows, found)
            found.replays[name] = _replays(usecase, settings, name)
    for counts in found.streams.values():
        for key, value in vars(counts).items():
            setattr(found.total, key, getattr(found.total, key) + value)
    return found


def _stream(
    broker: Broker, name: str, topic: Topic, records: Records, reached: Sequence[int], found: Reconciliation
) -> Counts:
    counts = Counts()
    for partition, span in enumerate(found.offsets[topic.name]):
        for low, high in stretches(*span):
            mine = records.offsets(partition, low, high)
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
    """Add runs of offsets to the faults, as long as there is room; one may go on from where the last one ended."""
    for first, last in bad:
        before = faults[-1] if faults else None
        if before is not None and before == Fault(stream, topic.name, partition, before.first, first - 1):
            faults[-1] = replace(before, last=last)
        elif len(faults) < _NAMED:
            faults.append(Fault(stream, topic.name, partition, first, last))


def _deleted(
    name: str, topic: Topic, records: Records, level: Sequence[Level], lows: Sequence[int], found: Reconciliation
) -> int:
    """How many offsets Kafka no longer has, and no table, though the drain had promised them: it had begun before them.

    From the raw table's mark on nothing was read. Below it a table without rows may be behind and lack nothing, so
    there it is the rows that tell.
    """
    count = 0
    for partition, low in enumerate(lows):
        first, landed = level[partition].promised(), level[partition].landed
        if first is None or landed is None:
            continue
        bad = [
            run
            for span in stretches(first, min(landed, low))
            for run in runs(np.setdiff1d(np.arange(*span), np.concatenate(records.offsets(partition, *span))))
        ]
        if landed < low:
            bad.append((landed, low - 1))
        count += sum(last - first + 1 for first, last in bad)
        _name(found.deleted, name, topic, partition, bad)
    return count


def _replays(usecase: UseCase, settings: Settings, stream: str) -> Replayed:
    done = replayed(usecase, settings, stream)
    counts = Replayed(sent=done.num_rows)
    for topic_id in done.column("sent_topic_id").unique().to_pylist():
        mine = done.filter(pc.equal(done.column("sent_topic_id"), topic_id))
        partitions, offsets = (mine.column(name).to_numpy() for name in ("sent_partition", "sent_offset"))
        records = Records(usecase, settings, stream, topic_id)
        for partition in np.unique(partitions).tolist():
            for sent in _near(np.sort(offsets[partitions == partition])):
                rows = records.offsets(partition, int(sent[0]), int(sent[-1]) + 1)
                became = [int(np.isin(sent, offsets).sum()) for offsets in rows]
                counts.landed += became[0]
                counts.duplicates += became[1]
                counts.dead_lettered += became[2]
    counts.pending = counts.sent - counts.landed - counts.duplicates - counts.dead_lettered
    return counts


def _near(offsets: Offsets) -> Iterator[Offsets]:
    """Ascending offsets in pieces, each within one stretch."""
    while len(offsets):
        _, end = next(stretches(int(offsets[0]), int(offsets[-1]) + 1))
        piece, offsets = np.split(offsets, [np.searchsorted(offsets, end)])
        yield piece
