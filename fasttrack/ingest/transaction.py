"""One Kafka transaction: all of its messages or none, whoever is killed when (KIP-98)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from fasttrack.errors import ConflictError, FastTrackError
from fasttrack.ingest.access import DENIED, PASSING
from fasttrack.ingest.broker import Broker

# For how long the broker keeps an undecided transaction of a producer that is gone, and readers before it.
_TIMEOUT_SECONDS = 60.0
_STEP_SECONDS = 1.0
_ABORT_SECONDS = 5.0
_SETTINGS = {
    "acks": "all",
    "linger.ms": 20,
    # The broker says what is too large.
    "message.max.bytes": 1_000_000_000,
    "transaction.timeout.ms": int(_TIMEOUT_SECONDS * 1000),
    "message.timeout.ms": int(_TIMEOUT_SECONDS * 1000),
}
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
# What librdkafka would print of a fatal error is raised here, too.
_SILENT = logging.getLogger("fasttrack.transaction")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True)
class Sending:
    """A message on its way."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class _Sent:
    """What the broker says of messages, by their position."""

    offsets: list[int]
    failures: list[KafkaError] = field(default_factory=list)

    def note(self, at: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            offset = message.offset()
            self.offsets[at] = -1 if offset is None else offset
        else:
            self.failures.append(error)


class Transaction:
    """The transaction that its producer may make; `opened` is how to get one."""

    def __init__(self, broker: Broker, producer: Producer, name: str) -> None:
        self._broker, self._producer, self._name = broker, producer, name
        self._begun = False

    def send(self, messages: Sequence[Sending]) -> list[int]:
        """Send messages, which nobody reads before `commit`; the offset of each.

        Raises:
            ConflictError: another producer has opened a transaction of this name.
            UnavailableError: the broker did not take all of them.
            AuthorizationError, ConfigurationError: it refuses.
        """
        if not self._begun:
            self._ask(lambda _: self._producer.begin_transaction())
            self._begun = True
        sent = _Sent([-1] * len(messages))
        for at, each in enumerate(messages):
            self._queue(each, partial(sent.note, at))
        while len(self._producer) and not sent.failures:
            # Each message is given up by itself after its time, so this ends.
            self._serve(lambda: self._producer.flush(_STEP_SECONDS))
            self._broker.access.require()
        if sent.failures:
            raise self._failed(sent.failures[0])
        if min(sent.offsets, default=0) < 0:
            # Of what lies where nobody knows nothing could be said later: all is sent again.
            raise self._failed("it does not say where the messages are")
        return sent.offsets

    def _queue(self, message: Sending, note: Callable[[KafkaError | None, Message], None]) -> None:
        to = (message.topic, message.value, message.key, message.partition)
        while True:
            try:
                self._producer.produce(*to, headers=list(message.headers), on_delivery=note)
                return self._serve(lambda: self._producer.poll(0))
            except BufferError:
                self._serve(lambda: self._producer.poll(_STEP_SECONDS))
            except KafkaException as error:
                raise self._failed(error.args[0]) from error

    def _serve(self, poll: Callable[[], object]) -> None:
        try:
            poll()
        except KafkaException as error:
            raise self._failed(error.args[0]) from error
        except SystemError as error:
            # The client raises a fatal error, and calls back all the same: Python blames the function called.
            raise self._failed(str(error.__cause__)) from error

    def commit(self) -> None:
        """Make all that was sent visible at once.

        Raises:
            ConflictError: another producer has opened a transaction of this name, and this one is aborted.
            UnavailableError: the broker does not answer; whoever opens the next one of this name waits until it is
                known whether this one was committed.
        """
        self._begun = False
        self._ask(self._producer.commit_transaction)

    def _ask(self, question: Callable[[float], object]) -> None:
        """Ask until there is an answer or patience ends: what timed out goes on and may be asked for again."""
        deadline = time.monotonic() + self._broker.patience
        while True:
            try:
                question(_STEP_SECONDS)
                return
            except KafkaException as error:
                told = error.args[0]
                self._broker.access.require()
                passing = told.retriable() or told.code() in PASSING
                if not passing or told.fatal() or told.txn_requires_abort() or time.monotonic() > deadline:
                    raise self._failed(told) from error

    def _open(self) -> None:
        self._broker.access.forget()
        self._ask(self._producer.init_transactions)

    def _abort(self) -> int | None:
        """Let go, so that no reader waits; the broker does it by itself if it can't be told. What it says else."""
        if not self._begun:
            return None
        self._begun = False
        try:
            self._producer.purge()
            self._producer.abort_transaction(_ABORT_SECONDS)
        except KafkaException as error:
            return int(error.args[0].code())
        return None

    def _failed(self, told: KafkaError | str) -> FastTrackError:
        # Of a producer that is fenced one call says so, and others "fatal" or "purged".
        codes = {self._abort(), told.code() if isinstance(told, KafkaError) else None}
        if codes & _FENCED:
            return ConflictError(
                "another replay of dead letters has taken this one's place.", where=f"transaction {self._name}",
                fix="Wait for its end, then start again: what either sent is not sent twice.",
            )  # fmt: skip
        if isinstance(told, KafkaError) and told.code() in DENIED:
            return self._broker.access.denied(told)
        return self._broker.unavailable(told.str() if isinstance(told, KafkaError) else told)


@contextmanager
def opened(broker: Broker, name: str) -> Iterator[Transaction]:
    """Become the one producer that may make transactions of this name, for one transaction.

    Once this is there, all earlier ones of the name are decided: those that were not being committed are aborted, and
    whoever opened them can't send any more, requests on their way included (Kafka 4). What is not committed in the
    block is aborted. A producer of its own for each, so that no late request to end one can end the next (KAFKA-17754).

    Raises:
        UnavailableError: the broker does not answer.
        AuthorizationError, ConfigurationError: it refuses.
    """
    producer = Producer(broker.access.client() | _SETTINGS | {"transactional.id": name}, logger=_SILENT)
    transaction = Transaction(broker, producer, name)
    transaction._open()
    try:
        yield transaction
    finally:
        transaction._abort()
