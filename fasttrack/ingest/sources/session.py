"""One source into its topic: read, send, confirm, checkpoint; begun anew after every outage."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from fasttrack.errors import UnavailableError
from fasttrack.ingest import schemas
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.sources.checkpoints import Checkpoint, Checkpoints, sent_since
from fasttrack.ingest.sources.connect import connect
from fasttrack.ingest.sources.message import Mapper, identity_of
from fasttrack.ingest.sources.report import SourceReport
from fasttrack.ingest.sources.sender import Sender
from fasttrack.ingest.sources.source import Batch, Failing, Failure, Position, Source, Unfinished, Unordered
from fasttrack.progress import note
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

if TYPE_CHECKING:
    from fasttrack.ingest.sources.metrics import Metrics

Until = Literal["end", "forever"]

_READ_SECONDS = 1.0
_CHECKPOINT_SECONDS = 2.0
_CHECKPOINT_RECORDS = 50_000
_LAG_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 30.0
# What was sent before a crash lies close together where a source keeps its order: this far behind the last of it, none
# is left. One that doesn't keep it is asked.
_BEHIND_THE_LAST = 100_000
_LONG_SCAN = 100_000


class Session:
    """Ingests one source; made for a thread of its own.

    Args:
        usecase, settings, name: which source of what, and where its topic is.
        until: ``end``: what the source holds now; ``forever``: until `stop`.
        stop: set to finish: what was sent is confirmed and recorded.
        advance: told how many records were dealt with.
        metrics: where to count, if anywhere.
    """

    def __init__(
        self,
        usecase: UseCase,
        settings: Settings,
        name: str,
        until: Until,
        stop: threading.Event,
        advance: Callable[[int], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._usecase, self._settings, self._name = usecase, settings, name
        self._until, self._stop, self._advance, self._metrics = until, stop, advance, metrics
        self._declared = usecase.sources[name]
        self._broker = Broker.at(settings)
        self._failures, self._moved = 0, time.monotonic()
        #: Grows while it runs.
        self.report = SourceReport(self._declared.stream)

    def run(self) -> None:
        """Ingest until the end or `stop`.

        Raises:
            UnavailableError, RateLimitError: until the end: no answer, or only "later", for the broker's patience.
            ConflictError: another ingester has taken the source over; a topic or schema differs from the use case's.
            DataLossError: the source no longer has what comes next, or the topic lost messages.
            FastTrackError: what else the source says that waiting doesn't mend.
        """
        began = time.monotonic()
        self._moved = began
        try:
            while not self._stop.is_set():
                try:
                    self._pass()
                    return
                except UnavailableError as error:
                    self._put_off(error)
        finally:
            self.report.seconds = time.monotonic() - began

    def _put_off(self, error: UnavailableError) -> None:
        self._stalled(error)
        self._failures += 1
        # Half of it by chance, so that many who wait for the same server don't come back at once.
        longest = min(_LONGEST_WAIT_SECONDS, 0.5 * 2 ** min(self._failures, 10))
        self._stop.wait(random.uniform(longest / 2, longest))

    def failed(self, failure: Failure) -> None:
        """Count what the source itself tries again; until the end, give up on what lasts longer than patience."""
        self.report.errors += 1
        if self._metrics:
            self._metrics.failed(self._name)
        if self._until == "end" and failure.lasts > self._broker.patience:
            raise failure.error

    def _stalled(self, error: UnavailableError) -> None:
        """Tell of an outage; until the end, give up after the broker's patience."""
        self.failed(Failure(error))
        if self._until == "end" and time.monotonic() - self._moved > self._broker.patience:
            raise error
        note(f"source {self._name}: {error.where or ''}: {error.what} It is tried again.")

    def _pass(self) -> None:
        stream = self._usecase.streams[self._declared.stream]
        name = self._usecase.topic(self._declared.stream)
        self._broker.create({name: stream.partitions})
        topic = self._broker.require([name])[name]
        schema_id = schemas.register(self._settings, self._usecase, self._declared.stream)
        checkpoints = Checkpoints(self._broker, self._usecase.name, self._name, self._declared.kind)
        position, offsets = self._start(checkpoints.newest(), topic)
        source = connect(self._usecase, self._settings, self._name)
        try:
            if position is None:
                # Before the position is replaced that was recorded last: a source may refuse to begin anew.
                source.open(None)
            # Before anything is sent: whoever ingested it until now learns that it is somebody else's turn.
            checkpoints.write(position, topic, offsets)
            present, scanned = sent_since(self._broker, topic, offsets, self._name)
            mapper = Mapper(self._name, self._declared, stream, schema_id)
            sender = Sender(self._broker, self._stop, self._stalled)
            way = _Way(self, source, topic, mapper, sender, checkpoints, position, offsets, present)
            if scanned > _LONG_SCAN and not present:
                way.checkpoint()
            if position is not None:
                source.open(position)
            way.go()
        finally:
            source.close()

    def _start(self, newest: Checkpoint | None, topic: Topic) -> tuple[Position | None, list[int]]:
        """Where the source goes on, and from which offsets on the topic may hold what comes next."""
        held = self._broker.offsets({topic.name: topic})
        earliest = [held[topic.name, p].earliest for p in range(topic.partitions)]
        if newest is None:
            return None, earliest
        if newest.topic_id != topic.id:
            note(
                f"source {self._name}: topic {topic.name} is not the one that it was sent to before, "
                "so all of it is sent again, from the beginning"
            )
            return None, earliest
        return newest.position, newest.offsets

    def dealt_with(self, sent: int, skipped: int, unparsable: int) -> None:
        """Count a confirmed batch."""
        self._failures, self._moved = 0, time.monotonic()
        report = self.report
        report.read += sent + skipped
        report.sent += sent
        report.skipped += skipped
        report.unparsable += unparsable
        self._advance(sent + skipped)
        if self._metrics:
            for outcome, count in (("sent", sent), ("skipped", skipped), ("unparsable", unparsable)):
                self._metrics.count(self._name, outcome, count)
            self._metrics.succeeded(self._name)

    def at_end(self, whole: bool) -> None:
        """The source gives nothing more at this moment; `whole`: nor is anything missing of what it holds."""
        self._failures, self._moved = 0, time.monotonic()
        if self._metrics and whole:
            self._metrics.succeeded(self._name)

    def lags(self, waiting: float | None) -> None:
        """Keep what the source says of its lag."""
        self.report.lag = waiting
        if self._metrics and waiting is not None:
            self._metrics.lag(self._name, waiting)

    @property
    def stopping(self) -> bool:
        """Whether it is to end now."""
        return self._stop.is_set()

    @property
    def ends(self) -> bool:
        """Whether it is over once the source is at its end."""
        return self._until == "end"

    @property
    def broker(self) -> Broker:
        """The cluster."""
        return self._broker


class _Way:
    """From one checkpoint to the next, as long as nothing fails."""

    def __init__(
        self,
        session: Session,
        source: Source,
        topic: Topic,
        mapper: Mapper,
        sender: Sender,
        checkpoints: Checkpoints,
        position: Position | None,
        offsets: list[int],
        present: Counter[bytes],
    ) -> None:
        self._session, self._source, self._topic, self._mapper = session, source, topic, mapper
        self._sender, self._checkpoints = sender, checkpoints
        self._position, self._offsets, self._present = position, offsets, present
        self._recorded, self._asked = time.monotonic(), 0.0
        self._unrecorded, self._since_present, self._dirty, self._given = 0, 0, False, False

    def go(self) -> None:
        """Read and send until the end or a stop."""
        while not self._session.stopping:
            batch = self._source.read(_READ_SECONDS)
            for failure in self._source.failures() if isinstance(self._source, Failing) else ():
                self._session.failed(failure)
            if batch is not None:
                self._take(batch)
            elif self._idle():
                self._session.report.complete = True
                break
            self._look()
        if self._dirty:
            self.checkpoint()

    def _take(self, batch: Batch) -> None:
        messages, skipped, unparsable = [], 0, 0
        for record in batch.records:
            message = self._mapper.message(record)
            unparsable += self._mapper.unparsable(record)
            if self._present and self._present[message.source]:
                self._present[message.source] -= 1
                self._since_present = 0
                skipped += 1
            else:
                messages.append(message)
        self._sender.send(self._topic.name, messages)
        self._position, self._dirty, self._given = batch.position, True, self._given or bool(batch.records)
        self._unrecorded += len(messages)
        self._since_present += len(messages)
        if self._since_present > _BEHIND_THE_LAST:
            self._forget(at_end=False)
        self._session.dealt_with(len(messages), skipped, unparsable)
        if self._unrecorded >= _CHECKPOINT_RECORDS or time.monotonic() - self._recorded > _CHECKPOINT_SECONDS:
            self.checkpoint()

    def _forget(self, at_end: bool) -> None:
        """No longer look for what the source won't give again."""
        self._since_present = 0
        kept: set[bytes] = set()
        if isinstance(self._source, Unordered):
            names = {name: identity_of(name) for name in +self._present}
            expected = self._source.expected([identity for identity in names.values() if identity is not None])
            kept = {name for name, one in names.items() if one in expected or (one is None and not at_end)}
        self._present = Counter({name: self._present[name] for name in kept})

    def _idle(self) -> bool:
        """The source gave nothing: whether that was all."""
        unfinished = isinstance(self._source, Unfinished)
        waiting = isinstance(self._source, Unfinished) and self._source.waiting()
        broken = dict(self._source.broken()) if isinstance(self._source, Unfinished) else {}
        self._session.report.broken = broken
        if self._given and not waiting and not broken and not (self._present and self._source.lag()):
            self._forget(at_end=True)
        self._session.at_end(not waiting and not broken)
        if self._dirty:
            self.checkpoint()
        if not self._session.ends or waiting:
            return False
        lag = self._source.lag()
        self._session.lags(lag)
        return unfinished or not lag

    def _look(self) -> None:
        if time.monotonic() - self._asked > _LAG_SECONDS:
            self._asked = time.monotonic()
            self._session.lags(self._source.lag())

    def checkpoint(self) -> None:
        """Record how far the source is; all that was sent is confirmed.

        Raises:
            ConflictError: another ingester has taken the source over.
            UnavailableError: the broker does not answer, or the topic was deleted.
        """
        broker = self._session.broker
        now = broker.topics([self._topic.name]).get(self._topic.name)
        if now is None or now.id != self._topic.id:
            raise broker.unavailable(f"topic {self._topic.name} was deleted meanwhile")
        if not +self._present:
            # As long as some of what was there at the start is still to be met, the next start has to find it too.
            held = broker.offsets({self._topic.name: self._topic})
            self._offsets = [held[self._topic.name, p].latest for p in range(self._topic.partitions)]
        self._checkpoints.write(self._position, self._topic, self._offsets)
        self._recorded, self._unrecorded, self._dirty = time.monotonic(), 0, False
        if self._position is not None:
            self._source.committed(self._position)
