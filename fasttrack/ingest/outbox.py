"""Messages that have to be in Kafka once, whoever is killed when: intents before, ends after, headers to tell.

The table `replays` is both. Its app transaction counts commits: an odd mark is an intent whose end is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from fasttrack.errors import ConflictError, NotFoundError
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.deadletters import Place
from fasttrack.ingest.publisher import Publisher
from fasttrack.ingest.scan import scan
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.failures import storage
from fasttrack.lake.schemas import REPLAYS
from fasttrack.lake.storage import remote
from fasttrack.lake.tables import ensure, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: The header that names the dead letter that a message was sent for: ``<topic id>/<partition>/<offset>``.
HEADER = "deadletter"
_APP = "replays"


@dataclass(frozen=True)
class Outgoing:
    """A dead letter on its way: a row of the table `replays`, `round` and moment aside.

    Attributes:
        stream, topic, topic_id, partition, offset: the dead letter.
        sent_topic_id, sent_partition: where it goes.
        sent_offset: the partition's end when the intent is committed; then the message's own offset.
        key, value: what is sent.
        fixed: whether it is not what the dead letter held.
        contract_version: of the contract that accepts it.
    """

    stream: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    sent_topic_id: str
    sent_partition: int
    sent_offset: int
    key: bytes | None
    value: bytes | None
    fixed: bool
    contract_version: str | None

    @property
    def place(self) -> Place:
        """What tells the dead letter from all others."""
        return self.topic_id, self.partition, self.offset

    @property
    def mark(self) -> bytes:
        """The header's text."""
        return "/".join(map(str, self.place)).encode()


class Outbox:
    """Sends dead letters to their streams' topics.

    Args:
        usecase: whose.
        settings: needs `kafka` and `lake`.
        topics: the streams' topics as they are now.
    """

    def __init__(self, usecase: UseCase, settings: Settings, broker: Broker, topics: Mapping[str, Topic]) -> None:
        self._broker, self._topics = broker, topics
        self._publisher = Publisher(broker)
        self._ledger = Ledger(replays_path(settings, usecase), _APP)

    @property
    def _open(self) -> bool:
        return (self._ledger.mark or 0) % 2 == 1

    def resume(self) -> int:
        """Finish what an interrupted replay began; how many messages that were.

        Raises:
            ConflictError: another replay is at work.
            StorageError: the lake can't be read or written.
            UnavailableError: the broker does not answer; run it again.
        """
        if not self._open:
            return 0
        mine = (ds.field("state") == "intent") & (ds.field("round") == self._ledger.mark)
        rows = self._ledger.rows(REPLAYS.names, mine).to_pylist()
        found = [self._still(Outgoing(**{name: row[name] for name in Outgoing.__dataclass_fields__})) for row in rows]
        self._finish(found, self._sent(found))
        return len(found)

    def _still(self, message: Outgoing) -> Outgoing:
        """The same, for the topic as it is now: one that was made again is looked through from its beginning."""
        topic = self._topics.get(message.stream)
        if topic is None:
            raise NotFoundError(
                "a replay of its dead letters was interrupted, and the use case no longer has the stream.",
                where=f"stream {message.stream}", fix="Replay once more with the use case as it was.",
            )  # fmt: skip
        if message.sent_topic_id == topic.id:
            return message
        partition = partition_of(topic.partitions, message.key)
        return replace(message, sent_topic_id=topic.id, sent_partition=partition, sent_offset=0)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Send messages, whose `sent_topic_id` and `sent_offset` are filled in here.

        Raises:
            ConflictError, StorageError, UnavailableError: as for `resume`.
        """
        held = self._broker.offsets({topic.name: topic for topic in self._topics.values()})
        planned = []
        for each in messages:
            topic = self._topics[each.stream]
            end = held[topic.name, each.sent_partition].latest
            planned.append(replace(each, sent_topic_id=topic.id, sent_offset=end))
        self._commit("intent", planned)
        self._finish(planned, {})

    def _finish(self, messages: Sequence[Outgoing], sent: dict[Place, tuple[str, int]]) -> None:
        left = [each for each in messages if each.place not in sent]
        for each in left:
            topic = self._topics[each.stream].name
            self._publisher.send_marked(topic, each.sent_partition, each.key, each.value or b"", (HEADER, each.mark))
        self._publisher.flush()
        sent = sent | self._sent(left)
        if any(each.place not in sent for each in messages):
            raise self._broker.unavailable("it does not show what was sent")
        done = [replace(m, sent_topic_id=sent[m.place][0], sent_offset=sent[m.place][1]) for m in messages]
        self._commit("done", [replace(each, key=None, value=None) for each in done])

    def _sent(self, messages: Sequence[Outgoing]) -> dict[Place, tuple[str, int]]:
        """The topic id and offset of those messages that Kafka has."""
        found: dict[Place, tuple[str, int]] = {}
        for stream in {each.stream for each in messages}:
            topic = self._topics[stream]
            held = self._broker.offsets({topic.name: topic})
            for partition in {each.sent_partition for each in messages if each.stream == stream}:
                mine = [m for m in messages if m.stream == stream and m.sent_partition == partition]
                marks = {each.mark: each.place for each in mine}
                low = min(each.sent_offset for each in mine)
                at = held[topic.name, partition]
                for message in scan(self._broker, topic.name, partition, max(low, at.earliest), at.latest - 1):
                    place = _marked(message.headers(), marks)
                    if place is not None:
                        found.setdefault(place, (topic.id, int(message.offset() or 0)))
        return found

    def _commit(self, state: str, messages: Sequence[Outgoing]) -> None:
        mark = (self._ledger.mark or 0) + 1
        number = mark if state == "intent" else mark - 1
        now = datetime.now(UTC)
        rows = [{**vars(each), "state": state, "round": number, "replayed_at": now} for each in messages]
        try:
            self._ledger.append(pa.Table.from_pylist(rows, REPLAYS), mark)
        except Fenced as error:
            raise _busy(self._ledger.path) from error


def _marked(headers: Any, marks: Mapping[bytes, Place]) -> Place | None:
    return next((marks[value] for name, value in headers or [] if name == HEADER and value in marks), None)


def partition_of(stream_partitions: int, key: bytes | None) -> int:
    """The partition of a key, as a replay of history has it."""
    return zlib.crc32(key or b"") % stream_partitions


@contextmanager
def opened(usecase: UseCase, settings: Settings, broker: Broker, topics: Mapping[str, Topic]) -> Iterator[Outbox]:
    """The outbox of a use case, for one process at a time.

    The lock only spares two replays each other's work, and goes with its process; what keeps the order is the mark.

    Raises:
        ConflictError: another replay is at work.
        StorageError: the disk refused.
    """
    path = replays_path(settings, usecase)
    ensure(path, REPLAYS)
    with storage(path):
        file = _lock(path).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(path) from error
        yield Outbox(usecase, settings, broker, topics)


def _lock(path: str) -> Path:
    """Beside the table, for all machines that share the disk; of an object store's for those on this machine."""
    if not remote(path):
        return Path(path) / "_replaying"
    return Path(tempfile.gettempdir()) / f"fasttrack-replaying-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def _busy(path: str) -> ConflictError:
    return ConflictError(
        "another replay of dead letters is at work.",
        where=path,
        fix="Wait for its end: what it does is not done twice.",
    )
