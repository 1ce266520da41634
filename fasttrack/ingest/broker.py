"""What is asked of the Kafka cluster itself: topics, their ids, the offsets they hold."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from fasttrack.errors import (
    AuthorizationError,
    ConflictError,
    DataLossError,
    NotFoundError,
    UnavailableError,
)
from fasttrack.ingest.access import DENIED, PASSING, Access
from fasttrack.settings import Settings

PATIENCE_SECONDS = 60.0
#: A broker that nobody has met yet is rather down than about to be back.
GREETING_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_RECOVERY_SECONDS = 15.0
_RETRY_SECONDS = 0.2
_LOOK_SECONDS = 0.2
_SEGMENT_MS = "600000"
_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]

Answer = TypeVar("Answer")


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
        security: of `fasttrack.ingest.security.security`; `at` asks the settings for it.
    """

    bootstrap: str
    patience: float = field(default_factory=lambda: PATIENCE_SECONDS)
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: The settings of all clients of this cluster come from here.
    access: Access = field(init=False, repr=False)
    _admin: AdminClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.access = Access(self.bootstrap, self.security)
        self._admin = AdminClient(self.access.client())

    @classmethod
    def at(cls, settings: Settings, patience: float | None = None) -> Broker:
        """FastTrack's own cluster.

        Raises:
            ConfigurationError: its address isn't set, or its security can't be used.
        """
        way = Access.at(settings)
        return cls(way.bootstrap, PATIENCE_SECONDS if patience is None else patience, way.security)

    def unavailable(self, error: object) -> UnavailableError:
        """The error that says that the broker does not answer."""
        return UnavailableError(
            f"the Kafka broker does not answer ({self.access.reason(error)}).", where=self.bootstrap,
            fix="Check that it runs (`fasttrack status`) and start again: it goes on where it stopped.",
        )  # fmt: skip

    def fault(self, error: KafkaError) -> UnavailableError | AuthorizationError:
        """What a client was told: that it lacks a right, else that the broker does not answer."""
        return self.access.denied(error) if error.code() in DENIED else self.unavailable(error.str())

    def greet(self) -> None:
        """Make sure that the cluster is there at all, before a command relies on it.

        librdkafka tells a refused connection and a slow answer alike, so that this takes a connection of its own: one
        that is refused is given up sooner than the broker that restarts in the middle of the work, which `patience`
        is for. One that is only slow to answer isn't given up here.

        Raises:
            UnavailableError: no server accepts a connection.
            ConfigurationError: the addresses can't be read.
        """
        servers = self.access.servers()
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
        self.access.forget()
        while True:
            try:
                return question()
            except KafkaException as error:
                code = error.args[0]
                if isinstance(code, KafkaError) and code.code() in DENIED:
                    raise self.access.denied(code) from error
                lasting = isinstance(code, KafkaError) and not code.retriable() and code.code() not in PASSING
                if lasting or time.monotonic() > deadline:
                    if lasting:
                        raise
                    raise self.unavailable(code) from error
            except TimeoutError as error:
                if time.monotonic() > deadline:
                    raise self.unavailable("timed out") from error
            time.sleep(_RETRY_SECONDS)

    def _result(self, future: Future[Any]) -> Any:
        """What a question gives; whoever refuses us meanwhile never answers it."""
        deadline = time.monotonic() + _ANSWER_SECONDS + 5
        while True:
            try:
                return future.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                # Only here are the callbacks called that `access` listens with.
                self._admin.poll(0)
                self.access.require()
                if time.monotonic() > deadline:
                    raise

    def cluster_id(self) -> str:
        """The cluster's id.

        Raises:
            UnavailableError: the broker does not answer.
        """
        asked = self._admin.describe_cluster
        return str(self._ask(lambda: self._result(asked(request_timeout=_ANSWER_SECONDS))).cluster_id)

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
                found[name] = self._result(future)
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
        deadline = None
        while True:
            held = self.offsets({topic.name: topic})[topic.name, partition]
            # From the first answer on, which may have been waited for.
            deadline = deadline or time.monotonic() + _RECOVERY_SECONDS
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
        found = {(at.topic, at.partition): int(self._result(future).offset) for at, future in futures.items()}
        if any(offset < 0 for offset in found.values()):
            # A broker that comes back after kill -9 was seen to name no offset (-1001) and no error either.
            raise TimeoutError
        return found

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
                self._result(future)
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
