"""Messages to Kafka, confirmed to the event loop: a future is done once the broker has all of a call's messages.

confluent_kafka's own AIOProducer sends no headers, so this is the plain producer with a thread that polls it. Imported
with the first webhook only: a gateway without any doesn't load Kafka's client.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from api_gateway.events import away
from api_gateway.observability import log
from api_gateway.problems import refused
from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.ingest.access import Access
from fasttrack.ingest.sources.message import HEADER, Message
from fasttrack.settings import Settings

_POLL_SECONDS: Final = 0.2
_LAST_SECONDS: Final = 1.0
# How long one that is refused is left before it is replaced.
_ANEW_SECONDS: Final = 5.0
# As the ingester's: messages never time out, so that idempotence settles each retry and a key's order holds. What is
# asked of the sender meanwhile is to come again; what it holds here is bounded by the queue.
_SETTINGS: Final[dict[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 2,
    "batch.size": 1_000_000,
    "message.timeout.ms": 0,
    "message.max.bytes": 500_000_000,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
}


class _Batch:
    """The reports of one call's messages; they come on the polling thread."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._left = count
        self._error: KafkaError | None = None

    def report(self, error: KafkaError | None, _: object = None) -> None:
        """One message is in the topic, or isn't."""
        self.settle(1, error)

    def settle(self, count: int, error: KafkaError | None) -> None:
        """Count reports; the last one makes the future done."""
        with self._lock:
            self._left -= count
            self._error = self._error or error
            over = self._left == 0
        if over:
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self.future.done():
            return
        if self._error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(KafkaException(self._error))


class _Link:
    """One producer and its thread."""

    def __init__(self, access: Access) -> None:
        self.began = time.monotonic()
        #: Why it never sends again: a broker doesn't trust it, or it no broker; or it has failed by itself.
        self.refused: Exception | None = None
        self._access = access
        self.producer = Producer(access.client() | _SETTINGS)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="deliveries", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._ending.is_set():
            try:
                self.producer.poll(_POLL_SECONDS)
                self._access.require()
            except (ConfigurationError, KafkaException) as error:
                if self.refused is None:
                    log("error", "the gateway can't send to Kafka", reason=str(error))
                self.refused = error

    def close(self, seconds: float) -> None:
        """Wait for what is under way, then give the rest up: its calls are told so."""
        self._ending.set()
        self._thread.join()
        self.producer.flush(seconds)
        self.producer.purge()
        self.producer.flush(_LAST_SECONDS)


class Deliveries:
    """An idempotent producer for the event loop.

    Args:
        settings: where Kafka is, and with which certificate to come.

    Raises:
        ConfigurationError: one can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link = _Link(Access.at(settings))

    async def send(self, topic: str, messages: Sequence[Message]) -> None:
        """Send messages in order; when it returns, the topic's replicas have them all.

        It waits as long as the broker is away; who is cancelled meanwhile has sent all the same.

        Raises:
            InvalidRequestError: one is larger than the topic takes (413).
            UnavailableError: the queue is full, or the broker refuses; some may be there.
        """
        if not messages:
            return
        self._trusted()
        batch, link = _Batch(len(messages)), self._link
        try:
            _queue(link.producer, topic, messages, batch)
            await batch.future
        except KafkaException as error:
            failure: KafkaError = error.args[0]
            if (failure.fatal() or failure.code() == KafkaError._FATAL) and self._link is link:
                self._renew(failure)
            raise _explained(failure) from error

    def _trusted(self) -> None:
        """A producer keeps the certificate that it began with: once that is refused, another may read a renewed one."""
        if self._link.refused is None:
            return
        if time.monotonic() - self._link.began < _ANEW_SECONDS:
            raise away()
        self._renew(self._link.refused)

    def _renew(self, error: object) -> None:
        """A producer with a fatal error never sends again: take another."""
        log("error", "the Kafka producer has failed and is replaced", reason=str(error))
        try:
            former, self._link = self._link, _Link(Access.at(self._settings))
        except ConfigurationError as reason:
            log("error", "no other Kafka producer can be made", reason=str(reason))
            self._link.began = time.monotonic()
            raise away() from reason
        threading.Thread(target=former.close, args=(0.0,), name="deliveries-end", daemon=True).start()

    async def close(self, seconds: float) -> None:
        """Wait up to `seconds` for what is under way, then give it up."""
        await asyncio.to_thread(self._link.close, seconds)


def _queue(producer: Producer, topic: str, messages: Sequence[Message], batch: _Batch) -> None:
    for number, each in enumerate(messages):
        try:
            producer.produce(
                topic, each.value, each.key, each.partition,
                headers=[(HEADER, each.source)], on_delivery=batch.report,
            )  # fmt: skip
        except (BufferError, KafkaException) as error:
            failure = KafkaError(KafkaError._QUEUE_FULL) if isinstance(error, BufferError) else error.args[0]
            batch.settle(len(messages) - number, failure)
            return


def _explained(error: KafkaError) -> FastTrackError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return refused(413, "an event is larger than its topic takes.", where="body", fix="Send smaller ones.")
    log("warning", "Kafka did not take events", reason=str(error))
    return away()
