"""Reading a stretch of one partition, apart from any group."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fasttrack.errors import DataLossError
from fasttrack.ingest.access import PASSING
from fasttrack.ingest.broker import Broker, Topic

# What a consumer that may not choose another offset by itself is told.
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_SILENCE_SECONDS = 30.0
_BATCH = 10_000


def scan(broker: Broker, topic: str, partition: int, first: int, last: int) -> Generator[Message, None, None]:
    """The messages ``first <= offset <= last`` of a partition, in order; fewer where Kafka itself has holes.

    Args:
        first: not below the partition's beginning.

    Raises:
        UnavailableError: the broker does not answer.
        DataLossError: Kafka has deleted what comes next, before or while it is read.
    """
    if last < first:
        return
    # A new consumer each time: after a change of place it may still hand out what it had fetched before.
    consumer = Consumer(
        broker.access.client()
        | {"group.id": "fasttrack-scan", "enable.auto.commit": False, "auto.offset.reset": "error"}
        | {"enable.partition.eof": True, "isolation.level": "read_committed"}
    )
    try:
        consumer.assign([TopicPartition(topic, partition, first)])
        yield from _read(broker, consumer, TopicPartition(topic, partition, first), last)
    except KafkaException as error:
        raise broker.unavailable(error.args[0]) from error
    finally:
        consumer.close()


def _read(broker: Broker, consumer: Consumer, place: TopicPartition, last: int) -> Iterator[Message]:
    heard, wanted = time.monotonic(), place.offset
    while time.monotonic() - heard < _SILENCE_SECONDS:
        for message in consumer.consume(_BATCH, 0.2):
            error, offset = message.error(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.code() in _OUT_OF_RANGE:
                    _still_there(broker, place.topic, place.partition, wanted, last)
                if error.code() not in PASSING and not error.retriable():
                    raise broker.fault(error)
                continue
            heard = time.monotonic()
            if error is None and offset is not None and offset <= last:
                wanted = offset + 1
                yield message
            # At the end of what can be read, too: what lies behind it holds no message.
            if error is not None or (offset is not None and offset >= last):
                return
    raise broker.unavailable("timed out")


def _still_there(broker: Broker, name: str, partition: int, wanted: int, last: int) -> None:
    """Raise if the broker's first offset is beyond the one that is wanted; one that has just started may show less."""
    topic = Topic(name, "", partition + 1)
    earliest = broker.offsets({name: topic})[name, partition].earliest
    if earliest > wanted:
        raise DataLossError(
            f"Kafka deleted offsets {wanted} to {min(earliest - 1, last)} before they were read.",
            where=f"topic {name}, partition {partition}",
            fix="Raise the topic's retention if it is shorter than reading takes, and start again: what the topic then "
            "holds is read.",
        )
