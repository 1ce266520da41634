"""Sends a source's messages and waits until the broker has all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivery

from fasttrack.errors import DataQualityError, UnavailableError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.sources.message import HEADER, Message

_POLL_SECONDS = 0.05
_STOP_SECONDS = 15.0

# Messages never time out: idempotence then settles every retry by itself, in order. How large a message may be is the
# topic's to say.
_SETTINGS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "message.timeout.ms": 0,
    "message.max.bytes": 500_000_000,
    "delivery.report.only.error": True,
}


class Sender:
    """An idempotent producer.

    Args:
        broker: the cluster; its patience is how long no progress is put up with.
        stop: set when the ingester is to end: then unconfirmed messages are waited for some seconds more.
        stalled: told when patience has ended; it raises the error to give up, and returns to go on waiting.
    """

    def __init__(self, broker: Broker, stop: threading.Event, stalled: Callable[[UnavailableError], None]) -> None:
        self._broker, self._stop, self._stalled = broker, stop, stalled
        self._failures: list[KafkaError] = []
        self._producer = Producer(broker.access.client() | _SETTINGS | {"on_delivery": self._delivered})

    def _delivered(self, error: KafkaError | None, _: Delivery) -> None:
        if error is not None:
            self._failures.append(error)

    def send(self, topic: str, messages: Sequence[Message]) -> None:
        """Send messages in order; when it returns, the broker has them all.

        Raises:
            DataQualityError: one is larger than the topic takes.
            UnavailableError: the broker does not answer, and `stalled` gave up; some may be there.
            ConfigurationError: broker and client don't trust each other.
            AuthorizationError: there is no right to write.
        """
        for each in messages:
            while True:
                try:
                    self._producer.produce(topic, each.value, each.key, each.partition, headers=[(HEADER, each.source)])
                    break
                except BufferError:
                    self._producer.poll(_POLL_SECONDS)
                except KafkaException as error:
                    self._abandon()
                    raise self._refused(topic, error.args[0], messages) from error
        self._confirm()
        if self._failures:
            failure = self._failures[0]
            self._abandon()
            raise self._refused(topic, failure, messages)

    def _confirm(self) -> None:
        left, since, stopped = len(self._producer), time.monotonic(), None
        while left and not self._failures:
            try:
                self._producer.flush(_POLL_SECONDS)
            except KafkaException as error:
                # Fatal: it never sends again.
                self._failures.append(error.args[0])
            self._broker.access.require()
            now = time.monotonic()
            if len(self._producer) < left:
                left, since = len(self._producer), now
            if self._stop.is_set():
                stopped = stopped or now
                if now - stopped > min(_STOP_SECONDS, self._broker.patience):
                    self._abandon()
                    raise self._broker.unavailable(f"{left:,} messages are not confirmed")
            elif now - since > self._broker.patience:
                since = now
                try:
                    self._stalled(self._broker.unavailable(f"nothing was taken for {self._broker.patience:.0f} s"))
                except UnavailableError:
                    self._abandon()
                    raise

    def _abandon(self) -> None:
        self._producer.purge()
        self._producer.flush(1.0)

    def _refused(self, topic: str, error: KafkaError, messages: Sequence[Message]) -> Exception:
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            return self._broker.fault(error)
        largest = max(messages, key=lambda each: len(each.value or b""))
        return DataQualityError(
            f"a record of {len(largest.value or b''):,} bytes is more than the topic takes.",
            where=f"{largest.source.decode(errors='replace')}, topic {topic}",
            fix="Raise `max.message.bytes` of the topic, or take the record out of the source. Nothing is skipped.",
        )
