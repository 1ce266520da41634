"""What is asked of the Kafka cluster itself: topics, their ids, the offsets they hold."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from fasttrack.errors import ConfigurationError, ConflictError, DataLossError, NotFoundError, UnavailableError

PATIENCE_SECONDS = 60.0
#: A broker that nobody has met yet is rather down than about to be back.
GREETING_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_RECOVERY_SECONDS = 15.0
_RETRY_SECONDS = 0.2
_PORT = 9092
_SEGMENT_MS = "600000"
_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]

#: Not marked retriable by librdkafka, but over once the broker is back.
PASSING = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE,
     KafkaError.REQUEST_TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
     KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_CONTROLLER,
     KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._WAIT_COORD,
     KafkaError.OFFSET_NOT_AVAILABLE, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.FENCED_LEADER_EPOCH,
     KafkaError.KAFKA_STORAGE_ERROR, KafkaError.BROKER_NOT_AVAILABLE, KafkaError.UNKNOWN, KafkaError._UNKNOWN_TOPIC,
     KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_BROKER, KafkaError._NODE_UPDATE, KafkaError._WAIT_CACHE,
     # What list_offsets says while partitions have no leader.
     KafkaError._NOENT}
)  # fmt: skip

Answer = TypeVar("Answer")


def client_settings(bootstrap: str) -> dict[str, Any]:
    """What every Kafka client of FastTrack is set to.

    librdkafka logs each refused connection to stderr and waits up to 10 s between attempts; errors are raised (or
    noted) by the callers here instead, and a broker that comes back is found within 0.5 s.
    """
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "fasttrack",
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "log_level": 0,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "metadata.max.age.ms": 30_000,
    }


@dataclass(frozen=True)
class Topic:
    """A topic as it is now.

    Attributes:
        name: its name.
        id: the broker's id of it: a topic that is deleted and made again has another.
        partitions: how many there are.
    """

    name: str
    id: str
    partitions: int


@dataclass(frozen=True)
class Offsets:
    """The messages of one partition: offsets ``earliest <= offset < latest``."""

    earliest: int
    latest: int


@dataclass
class Broker:
    """A Kafka cluster.

    Args:
        bootstrap: ``host:port[,host:port]``.
        patience: how many seconds a restarting broker is waited for.
    """

    bootstrap: str
    patience: float = field(default_factory=lambda: PATIENCE_SECONDS)
    _admin: AdminClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._admin = AdminClient(client_settings(self.bootstrap))

    def unavailable(self, error: object) -> UnavailableError:
        """The error that says that the broker does not answer."""
        return UnavailableError(
            f"the Kafka broker does not answer ({error}).", where=self.bootstrap,
            fix="Check that it runs (`fasttrack status`) and start again: it goes on where it stopped.",
        )  # fmt: skip

    def greet(self) -> None:
        """Make sure that the cluster is there at all, before a command relies on it.

        librdkafka tells a refused connection and a slow answer alike, so that this takes a connection of its own: one
        that is refused is given up sooner than the broker that restarts in the middle of the work, which `patience`
        is for. One that is only slow to answer isn't given up here.

        Raises:
            UnavailableError: no server accepts a connection.
            ConfigurationError: the addresses can't be read.
        """
        servers = [_server(text) for text in self.bootstrap.split(",")]
        deadline = time.monotonic() + min(self.patience, GREETING_SECONDS)
        while True:
            for server in servers:
                try:
                    socket.create_connection(server, timeout=GREETING_SECONDS).close()
                    return
                except OSError as error:
                    refusal = error
            if time.monotonic() > deadline:
                raise self.unavailable(refusal.strerror or refusal) from refusal
            time.sleep(_RETRY_SECONDS)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer or patience ends; errors that waiting can't mend are passed on."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return question()
            except KafkaException as error:
                code = error.args[0]
                lasting = isinstance(code, KafkaError) and not code.retriable() and code.code() not in PASSING
                if lasting or time.monotonic() > deadline:
                    if lasting:
                        raise
                    raise self.unavailable(code) from error
            except TimeoutError as error:
                if time.monotonic() > deadline:
                    raise self.unavailable("timed out") from error
            time.sleep(_RETRY_SECONDS)

    def cluster_id(self) -> str:
        """The cluster's id.

        Raises:
            UnavailableError: the broker does not answer.
        """
        return str(self._ask(lambda: _result(self._admin.describe_cluster(request_timeout=_ANSWER_SECONDS))).cluster_id)

    def topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Those of the named topics that exist.

        Raises:
            UnavailableError: the broker does not answer.
        """
        wanted = list(names)
        futures = self._ask(lambda: self._describe(wanted))
        return {name: Topic(name, str(t.topic_id), len(t.partitions)) for name, t in futures.items()}

    def _describe(self, names: list[str]) -> dict[str, Any]:
        found = {}
        futures = self._admin.describe_topics(TopicCollection(names), request_timeout=_ANSWER_SECONDS)
        for name, future in futures.items():
            try:
                found[name] = _result(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def offsets(self, topics: Mapping[str, Topic]) -> dict[tuple[str, int], Offsets]:
        """What each partition holds now.

        Raises:
            UnavailableError: the broker does not answer.
        """
        every = [TopicPartition(t.name, p) for t in topics.values() for p in range(t.partitions)]
        if not every:
            return {}
        low = self._ask(lambda: self._list(every, _EARLIEST))
        high = self._ask(lambda: self._list(every, _LATEST))
        return {at: Offsets(low[at], high[at]) for at in low}

    def holding(self, topic: Topic, partition: int, offset: int | None) -> Offsets:
        """What a partition holds now, in which `offset` (None: any) must be a message's or the next one's.

        Raises:
            DataLossError: that offset is gone, or was never there.
            UnavailableError: the broker does not answer.
        """
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while True:
            held = self.offsets({topic.name: topic})[topic.name, partition]
            if offset is None or held.earliest <= offset <= held.latest:
                return held
            # A broker that has just started shows less than it has until it has read its logs.
            if offset < held.earliest or time.monotonic() > deadline:
                raise DataLossError(
                    f"the lake needs offset {offset}, the broker has {held.earliest} to {held.latest}.",
                    where=f"topic {topic.name}, partition {partition}",
                    fix="Events were deleted before they were drained: restore them and raise the topic's retention, "
                    "or drain into a new lake.",
                )
            time.sleep(_RETRY_SECONDS)

    def _list(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        # What a transaction has not decided on yet can't be read, so it is not there yet.
        settled = IsolationLevel.READ_COMMITTED
        futures = self._admin.list_offsets(
            dict.fromkeys(partitions, spec), isolation_level=settled, request_timeout=_ANSWER_SECONDS
        )
        return {(at.topic, at.partition): int(_result(future).offset) for at, future in futures.items()}

    def create(self, partitions: Mapping[str, int], compacted: bool = False) -> None:
        """Create those topics that are missing.

        Args:
            partitions: for each topic, how many.
            compacted: keep the newest message of each key only.

        Raises:
            ConflictError: a topic exists with fewer partitions than asked: keys would change partition if it grew.
            UnavailableError: the broker does not answer.
        """
        existing = self.topics(partitions)
        for name, count in partitions.items():
            if name in existing and existing[name].partitions != count:
                raise ConflictError(
                    f"has {existing[name].partitions} partitions, the use case says {count}.", where=f"topic {name}",
                    fix="Set `partitions` to what the topic has, or give the stream a new `topic`.",
                )  # fmt: skip
        # Only closed segments are compacted, and who starts reads them all.
        config = {"cleanup.policy": "compact", "segment.ms": _SEGMENT_MS} if compacted else {}
        new = [NewTopic(name, count, config=config) for name, count in partitions.items() if name not in existing]
        if new:
            self._ask(lambda: self._make(new))
            self._ask(lambda: self._wait_for([topic.topic for topic in new]))

    def _make(self, topics: list[NewTopic]) -> None:
        for future in self._admin.create_topics(topics, request_timeout=_ANSWER_SECONDS).values():
            try:
                _result(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def _wait_for(self, names: list[str]) -> None:
        # A new topic is known to the brokers a moment after it is made, its leaders a moment later.
        topics = {name: Topic(name, str(t.topic_id), len(t.partitions)) for name, t in self._describe(names).items()}
        if len(topics) < len(names):
            raise TimeoutError
        self._list([TopicPartition(t.name, p) for t in topics.values() for p in range(t.partitions)], _LATEST)

    def require(self, names: Iterable[str]) -> dict[str, Topic]:
        """The named topics, all of which must exist.

        Raises:
            NotFoundError: one is missing.
            UnavailableError: the broker does not answer.
        """
        wanted = list(names)
        found = self.topics(wanted)
        if missing := [name for name in wanted if name not in found]:
            raise NotFoundError(
                f"there is no topic {', '.join(missing)}.", where=self.bootstrap, fix="Run `fasttrack replay` first."
            )
        return found


def _result(future: Future[Any]) -> Any:
    return future.result(timeout=_ANSWER_SECONDS + 5)


def _server(text: str) -> tuple[str, int]:
    """Host and port of one of the bootstrap servers, such as ``PLAINTEXT://kafka:9092`` or ``[::1]:9092``."""
    try:
        address = urlsplit("//" + text.strip().rpartition("://")[2])
        if address.hostname:
            return address.hostname, address.port or _PORT
        what = "has no host"
    except ValueError as error:
        what = str(error)
    raise ConfigurationError(
        f"{text!r} is not an address: {what}.", where="FASTTRACK_KAFKA", fix="Give host:port[,host:port]."
    )
