"""One partition's way into the lake: marks, index, decisions, commits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.ingest.broker import Topic
from fasttrack.ingest.checkers import column_checker
from fasttrack.ingest.columncheck import Checked
from fasttrack.ingest.contracts import contract_version
from fasttrack.ingest.decide import Decision, Index, Recorded, decide
from fasttrack.ingest.dedup import SUPPORT, SeenIds, clock
from fasttrack.ingest.lateness import Watermark
from fasttrack.ingest.schemas import known
from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, DUPLICATES, MOMENT, raw_schema
from fasttrack.lake.tables import dead_letters_path, duplicates_path, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

# A table without rows in a batch keeps its old mark (a commit saved) until it is this many offsets, or this long,
# behind. A restart reads them again, so they have to be in Kafka still.
_LAG = 500_000
_LAG_SECONDS = 60.0


def app_id(cluster: str, topic: Topic, partition: int) -> str:
    """Who writes a partition: cluster id, topic id and partition. A topic that is made again is somebody else."""
    return f"{cluster}:{topic.id}:{partition}"


def begin(ledgers: Sequence[Ledger], earliest: int) -> None:
    """Make the first marks of a partition.

    Args:
        ledgers: the raw table's, which is the last to have its mark; the others'.
        earliest: where the partition begins.

    Raises:
        StorageError: the storage refused.
        Fenced: another drain begins it in this moment.
    """
    # A table without a mark is one at 0.
    for ledger in reversed(ledgers if earliest else ledgers[:1]):
        if ledger.mark is None or ledger.mark < earliest:
            ledger.append(None, earliest)


@dataclass(frozen=True)
class Written:
    """What one batch became.

    Attributes:
        landed, duplicates, dead: its messages by destination.
        files, bytes: what was written.
        late: how many of the landed events came after the watermark had passed them.
        watermark: where it is now, in microseconds since 1970; None before the first event.
        seconds: how long the commits took.
    """

    landed: int
    duplicates: int
    dead: int
    files: int
    bytes: int
    late: int = 0
    watermark: int | None = None
    seconds: float = 0.0


class StreamContext:
    """What all partitions of a stream share in one process: the checker and the accepted schemas."""

    def __init__(self, usecase: UseCase, settings: Settings, stream: str) -> None:
        self.usecase, self.settings, self.stream = usecase, settings, stream
        self.contract = usecase.streams[stream]
        self.version = contract_version(self.contract)
        self._checker = column_checker(self.contract)
        self._schemas = known(settings, usecase, stream)

    def check(self, values: list[bytes | None], keys: list[bytes | None]) -> Checked:
        """Check a batch; a schema id that is not known is looked up again before it is refused.

        Raises:
            UnavailableError: the schema registry does not answer.
        """
        checked = self._checker.check(values, keys, self._schemas)
        if any(rejection.reason == "unknown schema id" for _, rejection in checked.rejected):
            schemas = known(self.settings, self.usecase, self.stream)
            if schemas != self._schemas:
                self._schemas = schemas
                checked = self._checker.check(values, keys, schemas)
        return checked


class PartitionWriter:
    """Writes one partition's messages, each offset once.

    Args:
        context: the stream's.
        cluster: the cluster's id.
        topic: the topic as it was when the drain began.
        partition: which one.

    Raises:
        StorageError: the tables can't be read.
    """

    def __init__(self, context: StreamContext, cluster: str, topic: Topic, partition: int) -> None:
        self._context, self.topic, self.partition = context, topic, partition
        usecase, settings = context.usecase, context.settings
        app = app_id(cluster, topic, partition)
        self._landed = Ledger(raw_path(settings, usecase, context.stream), app)
        self._duplicates = Ledger(duplicates_path(settings, usecase), app)
        self._dead = Ledger(dead_letters_path(settings, usecase), app)
        self._seen, self._watermark = self._index()
        #: True once anything of the partition was committed. `begin` makes the first mark in the raw table the last.
        self.begun = self._landed.mark is not None
        #: The first offset that some table still lacks.
        self.mark = self._lowest()
        self._position = self.mark
        self._level = time.monotonic()
        self._recorded = self._read_recorded()

    @property
    def _ledgers(self) -> tuple[Ledger, Ledger, Ledger]:
        # Commits are made in this order: whatever the others lack can be told from what landed.
        return self._landed, self._duplicates, self._dead

    def _lowest(self) -> int:
        return min(ledger.mark or 0 for ledger in self._ledgers)

    def _index(self) -> tuple[SeenIds, Watermark]:
        """What the table tells of the partition's past.

        Returns:
            The ids in the window, of this partition and of deleted topics of the same stream; and the watermark at the
            partition's last landed event.
        """
        contract = self._context.contract
        window = contract.dedup_window // timedelta(microseconds=1)
        seen, passed = SeenIds(contract.dedup_window), None
        mine = (ds.field("_topic_id") == self.topic.id) & (ds.field("_partition") == self.partition)
        kin = (ds.field("_topic_id") != self.topic.id) | mine
        # Mostly the window is wider than the table is long, and then nothing is read twice.
        since, until = self._landed.span(contract.event_time) or (0, 0)
        whole = until - since <= window
        if not whole:
            newest = self._landed.newest(contract.event_time, kin, SUPPORT)
            since = since if newest is None else max(since, min(newest, clock()) - window)
        recent = kin & (ds.field(contract.event_time) >= pa.scalar(since, pa.int64()).cast(MOMENT))
        columns = [contract.event_id, contract.event_time, "_topic_id", "_partition"]
        for rows in self._landed.batches(columns, recent):
            when = rows.column(contract.event_time).cast(pa.int64())
            seen.first(rows.column(contract.event_id).cast(pa.string()), when.to_numpy(zero_copy_only=False))
            of_topic = pc.equal(rows.column("_topic_id").cast(pa.string()), self.topic.id)
            own = pc.max(when.filter(pc.and_(of_topic, pc.equal(rows.column("_partition"), self.partition)))).as_py()
            passed = own if passed is None or (own is not None and own > passed) else passed
        if passed is None and not whole:
            passed = self._landed.newest(contract.event_time, mine)
        return seen, Watermark(contract.allowed_lateness, passed)

    def _read_recorded(self) -> Recorded:
        marks = [ledger.mark or 0 for ledger in self._ledgers]
        if len(set(marks)) == 1:
            return Recorded(landed_mark=marks[0], duplicates_mark=marks[1], dead_mark=marks[2])
        names = [("_topic_id", "_partition", "_offset"), *[("topic_id", "partition", "offset")] * 2]
        found = []
        for ledger, (topic_id, partition, offset) in zip(self._ledgers, names, strict=True):
            mine = (ds.field(topic_id) == self.topic.id) & (ds.field(partition) == self.partition)
            rows = ledger.rows([offset], mine & (ds.field(offset) >= self.mark))
            found.append(frozenset(rows.column(offset).to_pylist()))
        landed, duplicates, dead = found
        return Recorded(landed, duplicates, dead, *marks)

    def begin(self, earliest: int) -> None:
        """Note where the first drain of this partition starts, if Kafka has deleted its beginning already.

        Without a mark a table lacks everything from 0 on, which nobody could read again after an interruption.

        Raises:
            Fenced, StorageError: as for `write`.
        """
        if earliest > 0:
            begin(self._ledgers, earliest)
            self.mark = self._position = self._lowest()
        self.begun = True

    @property
    def overdue(self) -> bool:
        """Whether some table's mark has been behind for so long that `settle` is due."""
        return self.mark < self._position and time.monotonic() - self._level > _LAG_SECONDS

    def write(self, offsets: Index, values: list[bytes | None], keys: list[bytes | None], last: bool) -> Written:
        """Check, decide and commit a batch.

        Args:
            offsets: ascending, from `mark` on.
            values, keys: the messages.
            last: bring all tables' marks up to date, as nothing follows for now.

        Raises:
            Fenced: somebody else writes this partition; make a new `PartitionWriter` to go on.
            StorageError: the storage refused; a new writer resumes where this one stopped.
            UnavailableError: the schema registry does not answer.
        """
        checked = self._context.check(values, keys)
        decision = decide(self._context.contract, offsets, checked, self._seen, self._recorded)
        mark = int(offsets[-1]) + 1
        tables = (
            self._landed_rows(decision, checked, offsets),
            self._duplicate_rows(decision),
            self._dead_rows(decision, offsets, values, keys),
        )
        files = size = 0
        began = time.monotonic()
        last = last or self.overdue
        for ledger, rows in zip(self._ledgers, tables, strict=True):
            behind = mark - (ledger.mark or 0)
            if behind > 0 and (rows.num_rows or last or behind > _LAG or ledger is self._landed):
                size += ledger.append(rows, mark)
                files += bool(rows.num_rows)
        self._stand(mark)
        seconds = time.monotonic() - began
        when = tables[0].column(self._context.contract.event_time).combine_chunks().cast(pa.int64())
        late = self._watermark.pass_by(when.to_numpy(zero_copy_only=False))
        outcome = (len(decision.landed), len(decision.duplicates), len(decision.dead), files, size)
        return Written(*outcome, late, self._watermark.at, seconds)

    def pass_over(self, upto: int) -> None:
        """Kafka holds no message between the last one written and `upto`; the marks follow in time."""
        self._position = max(self._position, upto)

    def settle(self, upto: int = 0) -> None:
        """Bring the marks of tables that had nothing to write up to the others', so that nothing is read again.

        Args:
            upto: bring all to here at least: Kafka holds no message between the last one written and this offset.

        Raises:
            Fenced, StorageError: as for `write`.
        """
        position = max(self._position, upto)
        for ledger in self._ledgers:
            # Not up to the foremost mark: after an interruption it is ahead of what the others have been given.
            if (ledger.mark or 0) < position:
                ledger.append(None, position)
        self._stand(position)

    def _stand(self, position: int) -> None:
        before, self._position, self.mark = self.mark, position, self._lowest()
        if self.mark > before or self.mark == position:
            self._level = time.monotonic()

    def _landed_rows(self, decision: Decision, checked: Checked, offsets: Index) -> pa.Table:
        rows, index = checked.rows, checked.index
        if len(decision.landed) < len(index):
            rows, index = rows.take(pa.array(decision.landed)), index[decision.landed]
        count = len(index)
        columns = [
            *rows.columns,
            pa.repeat(pa.scalar(self.topic.id), count),
            pa.repeat(pa.scalar(self.partition, pa.int32()), count),
            pa.array(offsets[index]),
            _now(count),
        ]
        return pa.table(columns, schema=raw_schema(self._context.contract))

    def _origin(self, count: int) -> dict[str, pa.Array]:
        return {
            "stream": pa.repeat(pa.scalar(self._context.stream), count),
            "topic": pa.repeat(pa.scalar(self.topic.name), count),
            "topic_id": pa.repeat(pa.scalar(self.topic.id), count),
            "partition": pa.repeat(pa.scalar(self.partition, pa.int32()), count),
        }

    def _duplicate_rows(self, decision: Decision) -> pa.Table:
        offsets, ids = [o for o, _ in decision.duplicates], [i for _, i in decision.duplicates]
        columns = self._origin(len(ids)) | {
            "offset": pa.array(offsets, pa.int64()),
            "event_id": pa.array(ids, pa.string()),
        }
        return pa.table(columns, schema=DUPLICATES)

    def _dead_rows(
        self, decision: Decision, offsets: Index, values: list[bytes | None], keys: list[bytes | None]
    ) -> pa.Table:
        at = [position for position, _ in decision.dead]
        count = len(at)
        columns = self._origin(count) | {
            "offset": pa.array(offsets[np.array(at, np.int64)]),
            "key": pa.array([keys[i] for i in at], pa.binary()),
            "value": pa.array([values[i] for i in at], pa.binary()),
            "reason": pa.array([rejection.reason for _, rejection in decision.dead], pa.string()),
            "detail": pa.array([rejection.detail for _, rejection in decision.dead], pa.string()),
            "contract_version": pa.repeat(pa.scalar(self._context.version), count),
            "ingested_at": _now(count),
        }
        return pa.table(columns, schema=DEAD_LETTERS)


def _now(count: int) -> pa.Array:
    return pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), count)
