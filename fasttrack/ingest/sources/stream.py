"""A topic of another Kafka cluster, read by partition and offset, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fasttrack.errors import AuthorizationError, ConfigurationError, DataLossError, UnavailableError
from fasttrack.ingest.access import PASSING
from fasttrack.ingest.broker import Broker, Offsets, Topic
from fasttrack.ingest.security import security
from fasttrack.ingest.sources.documents import document
from fasttrack.ingest.sources.source import Batch, Position, Record
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import StreamSource

_RECORDS = 5_000
#: The runner waits longer the longer it lasts, so that one attempt needn't.
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_DENIED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                     KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})  # fmt: skip
# The client looks for the group's coordinator, which nobody here needs: no right to the group is no fault.
_HARMLESS = frozenset({KafkaError._PARTITION_EOF, KafkaError.GROUP_AUTHORIZATION_FAILED})
_NO_OFFSET = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class TopicReader:
    """Reads all partitions of a topic; a partition that is added later is read from its beginning.

    The position has the topic's id, so that a topic that is deleted and made again isn't taken for the old one, and of
    each partition the next offset. Transactions that the other side aborted are left out.

    Args:
        usecase: the use case.
        name: the source's name.
        source: its description.
        environment: where `connection_env` stands.

    Raises:
        ConfigurationError: `connection_env` isn't set, or what stands beside it can't be used
            (`fasttrack.ingest.security`).
    """

    def __init__(self, usecase: UseCase, name: str, source: StreamSource, environment: Mapping[str, str]) -> None:
        self._source = source
        self._where = f"sources.{name}"
        bootstrap = environment.get(source.connection_env, "")
        if not bootstrap:
            raise ConfigurationError(
                f"{source.connection_env} is not set.", where=f"{self._where}.connection_env",
                fix=f"Set {source.connection_env}=host:port[,host:port].",
            )  # fmt: skip
        chosen = security(source.connection_env, environment)
        self._broker = Broker(bootstrap, _PATIENCE_SECONDS, chosen)
        self._consumer: Consumer | None = None
        self._topic: Topic | None = None
        self._next: dict[int, int] = {}
        self._broken = False

    def open(self, position: Position | None) -> None:
        """Begin after `position`; None: with the earliest message of each partition.

        Raises:
            UnavailableError: the cluster doesn't answer.
            ConfigurationError: there is no such topic, or no right to read it.
            DataLossError: messages were deleted before they were read, or the topic was made again.
        """
        self.close()
        try:
            topic = self._broker.topics([self._source.topic]).get(self._source.topic)
            if topic is None:
                raise ConfigurationError(
                    f"there is no topic {self._source.topic!r} at {self._broker.bootstrap}.",
                    where=f"{self._where}.topic", fix="Correct the name, or let its owner make it.",
                )  # fmt: skip
            held = {partition: span for (_, partition), span in self._broker.offsets({topic.name: topic}).items()}
        except KafkaException as error:
            raise self._refused(error.args[0]) from error
        except AuthorizationError as error:
            raise self._refused(error.what.rstrip(".")) from error
        if position is not None and position["topic_id"] != topic.id:
            raise self._lost("the topic was deleted and made again since it was read.")
        known = {int(p): offset for p, offset in (position or {"offsets": {}})["offsets"].items()}
        self._topic = topic
        self._next = {partition: self._begin(partition, span, known) for partition, span in held.items()}
        self._consumer = self._assigned()

    def _begin(self, partition: int, span: Offsets, known: Mapping[int, int]) -> int:
        offset = known.get(partition)
        if offset is None:
            return span.earliest
        if offset < span.earliest:
            raise self._lost(f"partition {partition} begins at {span.earliest:,}, {offset:,} is needed.")
        if offset > span.latest:
            try:
                # A broker that has just started shows less than it has, for a while.
                self._broker.holding(self._require_topic(), partition, offset)
            except DataLossError as error:
                raise self._lost(f"partition {partition} ends at {span.latest:,}, {offset:,} was reached.") from error
        return offset

    def _assigned(self) -> Consumer:
        # A group is never joined and nothing committed: the position is ours. Its name only shows in the logs.
        settings = {
            "group.id": "fasttrack-ingest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 32 * 2**10,
        }
        consumer = Consumer(self._broker.access.client() | settings)
        name = self._require_topic().name
        consumer.assign([TopicPartition(name, partition, offset) for partition, offset in self._next.items()])
        return consumer

    def read(self, seconds: float) -> Batch | None:
        """The next messages; None if none came within `seconds`.

        Raises:
            UnavailableError: the cluster stopped answering; the next `read` connects anew.
            ConfigurationError: the right to read was taken away.
            DataLossError: messages were deleted before they were read.
        """
        if self._broken:
            self.open(self._position())
        if self._consumer is None:
            raise UnavailableError("the source is not open.", where=self._where)
        deadline = time.monotonic() + seconds
        while True:
            messages = self._consumer.consume(_RECORDS, max(0.0, min(_POLL_SECONDS, deadline - time.monotonic())))
            self._broker.access.require()
            records = [self._record(message) for message in messages if message.error() is None]
            if records:
                # Errors among them come again.
                return Batch(records, self._position())
            for message in messages:
                self._fault(message)
            if time.monotonic() >= deadline:
                self._same_topic()
                return None

    def _record(self, message: Message) -> Record:
        partition, offset, value = message.partition(), message.offset(), message.value()
        assert partition is not None and offset is not None
        self._next[partition] = offset + 1
        identity = f"{self._require_topic().id}/{partition}/{offset}"
        key = message.key()
        key = key.encode() if isinstance(key, str) else key
        raw = value.encode() if isinstance(value, str) else value
        if self._source.value == "event":
            return Record(identity, None, raw, key)
        return Record(identity, _document(raw), raw)

    def _fault(self, message: Message) -> None:
        error = message.error()
        if error is None or error.code() in _HARMLESS:
            return
        if error.code() in _DENIED:
            raise self._refused(error)
        self._broken = True
        if error.code() in _NO_OFFSET:
            # `open` finds out whether the messages are gone.
            raise UnavailableError(f"lost its place ({error.str()}).", where=self._where, fix="It is tried again.")
        if error.code() in PASSING or error.retriable():
            raise self._unavailable(error)
        raise self._refused(error)

    def _same_topic(self) -> None:
        """A topic that is gone, or that grew, shows no message that says so."""
        ours = self._require_topic()
        try:
            found = self._broker.topics([ours.name]).get(ours.name)
        except (UnavailableError, KafkaException) as error:
            self._broken = True
            raise self._unavailable(error) from error
        if found is None or found.id != ours.id:
            raise self._lost("the topic was deleted.")
        self._broken = found.partitions != ours.partitions

    def committed(self, position: Position) -> None:
        """Nothing to do: the topic keeps its messages, and its owner says how long."""

    def lag(self) -> float | None:
        """How many messages lie behind what was read; None while the cluster doesn't answer."""
        if self._topic is None:
            return None
        try:
            held = self._broker.offsets({self._topic.name: self._topic})
        except (UnavailableError, KafkaException):
            return None
        return float(sum(max(0, span.latest - self._next.get(at[1], span.earliest)) for at, span in held.items()))

    def expected(self, identities: Collection[str]) -> set[str]:
        """Messages that were not read yet: partitions don't take turns in the same way again."""
        ours, found = self._require_topic().id, set()
        for identity in identities:
            topic, _, place = identity.partition("/")
            partition, _, offset = place.partition("/")
            if topic == ours and offset.isdigit() and int(offset) >= self._next.get(int(partition), 0):
                found.add(identity)
        return found

    def close(self) -> None:
        """Let go of the connections."""
        self._broken = False
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _position(self) -> Position:
        offsets = {str(partition): offset for partition, offset in sorted(self._next.items())}
        return {"topic_id": self._require_topic().id, "offsets": offsets}

    def _require_topic(self) -> Topic:
        assert self._topic is not None
        return self._topic

    def _lost(self, what: str) -> DataLossError:
        return DataLossError(
            f"topic {self._source.topic}: {what}", where=self._where,
            fix="Restore the messages and let the topic keep them longer, or give the source another name to begin "
            "with what there is.",
        )  # fmt: skip

    def _unavailable(self, error: object) -> UnavailableError:
        return UnavailableError(
            f"the cluster doesn't answer ({error}).", where=f"{self._where}: Kafka at {self._broker.bootstrap}",
            fix="It is tried again; check that the brokers run.",
        )  # fmt: skip

    def _refused(self, error: Any) -> ConfigurationError:
        return ConfigurationError(
            f"topic {self._source.topic} can't be read: {error}.", where=self._where, fix="Ask its owner for the right."
        )


def _document(value: bytes | None) -> dict[str, Any] | None:
    """The JSON object in a message; None if it holds anything else. A schema registry's header is left out."""
    if value is None:
        return None
    return document(value[5:] if value[:1] == b"\0" and len(value) > 5 else value)
