"""One drain worker: a consumer of the group and the writers of its partitions; run by `fasttrack.ingest.work`."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, cast

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fasttrack.errors import DataLossError
from fasttrack.ingest.access import PASSING
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.buffer import Buffer, runs
from fasttrack.ingest.holes import filled
from fasttrack.ingest.job import Job
from fasttrack.ingest.member import member, pause, show_lag
from fasttrack.ingest.partition import PartitionWriter, StreamContext
from fasttrack.lake.append import Fenced
from fasttrack.progress import note

# So few that they are still in the processor's cache when they are looked at; 20,000 cost twice as much each.
_FETCH = 500
_POLL_SECONDS = 0.1
# Nobody waits for an answer, and a broker that is killed again and again answers one worker and not the other.
_PATIENCE_SECONDS = 180.0
_TELL_SECONDS = 5.0
# Of a worker's partitions together.
_BUFFER_BYTES = 128 * 2**20

# Passing troubles: the client goes on by itself.
_PASSING = PASSING | {KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED}
_GONE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._UNKNOWN_TOPIC,
                   KafkaError._UNKNOWN_PARTITION, KafkaError.INCONSISTENT_TOPIC_ID})  # fmt: skip


class Worker:
    """Consumes, buffers by partition, commits; see DESIGN's drain section.

    Args:
        job: the orders.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._streams = {topic.name: name for name, topic in job.topics.items()}
        self._broker = Broker.at(job.settings, _PATIENCE_SECONDS)
        self._contexts = {name: StreamContext(job.usecase, job.settings, name) for name in job.topics}
        self._buffers: dict[tuple[str, int], Buffer] = {}
        self._failure: BaseException | None = None
        self._told = 0.0
        #: Set to finish: commit what is buffered, leave the group, return.
        self.stop = threading.Event()
        #: Set when the parent is gone: leave at once.
        self.orphaned = threading.Event()
        self._consumer = member(job, self._broker.access)

    def run(self) -> None:
        """Drain until told to stop.

        Raises:
            DataLossError: offsets that the lake still needs are gone, or a topic was deleted meanwhile.
            StorageError: the lake can't be written; nothing is lost.
            UnavailableError: broker, registry or object store do not answer.
            ConfigurationError, AuthorizationError: the broker no longer lets us in, or read.
        """
        subscribed = list(self._streams)
        self._consumer.subscribe(subscribed, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            while not self.stop.is_set() and not self.orphaned.is_set():
                messages = self._consumer.consume(min(_FETCH, self._job.batch_events), _POLL_SECONDS)
                if self._failure is not None:
                    # First, as what follows from it (a partition assigned without an offset) looks like lost data.
                    raise self._failure
                self._broker.access.require()
                self._take(messages)
                self._commit_due()
                self._tell()
            if not self.orphaned.is_set():
                for at in list(self._buffers):
                    self._commit(at, last=True)
        finally:
            # Buffers are emptied first: leaving the group calls `_revoked`, which must not commit after a failure.
            self._buffers.clear()
            self._consumer.close()

    def _take(self, messages: list[Message]) -> None:
        faults = [message for message in messages if message.error() is not None]
        if faults:
            for message in faults:
                self._fault(message)
            messages = [message for message in messages if message.error() is None]
        for at, run in runs(messages, len(self._streams) > 1):
            self._add(at, run)
        for message in faults:
            # Only now, as what came before it is in the buffers.
            if cast(KafkaError, message.error()).code() == KafkaError._PARTITION_EOF:
                self._ended((str(message.topic()), cast(int, message.partition())), cast(int, message.offset()))

    def _ended(self, at: tuple[str, int], offset: int) -> None:
        """At the partition's end: should what is wanted end with a hole, no message will come that shows it."""
        buffer = self._buffers.get(at)
        if buffer is not None:
            buffer.ended = offset
            self._pass_end(at)

    def _pass_end(self, at: tuple[str, int]) -> None:
        """Pass over what stands behind a partition's last message: once Kafka deletes it, it would look like a loss."""
        buffer = self._buffers[at]
        upto = buffer.ended if buffer.end is None else buffer.end
        if not buffer.next < upto <= buffer.ended or (buffer.end is None and buffer.values):
            return
        buffer.holes.append((buffer.next, upto))
        buffer.next = upto
        if self._sure(at) and not buffer.values:
            buffer.writer.pass_over(upto)
            self._buffers[at] = buffer.emptied()

    def _add(self, at: tuple[str, int], messages: list[Message]) -> None:
        buffer = self._buffers.get(at)
        if buffer is None or buffer.done:
            return
        buffer.add(messages)
        # Once the client is known to be in its place, what it passes over is most likely nothing, and asked for with
        # the whole batch: a topic with transactions has a hole behind each.
        if buffer.holes and not buffer.placed:
            self._sure(at)

    def _sure(self, at: tuple[str, int]) -> bool:
        """Ask Kafka whether what was passed over holds no message; otherwise read the whole buffer again.

        Compaction and transactions leave holes; anything else would be lost.
        """
        buffer = self._buffers[at]
        if buffer.holes and filled(self._broker, *at, buffer.holes):
            self._buffers[at] = Buffer(buffer.writer, buffer.begin, buffer.end)
            self._seek(at, buffer.begin)
            return False
        buffer.holes.clear()
        buffer.placed = True
        return True

    def _fault(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._lost_its_place((str(message.topic()), cast(int, message.partition())))
            return
        if error.code() in _GONE:
            self._same_topics({str(message.topic())})
            return
        if error.code() not in _PASSING and not error.retriable():
            raise self._broker.fault(error)

    def _lost_its_place(self, at: tuple[str, int]) -> None:
        """The client has no offset to go on from: give it ours again, unless the broker lacks that one."""
        buffer = self._buffers.get(at)
        if buffer is not None:
            self._broker.holding(self._job.topics[self._streams[at[0]]], at[1], buffer.next)
            note(f"{at[0]}, partition {at[1]}: reading on from offset {buffer.next}")
            # The client has stopped fetching the partition, which a seek does not change.
            self._consumer.incremental_unassign([TopicPartition(*at)])
            self._consumer.incremental_assign([TopicPartition(*at, buffer.next)])

    def _same_topics(self, names: set[str]) -> None:
        """Make sure that the topics are still those that the offsets belong to."""
        found = self._broker.topics(names)
        for name in names:
            ours = self._job.topics[self._streams[name]]
            if name not in found or found[name].id != ours.id:
                raise DataLossError(
                    "the topic was deleted (and perhaps made again) while it was drained.", where=f"topic {name}",
                    fix="Drain again: a topic that was made again is read from its beginning.",
                )  # fmt: skip

    def _commit_due(self) -> None:
        for at in [at for at, buffer in self._buffers.items() if buffer.due(self._job.batch_events)]:
            self._commit(at, last=self._buffers[at].done)
        for at in [at for at, buffer in self._buffers.items() if not buffer.values and buffer.writer.overdue]:
            self._settle(at)
        while sum(buffer.bytes for buffer in self._buffers.values()) > _BUFFER_BYTES:
            self._commit(max(self._buffers, key=lambda at: self._buffers[at].bytes), last=False)

    def _commit(self, at: tuple[str, int], last: bool) -> None:
        buffer = self._buffers[at]
        if not self._sure(at):
            return
        if not buffer.values:
            if last:
                self._settle(at)
            return
        # After the messages were fetched and before they are committed: if the topic is the same one now, it was then.
        self._same_topics({at[0]})
        try:
            written = buffer.writer.write(buffer.offsets, buffer.values, buffer.keys, last)
        except Fenced:
            self._resume(at)
            return
        self._buffers[at] = buffer.emptied()
        if self._buffers[at].due(1):
            self._settle(at)
        self.say(
            stream=self._streams[at[0]], partition=at[1], mark=buffer.writer.mark, position=buffer.next,
            events=len(buffer.values), landed=written.landed, duplicates=written.duplicates, dead=written.dead,
            files=written.files, bytes=written.bytes, late=written.late, watermark=written.watermark,
            seconds=written.seconds,
        )  # fmt: skip
        if at in self._buffers:
            self._pass_end(at)
            if self._buffers[at].done:
                pause(self._consumer, at)
        show_lag(self._consumer, at, buffer.next)

    def _tell(self) -> None:
        """Say now and then where the partitions stand that are held: nobody else knows who holds them."""
        if time.monotonic() - self._told < _TELL_SECONDS:
            return
        self._told = time.monotonic()
        for (topic, partition), buffer in self._buffers.items():
            self.say(
                stream=self._streams[topic], partition=partition, mark=buffer.writer.mark, position=buffer.position,
                events=0, landed=0, duplicates=0, dead=0, files=0, bytes=0,
            )  # fmt: skip

    def _settle(self, at: tuple[str, int]) -> None:
        buffer = self._buffers[at]
        try:
            buffer.writer.settle(buffer.next if buffer.done else 0)
        except Fenced:
            # Somebody else has the partition already, and the marks with it.
            if buffer.due(1) or buffer.writer.overdue:
                self._resume(at)

    def _resume(self, at: tuple[str, int]) -> None:
        """Somebody else wrote this partition: drop the buffer and go on from the table's mark, if it is still ours."""
        note(f"{at[0]}, partition {at[1]}: another drain wrote it meanwhile; nothing is written twice")
        del self._buffers[at]
        self._seek(at, self._open(at))

    def _seek(self, at: tuple[str, int], offset: int) -> None:
        try:
            self._consumer.seek(TopicPartition(*at, offset))
        except KafkaException:
            # Not assigned any more; the callback that says so is on its way.
            self._buffers.pop(at, None)

    def _open(self, at: tuple[str, int]) -> int:
        """Start a buffer at the tables' mark; the offset to read from."""
        name = self._streams[at[0]]
        topic = self._job.topics[name]
        writer = PartitionWriter(self._contexts[name], self._job.cluster, topic, at[1])
        held = self._broker.holding(topic, at[1], writer.mark if writer.begun else None)
        if not writer.begun:
            try:
                writer.begin(held.earliest)
            except Fenced:
                # Another drain began it in this moment.
                return self._open(at)
        start = writer.mark
        ends = self._job.ends.get(name)
        self._buffers[at] = Buffer(writer, start, ends[at[1]] if ends else None)
        return start

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # librdkafka swallows what is raised in a callback, so it is kept for `run`.
        try:
            for place in partitions:
                place.offset = self._open((place.topic, place.partition))
            consumer.incremental_assign(partitions)
            finished = [place for place in partitions if self._buffers[place.topic, place.partition].done]
            if finished:
                consumer.pause(finished)
        except BaseException as error:
            self._failure = error

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            for place in partitions:
                if (place.topic, place.partition) in self._buffers and self._failure is None:
                    self._commit((place.topic, place.partition), last=True)
        except BaseException as error:
            self._failure = error
        self._lost(consumer, partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            self._buffers.pop((place.topic, place.partition), None)

    @staticmethod
    def say(**fields: Any) -> None:
        """Tell the parent, in a line of JSON."""
        sys.stdout.buffer.write(orjson.dumps(fields) + b"\n")
        sys.stdout.buffer.flush()
