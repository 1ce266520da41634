"""The order of a replay: which event, duplicate or damaged copy is sent when, and to which partition."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fasttrack.ingest import encode
from fasttrack.ingest.damage import damage, kinds
from fasttrack.ingest.encode import keys
from fasttrack.usecase import UseCase
from fasttrack.usecase.streams import Stream

Index = npt.NDArray[np.int64]


@dataclass
class StreamPlan:
    """The messages of one stream, in the order in which they are sent.

    Attributes:
        stream: the contract.
        topic: where they go.
        events: the rows that they are made from.
        row: for each message, its row in `events`.
        kind: for each message, 0 if it is whole, else 1 + its index in `damage.kinds`.
        partition: for each message, its partition.
        when: for each message, its (shuffled) event time in microseconds.
        duplicates: how many are second copies.
    """

    stream: Stream
    topic: str
    events: pa.Table
    row: Index
    kind: Index
    partition: Index
    when: Index
    duplicates: int

    def planned(self) -> list[int]:
        """How many messages each partition gets."""
        counts: list[int] = np.bincount(self.partition, minlength=self.stream.partitions).tolist()
        return counts

    def without(self, sent: list[int]) -> StreamPlan:
        """The plan without the first `sent[p]` messages of each partition p."""
        left = np.ones(len(self.row), np.bool_)
        for partition, count in enumerate(sent):
            left[np.flatnonzero(self.partition == partition)[:count]] = False
        parts = (self.row[left], self.kind[left], self.partition[left], self.when[left])
        return StreamPlan(self.stream, self.topic, self.events, *parts, self.duplicates)

    def messages(self, low: int, high: int, schema_id: int) -> tuple[list[bytes], list[bytes]]:
        """Values and keys of the messages ``[low, high)``."""
        rows = self.events.take(pa.array(self.row[low:high]))
        values: list[bytes] = encode.values(self.stream, rows, schema_id).to_pylist()
        for at in np.flatnonzero(self.kind[low:high]).tolist():
            values[at] = damage(self.stream, values[at], kinds(self.stream)[self.kind[low + at] - 1])
        return values, keys(self.stream, rows).to_pylist()

    def last(self, partition: int, count: int, schema_id: int) -> bytes:
        """The value of message number `count` (from 1) of a partition."""
        at = int(np.flatnonzero(self.partition == partition)[count - 1])
        return self.messages(at, at + 1, schema_id)[0][0]


def plan(usecase: UseCase, name: str, events: pa.Table, seed: int) -> StreamPlan:
    """Shuffle a stream's events within the declared disorder, and add duplicates and damaged copies.

    The same arguments always give the same plan. A message never moves further than the declared disorder from its
    event time's place, so its copies do not either.
    """
    stream, replay = usecase.streams[name], usecase.replay
    duplicated, malformed, disorder = (
        (replay.duplicates, replay.malformed, replay.disorder) if replay else (0.0, 0.0, timedelta(0))
    )
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    count = events.num_rows
    again = random.choice(count, round(count * duplicated), replace=False)
    broken = random.choice(count, round(count * malformed), replace=False)
    row = np.concatenate([np.arange(count), again, broken]).astype(np.int64)
    kind = np.zeros(len(row), np.int64)
    kind[count + len(again) :] = random.permutation(len(broken)) % len(kinds(stream)) + 1
    moment = events.column(stream.event_time).combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False)
    when = moment[row] + random.integers(0, disorder // timedelta(microseconds=1) + 1, len(row))
    order = np.argsort(when, kind="stable")
    partition = partitions(keys(stream, events), stream.partitions)[row]
    parts = (row[order], kind[order], partition[order], when[order])
    return StreamPlan(stream, usecase.topic(name), events, *parts, len(again))


def partitions(key: pa.Array, count: int) -> Index:
    """The partition of each key: CRC-32 modulo `count`, as librdkafka's own `consistent` partitioner has it."""
    encoded = key.dictionary_encode()
    hashes = np.fromiter(map(zlib.crc32, encoded.dictionary.to_pylist()), np.int64, len(encoded.dictionary))
    found: Index = (hashes % count)[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def blocks(plans: dict[str, StreamPlan], size: int) -> Iterator[dict[str, tuple[int, int]]]:
    """Cut the streams, merged by time, into blocks of `size` messages: for each, every stream's range of messages."""
    names = list(plans)
    when = np.concatenate([plans[name].when for name in names])
    owner = np.repeat(np.arange(len(names)), [len(plans[name].when) for name in names])
    owner = owner[np.argsort(when, kind="stable")]
    done = dict.fromkeys(names, 0)
    for low in range(0, len(owner), size):
        counts = np.bincount(owner[low : low + size], minlength=len(names)).tolist()
        block = {n: (done[n], done[n] + c) for n, c in zip(names, counts, strict=True) if c}
        done |= {name: high for name, (_, high) in block.items()}
        yield block
