"""Sends messages in order, and knows how many the broker has."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fasttrack.errors import UnavailableError
from fasttrack.ingest.access import DENIED
from fasttrack.ingest.broker import Broker

_QUEUE_MESSAGES = 100_000
_POLL_SECONDS = 0.05

# librdkafka's own limits are set out of reach, so that it never refuses a part of a batch (which would change the
# order); `Publisher` keeps its queue short instead. Messages never time out there: a message that is given up
# while a later one is kept would leave a hole in the partition's prefix.
_SETTINGS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 20,
    "batch.num.messages": 10_000,
    "batch.size": 1_000_000,
    "message.timeout.ms": 0,
    "queue.buffering.max.messages": 10_000_000,
    "queue.buffering.max.kbytes": 2_097_151,
    "delivery.report.only.error": True,
}


class Publisher:
    """An idempotent producer with a bounded queue.

    Args:
        broker: the cluster; its patience is how long no progress is put up with.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._failures: list[KafkaError] = []
        self._producer = Producer(broker.access.client() | _SETTINGS | {"on_delivery": self._delivered})
        self._given = 0

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)

    @property
    def acknowledged(self) -> int:
        """How many messages the broker has for certain."""
        return self._given - len(self._producer) - len(self._failures)

    def send(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Queue messages (dicts of value, key, partition), waiting while the queue is long.

        Raises:
            UnavailableError: the broker has taken nothing for as long as patience lasts, or refuses.
            ConfigurationError: broker and client don't trust each other.
            AuthorizationError: there is no right to write.
        """
        self._wait(_QUEUE_MESSAGES)
        try:
            queued = self._producer.produce_batch(topic, messages)
        except (BufferError, KafkaException) as error:
            raise self._unavailable(error) from error
        self._given += queued
        if queued < len(messages):
            raise self._unavailable(next((m["_error"] for m in messages if "_error" in m), "queue full"))

    def flush(self) -> None:
        """Wait until the broker has everything.

        Raises:
            UnavailableError: as for `send`.
        """
        self._wait(0)

    def _wait(self, below: int) -> None:
        length, since = len(self._producer), time.monotonic()
        while length > below:
            try:
                if below == 0:
                    self._producer.flush(_POLL_SECONDS)
                else:
                    self._producer.poll(_POLL_SECONDS)
            except KafkaException as error:
                # Fatal: a producer without the right to write is one that never will.
                self._failures.append(error.args[0])
                break
            self._broker.access.require()
            if len(self._producer) < length:
                since = time.monotonic()
            elif time.monotonic() - since > self._broker.patience:
                raise self._unavailable(f"nothing was taken for {self._broker.patience:.0f} s")
            length = len(self._producer)
        if not self._failures:
            self._producer.poll(0)
        if self._failures:
            failure = self._failures[0]
            raise self._broker.access.denied(failure) if failure.code() in DENIED else self._unavailable(failure)

    def _unavailable(self, error: object) -> UnavailableError:
        got = self.acknowledged
        self._producer.purge()
        self._producer.flush(1.0)
        found = self._broker.unavailable(error)
        found.what += f" It has {got:,} of the {self._given:,} messages that were queued."
        return found
