"""What a topic holds already: each replay leaves a record of itself in the compacted topic ``<use case>.replays``.

A replay is deterministic and each partition's log holds a prefix of what it sends there, so a replay that was cut
short is taken up where each partition stands, and one that is complete is not sent again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from fasttrack.ingest.broker import Broker

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class TopicMark:
    """One topic's part of a replay.

    Attributes:
        topic_id: the broker's id of the topic.
        start: for each partition, the offset of the replay's first message.
        planned: for each partition, how many messages the replay sends.
    """

    topic_id: str
    start: list[int]
    planned: list[int]


@dataclass(frozen=True)
class Marker:
    """A replay that was begun.

    Attributes:
        digest: names the replay.
        topics: where it writes.
        streams: its counts by stream (events, duplicates, malformed, produced).
    """

    digest: str
    topics: dict[str, TopicMark]
    streams: dict[str, dict[str, int]]


class Markers:
    """The topic of replay markers of one use case.

    Args:
        broker: the cluster.
        usecase: the use case's name.
    """

    def __init__(self, broker: Broker, usecase: str) -> None:
        self._broker = broker
        self._topic = f"{usecase}.replays"
        self._key = usecase.encode()

    def read(self) -> Marker | None:
        """The newest marker; None if there was no replay yet.

        Raises:
            UnavailableError: the broker does not answer.
        """
        topics = self._broker.topics([self._topic])
        if not topics:
            return None
        held = self._broker.offsets(topics)[self._topic, 0]
        newest: Marker | None = None
        for key, value in fetch(self._broker, self._topic, 0, held.earliest, held.latest):
            if key == self._key and value:
                document = orjson.loads(value)
                places = {t: TopicMark(**m) for t, m in document["topics"].items()}
                newest = Marker(document["digest"], places, document["streams"])
        return newest

    def write(self, marker: Marker) -> None:
        """Record a replay before its first message is sent.

        Raises:
            UnavailableError: the broker does not answer.
        """
        self._broker.create({self._topic: 1}, compacted=True)
        producer = Producer(self._broker.access.client() | {"enable.idempotence": True})
        failures: list[str] = []
        producer.produce(
            self._topic, orjson.dumps(asdict(marker)), self._key, 0,
            on_delivery=lambda error, _: failures.append(str(error)) if error else None,
        )  # fmt: skip
        if producer.flush(_ANSWER_SECONDS) or failures:
            raise self._broker.unavailable(failures[0] if failures else "timed out")


def fetch(broker: Broker, topic: str, partition: int, low: int, high: int) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values of the messages ``low <= offset < high`` of one partition.

    Raises:
        UnavailableError: the broker does not answer.
    """
    if low >= high:
        return []
    settings = {"group.id": "fasttrack-fetch", "enable.auto.commit": False, "auto.offset.reset": "error"}
    consumer = Consumer(broker.access.client() | settings | {"enable.partition.eof": True})
    found: list[tuple[bytes | None, bytes | None]] = []
    deadline = time.monotonic() + _ANSWER_SECONDS
    try:
        consumer.assign([TopicPartition(topic, partition, low)])
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            offset = message.offset()
            if error is None and offset is not None and offset < high:
                found.append((message.key(), message.value()))
            # Compaction leaves holes, so the end of the partition ends the reading too.
            if (error is not None and error.code() == _END) or (
                error is None and offset is not None and offset >= high - 1
            ):
                return found
        raise broker.unavailable("timed out")
    except KafkaException as error:
        raise broker.unavailable(error.args[0]) from error
    finally:
        consumer.close()


_END = KafkaError._PARTITION_EOF
