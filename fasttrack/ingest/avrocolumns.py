"""The check of many Avro messages at once, in columns.

Messages of one writer's schema are decoded in lockstep: a cursor a message, moved over one field after the other, all
by numpy; limits are compared column by column. As in `columncheck`, whatever is not plainly good here goes to the row
check (`avro`), which decides, so the two can't disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.ingest.avro import AvroRowChecker, WrittenField
from fasttrack.ingest.columncheck import Checked, within
from fasttrack.ingest.contracts import HEADER_BYTES, keyed_by_text
from fasttrack.ingest.lockstep import Bytes, Index, Lockstep, Mask, overrun
from fasttrack.ingest.rowcheck import Rejected, Rejection
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase.streams import Stream

# So many that what is read again and again stays in the processor's cache.
_CHUNK = 16_384
_CHUNK_BYTES = 2**28


class AvroColumnChecker:
    """Checks batches of messages of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._schema = event_schema(stream)
        self._rows = AvroRowChecker(stream)
        self._keyed = keyed_by_text(stream)

    def check(
        self, values: Sequence[bytes | None], keys: Sequence[bytes | None], schemas: Mapping[int, str]
    ) -> Checked:
        """Decode and check a batch; the arguments are as for `AvroRowChecker.check`, one entry a message."""
        parts: list[tuple[Index, pa.Table]] = []
        good = np.zeros(len(values), np.bool_)
        batch = _Batch(values, len(self._stream.fields))
        for positions, writer in self._groups(batch, schemas):
            part = self._columns(batch, positions, keys, writer)
            good[part[0]] = True
            parts.append(part)
        rejected: list[tuple[int, Rejection]] = []
        accepted: list[tuple[int, dict[str, Any]]] = []
        for at in np.flatnonzero(~good).tolist():
            try:
                accepted.append((at, self._rows.check(values[at], keys[at], schemas)))
            except Rejected as error:
                # Not the exception: its traceback would keep the whole batch in memory.
                rejected.append((at, error.rejection))
        if accepted:
            rows = pa.Table.from_pylist([event for _, event in accepted], self._schema)
            parts.append((np.array([at for at, _ in accepted], np.int64), rows))
        return self._joined(parts, rejected)

    def _joined(self, parts: list[tuple[Index, pa.Table]], rejected: list[tuple[int, Rejection]]) -> Checked:
        if not parts:
            return Checked(self._schema.empty_table(), np.empty(0, np.int64), rejected)
        rows = pa.concat_tables([table for _, table in parts])
        index = np.concatenate([positions for positions, _ in parts])
        if np.any(np.diff(index) < 0):
            order = np.argsort(index, kind="stable")
            rows, index = rows.take(pa.array(order)), index[order]
        return Checked(rows, index, rejected)

    def _groups(self, batch: _Batch, schemas: Mapping[int, str]) -> Iterator[tuple[Index, tuple[WrittenField, ...]]]:
        """The positions of messages with a readable schema, chunk by chunk and writer by writer."""
        ids = batch.schema_ids(self._stream.max_bytes)
        for schema_id in np.unique(ids).tolist():
            try:
                writer = self._rows.writer(schemas[schema_id])
            except (KeyError, Rejected):
                continue
            at = np.flatnonzero(ids == schema_id)
            new = (np.diff(at // _CHUNK) > 0) | (np.diff(batch.starts[at] // _CHUNK_BYTES) > 0)
            for part in np.split(at, np.flatnonzero(new) + 1):
                yield part, writer

    def _columns(
        self, batch: _Batch, positions: Index, keys: Sequence[bytes | None], writer: tuple[WrittenField, ...]
    ) -> tuple[Index, pa.Table]:
        """The messages among `positions` that are plainly good, and their events."""
        records = Lockstep(*batch.bodies(positions))
        read = {field.name: records.field(field) for field in writer}
        columns = []
        for field in self._schema:
            column = read[field.name] if field.name in read else pa.nulls(len(positions), field.type)
            # Not safe: a whole number may be read as the nearest double.
            columns.append(column if column.type == field.type else column.cast(field.type, safe=False))
        table = pa.table(columns, schema=self._schema)
        good = records.whole() & self._within(table, [keys[at] for at in positions.tolist()] if self._keyed else None)
        if good.all():
            return positions, table
        return positions[good], table.filter(pa.array(good))

    def _within(self, table: pa.Table, keys: list[bytes | None] | None) -> Mask:
        """Which rows are within the contract; a null of a nullable field is."""
        masks = []
        for name, field in self._stream.fields.items():
            column = table.column(name)
            if not field.nullable and column.null_count:
                masks.append(pc.is_valid(column))
            masks.extend(within(field, column))
        masks = [pc.fill_null(mask, True) for mask in masks]
        if keys is not None:
            column = table.column(self._stream.key).cast(pa.string()).cast(pa.binary())
            masks.append(pc.fill_null(pc.equal(column, pa.chunked_array([pa.array(keys, pa.binary())])), False))
        if not masks:
            return np.ones(table.num_rows, np.bool_)
        together = reduce(pc.and_, masks).combine_chunks()
        return np.asarray(together.to_numpy(zero_copy_only=False), dtype=np.bool_)


class _Batch:
    """The messages of a batch in one buffer, with room behind the last one for cursors that overrun it."""

    def __init__(self, values: Sequence[bytes | None], fields: int) -> None:
        present = [value or b"" for value in values]
        self._data: Bytes = np.frombuffer(b"".join([*present, bytes(overrun(fields))]), np.uint8)
        self._room = overrun(fields)
        self._sizes = np.fromiter(map(len, present), np.int64, len(present))
        self.ends: Index = np.cumsum(self._sizes)
        self.starts: Index = self.ends - self._sizes

    def schema_ids(self, max_bytes: int) -> Index:
        """Of each message; -1 for one that has none, or nothing else, or is too large."""
        heads = self._data[self.starts[:, None] + np.arange(HEADER_BYTES)].astype(np.int64)
        ids = heads[:, 1] << 24 | heads[:, 2] << 16 | heads[:, 3] << 8 | heads[:, 4]
        framed = (heads[:, 0] == 0) & (self._sizes > HEADER_BYTES) & (self._sizes <= max_bytes)
        return np.where(framed, ids, -1)

    def bodies(self, positions: Index) -> tuple[Bytes, Index, Index]:
        """The bytes from the first to the last of `positions`, and where in them each one's record starts and ends."""
        starts, ends = self.starts[positions], self.ends[positions]
        low = int(starts[0])
        return self._data[low : int(ends[-1]) + self._room], starts - low + HEADER_BYTES, ends - low
