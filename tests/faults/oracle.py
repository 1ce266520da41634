"""The judge of the fault tests: reads Kafka and the lake by itself and compares them offset by offset, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable

from tests.faults.load import MALFORMED, Ints, Load

_CHUNK = 200_000


@dataclass
class Verdict:
    """What a drain made of a load, in messages.

    Attributes:
        events: messages that Kafka holds.
        landed, duplicates, dead: rows of the three tables.
        lost: messages that are in no table.
        twice: rows too many.
        invented: rows whose message Kafka never had.
        misplaced: messages in another table than the one that they belong to.
        altered: rows that say something else than their message.
        out_of_order: landed events that stand before an older one of the same key.
    """

    events: int = 0
    landed: int = 0
    duplicates: int = 0
    dead: int = 0
    lost: int = 0
    twice: int = 0
    invented: int = 0
    misplaced: int = 0
    altered: int = 0
    out_of_order: int = 0

    @property
    def clean(self) -> bool:
        """Whether every message is in the lake exactly once, where it belongs, as it was sent and in order."""
        return not (self.lost or self.twice or self.invented or self.misplaced or self.altered or self.out_of_order)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def judge(load: Load, kafka: str, lake: str, topics: dict[str, str], options: dict[str, str] | None = None) -> Verdict:
    """Compare all that the topics hold with the tables.

    Args:
        load: what was produced.
        kafka: the broker.
        lake: the lake's folder or URI.
        topics: the id of each stream's topic.
        options: what deltalake needs to read the lake.

    Raises:
        AssertionError: Kafka itself does not hold what was produced, so nothing can be said.
    """
    for stream, partition in load.partitions:
        _kafka_holds(load, kafka, stream, partition)
    ends = {at: len(messages.kinds) for at, messages in load.partitions.items()}
    return compare(load, lake, topics, ends, options)


def compare(
    load: Load,
    lake: str,
    topics: dict[str, str],
    ends: dict[tuple[str, int], int],
    options: dict[str, str] | None = None,
) -> Verdict:
    """Compare the tables with what was produced, up to each partition's end.

    Args:
        load: what was produced.
        lake: the lake's folder or URI.
        topics: the id of each stream's topic.
        ends: the first offset of each partition that need not be in the lake.
        options: what deltalake needs to read the lake.
    """
    root = f"{lake}/{load.usecase.name}"
    shared = [_dataset(f"{root}/{name}", options) for name in ("duplicates", "dead_letters")]
    found = Verdict()
    for stream in load.usecase.streams:
        raw = _dataset(f"{root}/raw/{stream}", options)
        mine = ds.field("topic_id") == topics[stream]
        own, theirs = ds.field("_topic_id") == topics[stream], mine & (ds.field("stream") == stream)
        tables = [(raw, own, "_"), (shared[0], theirs, ""), (shared[1], theirs, "")]
        rows = raw.count_rows(filter=own) + sum(table.count_rows(filter=mine) for table in shared)
        seen = 0
        for partition in range(load.usecase.streams[stream].partitions):
            end = ends[stream, partition]
            last = _Last()
            for low in range(0, end, _CHUNK):
                piece = _Piece(load, stream, partition, low, min(end, low + _CHUNK), last)
                verdict = piece.judge([_rows(*table, partition, low, piece.high) for table in tables])
                seen += verdict.landed + verdict.duplicates + verdict.dead
                found += verdict
        # Whatever no partition and offset accounts for: past the end, of no partition, or under another stream.
        found.invented += rows - seen
    return found


def _dataset(table: str, options: dict[str, str] | None) -> ds.Dataset:
    return DeltaTable(table, storage_options=options).to_pyarrow_dataset()


def _rows(dataset: ds.Dataset, mine: ds.Expression, prefix: str, partition: int, low: int, high: int) -> pa.Table:
    offset = ds.field(f"{prefix}offset")
    where = mine & (ds.field(f"{prefix}partition") == partition) & (offset >= low) & (offset < high)
    return dataset.to_table(filter=where).sort_by(f"{prefix}offset")


class _Last:
    """The highest serial of each key so far."""

    def __init__(self) -> None:
        self.keys = pa.array([], pa.string())
        self.serials = np.empty(0, np.int64)


class _Piece:
    """A stretch of one partition."""

    def __init__(self, load: Load, stream: str, partition: int, low: int, high: int, last: _Last) -> None:
        self.load, self.stream, self.partition = load, stream, partition
        self.low, self.high, self.last = low, high, last
        self.kinds = load.kinds(stream, partition)[low:high]
        self.numbers = load.partitions[stream, partition].numbers[low:high]

    def judge(self, tables: list[pa.Table]) -> Verdict:
        """The verdict on this stretch, given its rows of the raw, duplicates and dead-letters tables."""
        raw, again, dead = tables
        offsets = [
            t.column(n).to_numpy() - self.low for t, n in zip(tables, ("_offset", "offset", "offset"), strict=True)
        ]
        counts = [np.bincount(found, minlength=len(self.kinds)) for found in offsets]
        times = counts[0] + counts[1] + counts[2]
        rightly = np.choose(self.kinds, counts)
        return Verdict(
            events=len(self.kinds),
            landed=len(raw),
            duplicates=len(again),
            dead=len(dead),
            lost=int((times == 0).sum()),
            twice=int((times - 1).clip(0).sum()),
            misplaced=int(((times > 0) & (rightly == 0)).sum()),
            altered=self._altered(tables, offsets),
            out_of_order=self._disorder(raw),
        )

    def _altered(self, tables: list[pa.Table], offsets: list[Ints]) -> int:
        raw, again, dead = tables
        wanted = self.load.columns(self.stream, self.partition, self.numbers[offsets[0]])
        bad = _differing(raw, wanted)
        named = self.load.ids(self.stream, self.partition, self.numbers[offsets[1]])
        bad += _differing(again, pa.table({"event_id": pa.array(named, pa.string())}))
        # Only where a dead letter is due: a misplaced one is counted as that.
        due = np.flatnonzero(self.kinds[offsets[2]] == MALFORMED)
        if len(due):
            values, keys = self._sent(offsets[2][due])
            sent = pa.table({"key": pa.array(keys, pa.binary()), "value": pa.array(values, pa.binary())})
            bad += _differing(dead.take(pa.array(due)), sent)
        return bad

    def _sent(self, offsets: Ints) -> tuple[list[bytes | None], list[bytes]]:
        values: list[bytes | None] = []
        keys: list[bytes] = []
        for offset in (offsets + self.low).tolist():
            value, key = self.load.messages(self.stream, self.partition, offset, offset + 1)
            values += value
            keys += key
        return values, keys

    def _disorder(self, raw: pa.Table) -> int:
        """How many rows, by offset, have a lower serial than the row before of the same key."""
        keys = pa.chunked_array([self.last.keys, *raw.column("order_id").chunks], pa.string()).combine_chunks()
        serials = np.concatenate([self.last.serials, raw.column("serial").to_numpy()])
        codes = keys.dictionary_encode()
        which = codes.indices.to_numpy()
        order = np.argsort(which, kind="stable")
        same = which[order][1:] == which[order][:-1]
        wrong = int((same & (serials[order][1:] <= serials[order][:-1])).sum())
        ends = order[np.append(~same, True)] if len(order) else order
        self.last.keys, self.last.serials = keys.take(pa.array(ends)), serials[ends]
        return wrong


def _differing(rows: pa.Table, wanted: pa.Table) -> int:
    """How many rows differ from `wanted` in any of its columns; null equals null."""
    bad = np.zeros(len(rows), np.bool_)
    for name in wanted.column_names:
        have, want = rows.column(name).combine_chunks(), wanted.column(name).combine_chunks()
        if have.equals(want):
            continue
        same = pc.fill_null(pc.equal(have, want), False)
        both = pc.and_(pc.is_null(have), pc.is_null(want))
        bad |= ~pc.or_(same, both).to_numpy(zero_copy_only=False)
    return int(bad.sum())


def _kafka_holds(load: Load, kafka: str, stream: str, partition: int) -> None:
    low = 0
    for values, keys in _read(
        kafka, load.usecase.topic(stream), partition, len(load.partitions[stream, partition].kinds)
    ):
        high = low + len(values)
        sent = load.messages(stream, partition, low, high)
        assert values == sent[0], f"{stream}, partition {partition}: Kafka holds other values from {low} on"
        assert keys == sent[1], f"{stream}, partition {partition}: Kafka holds other keys from {low} on"
        low = high


def _read(
    kafka: str, topic: str, partition: int, count: int
) -> Iterator[tuple[list[bytes | None], list[bytes | None]]]:
    """All messages of a partition, which must be `count` from offset 0 on."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "oracle", "enable.auto.commit": False})
    try:
        at = TopicPartition(topic, partition, 0)
        held = consumer.get_watermark_offsets(at, timeout=60)
        assert held == (0, count), f"{topic}, partition {partition}: Kafka holds {held}, {count} were produced"
        consumer.assign([at])
        read = 0
        while read < count:
            messages = consumer.consume(min(20_000, count - read), 1.0)
            assert all(m.error() is None and m.offset() == read + i for i, m in enumerate(messages))
            read += len(messages)
            if messages:
                yield [m.value() for m in messages], [m.key() for m in messages]
    finally:
        consumer.close()
