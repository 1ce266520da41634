"""Messages that have to be in Kafka once, whoever is killed when, and wherever else somebody does the same.

An intent is committed to the table `replays`; its messages, and a receipt for them, are one Kafka transaction; an end
is committed to the table. The table's app transaction counts commits: an odd mark is an intent whose end is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from fasttrack.errors import ConflictError, NotFoundError
from fasttrack.ingest import transaction
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.deadletters import Place
from fasttrack.ingest.receipts import Receipt, Receipts
from fasttrack.ingest.transaction import Sending, Transaction
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.failures import storage
from fasttrack.lake.schemas import REPLAYS
from fasttrack.lake.storage import remote
from fasttrack.lake.tables import ensure, load, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: The header that names the dead letter that a message was sent for: ``<topic id>/<partition>/<offset>``.
HEADER = "deadletter"
_APP = "replays"
_APPEAR_SECONDS = 2.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Outgoing:
    """A dead letter on its way: a row of the table `replays`, `round` and moment aside.

    Attributes:
        stream, topic, topic_id, partition, offset: the dead letter.
        sent_topic_id, sent_partition: where it goes.
        sent_offset: the message's offset; None in an intent.
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
    sent_offset: int | None
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
        path = replays_path(settings, usecase)
        self._ledger = Ledger(path, _APP)
        owner = str(load(path).metadata().id)
        self._receipts = Receipts(broker, usecase.name, owner)
        self._name = f"{self._receipts.topic}.{owner}"
        self._last: Sequence[Outgoing] = []

    def _interrupted(self) -> bool:
        return (self._ledger.mark or 0) % 2 == 1

    def resume(self) -> int:
        """Finish what an interrupted replay began; how many messages that were.

        A replay that is still at work on it, on another machine, is stopped.

        Raises:
            ConflictError: another replay is at work.
            NotFoundError: its messages were not sent, and the use case has no such stream any more.
            StorageError: the lake can't be read or written.
            UnavailableError: the broker does not answer; run it again.
        """
        if not self._interrupted():
            return 0
        self._receipts.end()
        with transaction.opened(self._broker, self._name) as found:
            # Only now nobody is at work on it any more.
            self._ledger = Ledger(self._ledger.path, _APP)
            if not self._interrupted():
                return 0
            mine = (ds.field("state") == "intent") & (ds.field("round") == self._ledger.mark)
            rows = self._ledger.rows(REPLAYS.names, mine).to_pylist()
            messages = [Outgoing(**{name: row[name] for name in Outgoing.__dataclass_fields__}) for row in rows]
            done = self._settled(found, messages, rows[0]["replayed_at"], since=0)
        self._commit("done", done, datetime.now(UTC))
        return len(done)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Send messages, in the order given by partition; `sent_topic_id` and `sent_offset` are filled in here.

        Raises:
            ConflictError, StorageError, UnavailableError: as for `resume`.
        """
        since = self._receipts.end()
        planned = [replace(each, sent_topic_id=self._topics[each.stream].id) for each in messages]
        now = datetime.now(UTC)
        self._commit("intent", planned, now)
        with transaction.opened(self._broker, self._name) as found:
            # Another may have finished this round before the transaction was opened, and begun others.
            if Ledger(self._ledger.path, _APP).mark != self._ledger.mark:
                raise _busy(self._ledger.path)
            done = self._settled(found, planned, now, since)
        self._commit("done", done, datetime.now(UTC))

    def appear(self) -> None:
        """Wait until what was sent last can be read: a commit is answered before all partitions have heard of it.

        What another producer's open transaction hides isn't waited for longer.

        Raises:
            UnavailableError: the broker does not answer.
        """
        sent = {(self._topics[m.stream], m.sent_partition): m.sent_offset or 0 for m in self._last if self._here(m)}
        topics = {topic.name: topic for topic, _ in sent}
        deadline = time.monotonic() + _APPEAR_SECONDS
        while sent and time.monotonic() < deadline:
            held = self._broker.offsets(topics)
            if all(held[topic.name, partition].latest > offset for (topic, partition), offset in sent.items()):
                return
            time.sleep(_LOOK_SECONDS)

    def _here(self, message: Outgoing) -> bool:
        topic = self._topics.get(message.stream)
        return topic is not None and topic.id == message.sent_topic_id

    def _settled(self, found: Transaction, messages: Sequence[Outgoing], at: datetime, since: int) -> list[Outgoing]:
        """The messages of the open round with their offsets: those of a transaction that was committed, or of this one.

        Each transaction begins by looking for the receipts of those before it, all of which are decided by then. So
        only one that commits a round's messages can ever be.
        """
        ordered = sorted(messages, key=lambda each: each.place)
        number = self._ledger.mark or 0
        receipt = self._receipts.find(found, number, at, since)
        if receipt is None:
            ordered = [self._still(each) for each in ordered]
            receipt = self._sent(found, ordered, number, at)
        where = zip(ordered, receipt.partitions, receipt.offsets, strict=True)
        return [
            replace(each, sent_topic_id=receipt.topics[each.stream], sent_partition=partition, sent_offset=offset)
            for each, partition, offset in where
        ]

    def _still(self, message: Outgoing) -> Outgoing:
        """The same, for the topic as it is now: in one that was made again keys may have other partitions."""
        topic = self._topics.get(message.stream)
        if topic is None:
            raise NotFoundError(
                "a replay of its dead letters was interrupted, and the use case no longer has the stream.",
                where=f"stream {message.stream}", fix="Replay once more with the use case as it was.",
            )  # fmt: skip
        if self._here(message):
            return message
        return replace(message, sent_topic_id=topic.id, sent_partition=partition_of(topic.partitions, message.key))

    def _sent(self, found: Transaction, messages: Sequence[Outgoing], number: int, at: datetime) -> Receipt:
        used = {each.stream: self._topics[each.stream] for each in messages}
        offsets = found.send(
            [
                Sending(used[m.stream].name, m.sent_partition, m.key, m.value or b"", ((HEADER, m.mark),))
                for m in messages
            ]
        )
        ids = {stream: topic.id for stream, topic in used.items()}
        receipt = Receipt(number, at.isoformat(), ids, [each.sent_partition for each in messages], offsets)
        self._receipts.send(found, receipt)
        # Messages are sent by name: a topic that was made again meanwhile is not the one of the receipt.
        held = self._broker.require([topic.name for topic in used.values()])
        if any(held[topic.name].id != topic.id for topic in used.values()):
            raise ConflictError(
                "a topic was deleted and made again while a replay was sending.",
                where=", ".join(topic.name for topic in used.values()), fix="Start again: nothing of it was sent.",
            )  # fmt: skip
        found.commit()
        return receipt

    def _commit(self, state: str, messages: Sequence[Outgoing], at: datetime) -> None:
        mark = (self._ledger.mark or 0) + 1
        number = mark if state == "intent" else mark - 1
        kept = messages if state == "intent" else [replace(each, key=None, value=None) for each in messages]
        rows = [{**vars(each), "state": state, "round": number, "replayed_at": at} for each in kept]
        try:
            self._ledger.append(pa.Table.from_pylist(rows, REPLAYS), mark)
        except Fenced as error:
            raise _busy(self._ledger.path) from error
        self._last = kept if state == "done" else []


def partition_of(stream_partitions: int, key: bytes | None) -> int:
    """The partition of a key, as a replay of history has it."""
    return zlib.crc32(key or b"") % stream_partitions


@contextmanager
def opened(usecase: UseCase, settings: Settings, broker: Broker, topics: Mapping[str, Topic]) -> Iterator[Outbox]:
    """The outbox of a use case, for one process at a time.

    The lock only spares two replays on one machine (or disk) each other's work, and goes with its process; what keeps
    the order is the mark, and Kafka, which knows one producer of the transaction's name.

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
        fix="Wait for its end, then start again: what either sent is not sent twice.",
    )
