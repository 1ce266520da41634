"""How far a source is: records of the compacted topic ``<use case>.sources``, and what was sent since the newest.

A checkpoint says: here the source goes on, and whatever lies before is in the topic below these offsets. Messages are
sent without transactions, so after a crash some are in the topic that no checkpoint tells of; each carries its record's
identity in a header, by which it is found again (docs/decisions/0010-sources-without-kafka-transactions.md).
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from fasttrack.errors import ConflictError, StorageError
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.marker import fetch
from fasttrack.ingest.sources.message import HEADER
from fasttrack.ingest.sources.source import Position

_ANSWER_SECONDS = 30.0
_FETCH = 10_000
#: Names this process among those that may ingest the same source.
_OWNER = uuid.uuid4().hex


@dataclass(frozen=True)
class Checkpoint:
    """One record of the topic.

    Attributes:
        kind: of the source.
        position: where it goes on; None: at the beginning.
        topic, topic_id: where its messages are.
        offsets: for each partition, the first offset that may hold messages from after `position`.
        epoch: grows with every start.
        owner: the process that wrote it.
    """

    kind: str
    position: Position | None
    topic: str
    topic_id: str
    offsets: list[int]
    epoch: int
    owner: str

    def to_json(self) -> bytes:
        """The record's value."""
        offsets = {self.topic: {str(p): offset for p, offset in enumerate(self.offsets)}}
        document: dict[str, Any] = {"kind": self.kind, "position": self.position, "offsets": offsets}
        document |= {"topic_ids": {self.topic: self.topic_id}, "epoch": self.epoch, "owner": self.owner}
        return orjson.dumps(document)

    @classmethod
    def from_json(cls, value: bytes) -> Checkpoint:
        """What `to_json` wrote."""
        document = orjson.loads(value)
        ((topic, by_partition),) = document["offsets"].items()
        offsets = [by_partition[str(p)] for p in range(len(by_partition))]
        identity = (topic, document["topic_ids"][topic], offsets, document["epoch"], document["owner"])
        return cls(document["kind"], document["position"], *identity)


class Checkpoints:
    """The checkpoints of one source.

    Args:
        broker: the cluster.
        usecase: the use case's name.
        source: the source's name.
        kind: of the source.
        owner: tells this ingester from others; default: one for this process.
    """

    def __init__(self, broker: Broker, usecase: str, source: str, kind: str, owner: str = _OWNER) -> None:
        self._broker, self._topic, self._key, self._kind = broker, f"{usecase}.sources", source.encode(), kind
        self._owner = owner
        self._epoch = 0
        self._read = 0
        self._written: int | None = None
        self._failures: list[str] = []
        settings = {"enable.idempotence": True, "acks": "all", "on_delivery": self._delivered}
        self._producer = Producer(broker.access.client() | settings)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append(str(error))
        else:
            self._written = message.offset()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, None if there is none; from now on it is this ingester's turn.

        Raises:
            ConflictError: the name belongs to a source of another kind.
            UnavailableError: the broker does not answer.
        """
        self._broker.create({self._topic: 1}, compacted=True)
        self._read = 0
        ours = self._since()
        newest = max(ours, key=lambda each: each.epoch, default=None)
        # Of the highest epoch the last one: a process that was overtaken may have written after its successor.
        for each in ours:
            if newest is not None and each.epoch == newest.epoch:
                newest = each
        if newest is not None and newest.kind != self._kind:
            raise ConflictError(
                f"was of kind {newest.kind} before, so its position means nothing to {self._kind}.",
                where=f"source {self._key.decode()}", fix="Give the source a new name.",
            )  # fmt: skip
        self._epoch = newest.epoch + 1 if newest else 1
        return newest

    def _since(self) -> list[Checkpoint]:
        """This source's checkpoints that were not read yet."""
        held = self._broker.offsets(self._broker.topics([self._topic])).get((self._topic, 0))
        if held is None:
            raise self._broker.unavailable(f"topic {self._topic} was deleted")
        low = max(held.earliest, self._read)
        records = fetch(self._broker, self._topic, 0, low, held.latest)
        self._read = max(self._read, held.latest)
        return [Checkpoint.from_json(value) for key, value in records if key == self._key and value]

    def write(self, position: Position | None, topic: Topic, offsets: list[int]) -> None:
        """Record how far the source is, once all that lies before is confirmed.

        Raises:
            ConflictError: another ingester has taken the source over.
            StorageError: the position is larger than Kafka takes.
            UnavailableError: the broker does not answer; whether it is recorded is not known.
            AuthorizationError: there is no right to write.
        """
        for other in self._since():
            if other.owner != self._owner and other.epoch >= self._epoch:
                raise ConflictError(
                    "another ingester has taken it over.", where=f"source {self._key.decode()}",
                    fix="Run one at a time; what both sent is found by the drain, which knows events by their ids.",
                )  # fmt: skip
        mine = Checkpoint(self._kind, position, topic.name, topic.id, offsets, self._epoch, self._owner)
        self._failures.clear()
        try:
            self._producer.produce(self._topic, mine.to_json(), self._key, 0)
        except KafkaException as error:
            raise StorageError(f"the position can't be kept: {error}.", where=f"source {self._key.decode()}") from error
        try:
            left = self._producer.flush(_ANSWER_SECONDS)
        except KafkaException as error:
            raise self._broker.fault(error.args[0]) from error
        if left or self._failures:
            self._producer.purge()
            raise self._broker.unavailable(self._failures[0] if self._failures else "timed out")
        if self._written == self._read:
            self._read += 1


def sent_since(broker: Broker, topic: Topic, offsets: list[int] | None, source: str) -> tuple[Counter[bytes], int]:
    """The `source` headers of a source's messages from `offsets` (None: from the earliest) to the end of a topic.

    Returns:
        Each header and how often it is there; and how many messages were read.

    Raises:
        DataLossError: the topic ends before the offsets, so it lost messages.
        UnavailableError: the broker does not answer.
    """
    prefix = f"{source}:".encode()
    found: Counter[bytes] = Counter()
    count = 0
    for headers in _headers(broker, topic, offsets):
        count += 1
        found.update(v for k, v in headers if k == HEADER and isinstance(v, bytes) and v.startswith(prefix))
    return found, count


def _headers(broker: Broker, topic: Topic, offsets: list[int] | None) -> Iterator[list[tuple[str, Any]]]:
    """The headers of each message."""
    settings = {"group.id": "fasttrack-sources", "enable.auto.commit": False, "auto.offset.reset": "error"}
    # Ours have no transactions, but those of others hide what comes after them until they end.
    settings |= {"enable.partition.eof": True, "isolation.level": "read_uncommitted"}
    consumer = Consumer(broker.access.client() | settings)
    deadline = time.monotonic() + broker.patience
    try:
        ends = _assign(consumer, broker, topic, offsets)
        while ends:
            for message in consumer.consume(_FETCH, 0.5):
                deadline = time.monotonic() + broker.patience
                error, partition, offset = message.error(), message.partition(), message.offset()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise broker.unavailable(error)
                # Control records and compaction leave holes, so the end of the partition ends the reading too.
                end = ends.get(partition, 0) if partition is not None else 0
                if error is None and offset is not None and offset < end:
                    yield cast(list[tuple[str, Any]], message.headers() or [])
                if error is not None or (offset is not None and offset >= end - 1):
                    ends.pop(cast(int, partition), None)
            if ends and time.monotonic() > deadline:
                raise broker.unavailable("timed out")
    except KafkaException as error:
        raise broker.unavailable(error.args[0]) from error
    finally:
        consumer.close()


def _assign(consumer: Consumer, broker: Broker, topic: Topic, offsets: list[int] | None) -> dict[int, int]:
    """Begin to read at the offsets; for each partition that has anything there, where it ends now."""
    starts, ends = [], {}
    for partition in range(topic.partitions):
        place = TopicPartition(topic.name, partition)
        earliest, latest = consumer.get_watermark_offsets(place, timeout=_ANSWER_SECONDS)
        low = max(earliest, offsets[partition]) if offsets else earliest
        if low > latest:
            # A broker that has just started shows less than it has; if it doesn't get more, messages are lost.
            latest = broker.holding(topic, partition, low).latest
        if low < latest:
            starts.append(TopicPartition(topic.name, partition, low))
            ends[partition] = latest
    if starts:
        consumer.assign(starts)
    return ends
