"""Reading a stretch of one partition, apart from any group."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fasttrack.ingest.access import PASSING
from fasttrack.ingest.broker import Broker

_SILENCE_SECONDS = 30.0
_BATCH = 10_000


def scan(broker: Broker, topic: str, partition: int, first: int, last: int) -> Generator[Message, None, None]:
    """The messages ``first <= offset <= last`` of a partition, in order; fewer where Kafka itself has holes.

    Args:
        first: not below the partition's beginning.

    Raises:
        UnavailableError: the broker does not answer, or has deleted the beginning meanwhile.
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
        yield from _read(broker, consumer, last)
    except KafkaException as error:
        raise broker.unavailable(error.args[0]) from error
    finally:
        consumer.close()


def _read(broker: Broker, consumer: Consumer, last: int) -> Iterator[Message]:
    heard = time.monotonic()
    while time.monotonic() - heard < _SILENCE_SECONDS:
        for message in consumer.consume(_BATCH, 0.2):
            error, offset = message.error(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.code() not in PASSING and not error.retriable():
                    raise broker.fault(error)
                continue
            heard = time.monotonic()
            if error is None and offset is not None and offset <= last:
                yield message
            # At the end of what can be read, too: what lies behind it holds no message.
            if error is not None or (offset is not None and offset >= last):
                return
    raise broker.unavailable("timed out")
