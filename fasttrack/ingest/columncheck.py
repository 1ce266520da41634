"""The check of many messages at once, in columns.

The messages' bytes are joined. Those that are laid out as others before are read by `layout`; the rest is parsed as
JSON lines by Arrow; limits are compared column by column. Whatever is not plainly good here (Arrow's parser is laxer
than JSON in places, and says nothing of which row failed) goes to `rowcheck`, row by row, which decides. So they can't
disagree: this one only accepts, never refuses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from fasttrack.ingest.contracts import HEADER_BYTES, keyed_by_text
from fasttrack.ingest.joined import Index, Joined, Mask
from fasttrack.ingest.layout import Layout, learned, read
from fasttrack.ingest.rowcheck import Rejected, Rejection, RowChecker
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase.limits import limits, portable
from fasttrack.usecase.streams import FieldContract, Stream

# So many messages are looked at together that what is made of them stays in the processor's cache.
_CHUNK, _CHUNK_BYTES = 8192, 2**26
# Layouts are remembered, and another one is learned when more than one message in so many has none of them.
_LAYOUTS, _FEW = 4, 16
_ROW = re.compile(r"in row ([0-9]+)")
_SMALL = 48
# Narrower than the contract's timestamps (years, days of the month): the rest is for the row check.
_PLAIN_TIMESTAMP = r"^[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z$"


@dataclass(frozen=True)
class Checked:
    """The outcome for a batch.

    Attributes:
        rows: the accepted events in the order of the batch, columns as in `event_schema`.
        index: for each accepted event, its position in the batch.
        rejected: for each refused message, its position in the batch and why.
    """

    rows: pa.Table
    index: Index
    rejected: list[tuple[int, Rejection]]


class ColumnChecker:
    """Checks batches of messages of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._schema = event_schema(stream)
        self._rows = RowChecker(stream)
        self._layouts: list[Layout] = []
        self._keyed = keyed_by_text(stream)
        text = [field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field for field in self._schema]
        self._parse = arrow_json.ParseOptions(explicit_schema=pa.schema(text), unexpected_field_behavior="error")

    def check(
        self, values: Sequence[bytes | None], keys: Sequence[bytes | None], schema_ids: Collection[int]
    ) -> Checked:
        """Decode and check a batch of messages; the arguments are as for `RowChecker.check`, one entry a message."""
        parts: list[tuple[Index, pa.Table]] = []
        rejected: list[tuple[int, Rejection]] = []
        # What has no value at all is refused as an empty one.
        present = cast(Sequence[bytes], values)
        try:
            sizes = np.fromiter(map(len, present), np.int64, len(present))
        except TypeError:
            present = [value or b"" for value in values]
            sizes = np.fromiter(map(len, present), np.int64, len(present))
        for low, high in _chunks(sizes):
            batch = Joined(present[low:high], sizes[low:high], frozenset(schema_ids), self._stream.max_bytes)
            found = self._laid_out(batch, keys[low:high])
            if batch.open.any():
                batch.check_braces()
                self._columns(batch, keys[low:high], 0, high - low, found)
            accepted, refused = self._singly(values[low:high], keys[low:high], schema_ids, batch)
            parts += [(positions + low, table) for positions, table in [*found, *accepted]]
            rejected += [(at + low, rejection) for at, rejection in refused]
        return self._together(parts, rejected)

    def _singly(
        self, values: Sequence[bytes | None], keys: Sequence[bytes | None], schema_ids: Collection[int], batch: Joined
    ) -> tuple[list[tuple[Index, pa.Table]], list[tuple[int, Rejection]]]:
        """Decide on the doubtful messages."""
        rejected: list[tuple[int, Rejection]] = []
        accepted: list[dict[str, Any]] = []
        positions: list[int] = []
        for at in np.flatnonzero(batch.doubtful).tolist():
            try:
                accepted.append(self._rows.check(values[at], keys[at], schema_ids))
                positions.append(at)
            except Rejected as error:
                # Not the exception: its traceback would keep the whole batch in memory.
                rejected.append((at, error.rejection))
        if not accepted:
            return [], rejected
        return [(np.array(positions, np.int64), pa.Table.from_pylist(accepted, self._schema))], rejected

    def _together(self, parts: list[tuple[Index, pa.Table]], rejected: list[tuple[int, Rejection]]) -> Checked:
        if not parts:
            return Checked(self._schema.empty_table(), np.empty(0, np.int64), rejected)
        rows = pa.concat_tables([table for _, table in parts])
        index = np.concatenate([positions for positions, _ in parts])
        if (index[1:] < index[:-1]).any():
            order = np.argsort(index, kind="stable")
            rows, index = rows.take(pa.array(order)), index[order]
        return Checked(rows, index, rejected)

    def _laid_out(self, batch: Joined, keys: Sequence[bytes | None]) -> list[tuple[Index, pa.Table]]:
        """Accept what is plainly good and has a layout that is known, or that most of what is left has."""
        parts: list[tuple[Index, pa.Table]] = []
        for layout in list(self._layouts):
            self._read(layout, batch, keys, parts)
        left = np.flatnonzero(batch.open)
        if len(left) * _FEW > len(batch.open):
            for at in left[[0, len(left) // 2, -1]].tolist():
                text = bytes(batch.data[batch.starts[at] + HEADER_BYTES : batch.ends[at]])
                fresh = learned(text, self._stream.fields)
                if fresh is not None and fresh not in self._layouts:
                    self._layouts = [fresh, *self._layouts][:_LAYOUTS]
                    self._read(fresh, batch, keys, parts)
                    break
        return parts

    def _read(
        self, layout: Layout, batch: Joined, keys: Sequence[bytes | None], parts: list[tuple[Index, pa.Table]]
    ) -> None:
        wanted = np.flatnonzero(batch.open)
        found = read(layout, batch, wanted, self._schema) if len(wanted) else None
        if found is None:
            return
        rows, table = found
        batch.open[rows] = False
        self._accept(batch, keys, rows, table, parts)

    def _columns(
        self, batch: Joined, keys: Sequence[bytes | None], low: int, high: int, parts: list[tuple[Index, pa.Table]]
    ) -> None:
        """Accept what is plainly good among ``[low, high)``; mark the rest as doubtful."""
        wanted = np.flatnonzero(batch.open[low:high]) + low
        if not len(wanted):
            return
        try:
            table = self._typed(batch.text(low, high), len(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
            if high - low <= _SMALL:
                batch.doubt(wanted)
                return
            # The parser often names the row that it stumbled over; a wrong hint costs time, nothing else.
            hint = _ROW.search(str(error))
            middle = (low + high) // 2
            if hint is not None and 0 < int(hint[1]) < len(wanted):
                middle = int(wanted[int(hint[1])])
                batch.doubt(wanted[int(hint[1]) : int(hint[1]) + 1])
            self._columns(batch, keys, low, middle, parts)
            self._columns(batch, keys, middle, high, parts)
            return
        self._accept(batch, keys, wanted, table, parts)

    def _accept(
        self,
        batch: Joined,
        keys: Sequence[bytes | None],
        rows: Index,
        table: pa.Table,
        parts: list[tuple[Index, pa.Table]],
    ) -> None:
        """Take what is within the contract; the rest of the rows is doubtful."""
        good = self._good(table, self._chosen(keys, rows) if self._keyed else None)
        if good is not None:
            batch.doubt(rows[~good])
            table, rows = table.filter(pa.array(good)), rows[good]
        parts.append((rows, table))

    @staticmethod
    def _chosen(keys: Sequence[bytes | None], rows: Index) -> Sequence[bytes | None]:
        return keys if len(rows) == len(keys) else [keys[at] for at in rows.tolist()]

    def _typed(self, text: pa.Buffer, rows: int) -> pa.Table:
        options = arrow_json.ReadOptions(use_threads=False, block_size=max(text.size + 1, 1024))
        table = arrow_json.read_json(pa.BufferReader(text), read_options=options, parse_options=self._parse)
        if table.num_rows != rows:
            raise pa.ArrowInvalid("several values in one message")
        columns = []
        for field in self._schema:
            column = table.column(field.name).combine_chunks()
            if pa.types.is_timestamp(field.type):
                if not _all(pc.match_substring_regex(column, _PLAIN_TIMESTAMP)):
                    raise pa.ArrowInvalid("an unusual timestamp")
                column = column.cast(field.type)
            columns.append(column)
        return pa.table(columns, schema=self._schema)

    def _good(self, table: pa.Table, keys: Sequence[bytes | None] | None) -> Mask | None:
        """Which rows are plainly within the contract; None if all are."""
        masks = []
        for name, field in self._stream.fields.items():
            column = table.column(name)
            if not field.nullable and column.null_count:
                masks.append(pc.is_valid(column))
            masks.extend(m for m in within(field, column) if not _all(m))
        if keys is not None:
            column = table.column(self._stream.key).cast(pa.string()).cast(pa.binary())
            same = pc.equal(column, pa.chunked_array([pa.array(keys, pa.binary())]))
            # Null marks a missing key here, not a missing optional value.
            same = pc.fill_null(same, False)
            if not _all(same):
                masks.append(same)
        if not masks:
            return None
        together = reduce(pc.and_, [pc.fill_null(mask, True) for mask in masks])
        return np.asarray(together.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.bool_)


def _chunks(sizes: Index) -> Iterator[tuple[int, int]]:
    """Pieces of a batch, bounded in number and in size."""
    low, count = 0, len(sizes)
    while low < count:
        high = min(low + _CHUNK, count)
        fitting = int(np.searchsorted(np.cumsum(sizes[low:high]), _CHUNK_BYTES, side="right"))
        high = min(high, low + max(1, fitting))
        yield low, high
        low = high


def _all(mask: pa.ChunkedArray | pa.Array) -> bool:
    """Whether no row is false; null (a null value of a nullable field) passes."""
    return pc.all(mask, min_count=0).as_py() is not False


def within(field: FieldContract, column: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    """Masks of the rows within each of the field's limits; null where the value is."""
    if field.type in ("integer", "number"):
        bounds = limits(field)
        found = [pc.is_finite(column)] if field.type == "number" else []
        if field.minimum is not None:
            found.append(pc.greater_equal(column, pa.scalar(bounds.least, column.type)))
        if field.maximum is not None:
            found.append(pc.less_equal(column, pa.scalar(bounds.greatest, column.type)))
        return found
    if field.type != "string":
        return []
    found = [pc.less_equal(pc.utf8_length(column), field.max_length)]
    if field.enum is not None:
        # is_in says false for null; null values are judged by nullability alone.
        found.append(pc.or_(pc.is_null(column), pc.is_in(column, pa.array(field.enum, pa.string()))))
    if field.pattern is not None:
        found.append(_matches(field.pattern, column))
    return found


def _matches(pattern: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if portable(pattern):
        try:
            return pc.match_substring_regex(column, f"^(?:{pattern})$")
        except pa.ArrowInvalid:
            # RE2 refuses some repeats that Python takes.
            pass
    compiled = re.compile(pattern)
    found = [None if text is None else compiled.fullmatch(text) is not None for text in column.to_pylist()]
    return pa.chunked_array([pa.array(found, pa.bool_())])
