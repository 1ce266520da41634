"""The check of many messages at once, in columns.

The messages' bytes are joined once and parsed as JSON lines by Arrow; limits are compared column by column. Whatever
is not plainly good here (Arrow's parser is laxer than JSON in places, and says nothing of which row failed) goes to
`rowcheck`, row by row, which decides. So the two can't disagree: this one only accepts, never refuses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from fasttrack.ingest.contracts import HEADER_BYTES, keyed_by_text
from fasttrack.ingest.rowcheck import Rejected, Rejection, RowChecker
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase.limits import limits, portable
from fasttrack.usecase.streams import FieldContract, Stream

_CHUNK = 8192
_ROW = re.compile(r"in row ([0-9]+)")
_SMALL = 48
_ROOM = b" " * 8
_HEADER, _BLANK = np.uint64(0xFFFFFFFFFF), np.uint64(0x2020202020)
_SPACE, _NEWLINE, _BACKSLASH, _OPEN, _CLOSE = 0x20, 0x0A, 0x5C, 0x7B, 0x7D
# Narrower than the contract's timestamps (years, days of the month): the rest is for the row check.
_PLAIN_TIMESTAMP = r"^[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z$"

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


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
        self._keyed = keyed_by_text(stream)
        text = [field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field for field in self._schema]
        self._parse = arrow_json.ParseOptions(explicit_schema=pa.schema(text), unexpected_field_behavior="error")

    def check(
        self, values: Sequence[bytes | None], keys: Sequence[bytes | None], schema_ids: Collection[int]
    ) -> Checked:
        """Decode and check a batch of messages; the arguments are as for `RowChecker.check`, one entry a message."""
        batch = _Batch(values, frozenset(schema_ids), self._stream.max_bytes)
        parts: list[tuple[Index, pa.Table]] = []
        for start in range(0, len(values), _CHUNK):
            self._columns(batch, keys, start, min(start + _CHUNK, len(values)), parts)
        doubtful = np.flatnonzero(batch.doubtful)
        rejected: list[tuple[int, Rejection]] = []
        accepted: list[dict[str, Any]] = []
        positions: list[int] = []
        for at in doubtful.tolist():
            try:
                accepted.append(self._rows.check(values[at], keys[at], schema_ids))
                positions.append(at)
            except Rejected as error:
                # Not the exception: its traceback would keep the whole batch in memory.
                rejected.append((at, error.rejection))
        if accepted:
            parts.append((np.array(positions, np.int64), pa.Table.from_pylist(accepted, self._schema)))
        return self._joined(parts, rejected, in_order=not accepted)

    def _joined(
        self, parts: list[tuple[Index, pa.Table]], rejected: list[tuple[int, Rejection]], in_order: bool
    ) -> Checked:
        if not parts:
            return Checked(self._schema.empty_table(), np.empty(0, np.int64), rejected)
        rows = pa.concat_tables([table for _, table in parts])
        index = np.concatenate([positions for positions, _ in parts])
        if not in_order:
            order = np.argsort(index, kind="stable")
            rows, index = rows.take(pa.array(order)), index[order]
        return Checked(rows, index, rejected)

    def _columns(
        self, batch: _Batch, keys: Sequence[bytes | None], low: int, high: int, parts: list[tuple[Index, pa.Table]]
    ) -> None:
        """Accept what is plainly good among ``[low, high)``; mark the rest as doubtful."""
        wanted = np.flatnonzero(~batch.doubtful[low:high]) + low
        if not len(wanted):
            return
        try:
            table = self._typed(batch.text(low, high), len(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
            if high - low <= _SMALL:
                batch.doubtful[low:high] = True
                return
            # The parser often names the row that it stumbled over; a wrong hint costs time, nothing else.
            hint = _ROW.search(str(error))
            middle = (low + high) // 2
            if hint is not None and 0 < int(hint[1]) < len(wanted):
                middle = int(wanted[int(hint[1])])
                batch.doubtful[middle] = True
            self._columns(batch, keys, low, middle, parts)
            self._columns(batch, keys, middle, high, parts)
            return
        good = self._good(table, self._chosen(keys, low, high, wanted) if self._keyed else None)
        if good is not None:
            batch.doubtful[wanted[~good]] = True
            table, wanted = table.filter(pa.array(good)), wanted[good]
        parts.append((wanted, table))

    @staticmethod
    def _chosen(keys: Sequence[bytes | None], low: int, high: int, wanted: Index) -> Sequence[bytes | None]:
        return keys[low:high] if len(wanted) == high - low else [keys[at] for at in wanted.tolist()]

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


class _Batch:
    """The messages of a batch in one buffer, headers blanked, one message a line."""

    def __init__(self, values: Sequence[bytes | None], schema_ids: frozenset[int], max_bytes: int) -> None:
        present = cast(Sequence[bytes], values)
        try:
            self._data = bytearray().join(present)
        except TypeError:
            present = [value or b"" for value in values]
            self._data = bytearray().join(present)
        # Behind the last message room for a word, as headers are read and blanked eight bytes at a time.
        self._data += _ROOM
        self._bytes: Bytes = np.frombuffer(self._data, np.uint8)
        sizes = np.fromiter(map(len, present), np.int64, len(present))
        self.ends: Index = np.cumsum(sizes)
        self.starts: Index = self.ends - sizes
        # `{}` is the shortest text that can be an event.
        self.doubtful: Mask = (sizes < HEADER_BYTES + 2) | (sizes > max_bytes)
        self._check_headers(schema_ids)
        self._blank(0, len(values))
        self._check_bytes()
        self._blank(0, len(values))
        self._bytes[self.starts[~self.doubtful]] = _NEWLINE

    def _blank(self, low: int, high: int) -> None:
        """Leave nothing of doubtful messages."""
        for at in (np.flatnonzero(self.doubtful[low:high]) + low).tolist():
            self._bytes[self.starts[at] : self.ends[at]] = _SPACE

    def text(self, low: int, high: int) -> pa.Buffer:
        """The JSON lines of the messages ``[low, high)`` that are not doubtful."""
        self._blank(low, high)
        start, end = int(self.starts[low]), int(self.ends[high - 1])
        return pa.py_buffer(self._data).slice(start, end - start)

    def _check_headers(self, schema_ids: frozenset[int]) -> None:
        framed = np.flatnonzero(~self.doubtful)
        # A word at each byte, so that a header is one number: zero, the schema's id, three bytes of the text.
        words = np.ndarray((len(self._data) - 7,), "<u8", self._data, strides=(1,))
        heads = words[self.starts[framed]]
        wanted = [int.from_bytes(b"\0" + schema_id.to_bytes(4, "big"), "little") for schema_id in sorted(schema_ids)]
        good = np.isin(heads & _HEADER, np.array(wanted, np.uint64))
        self.doubtful[framed[~good]] = True
        framed, heads = framed[good], heads[good]
        words[self.starts[framed]] = heads & ~_HEADER | _BLANK
        braced = (self._bytes[self.starts[framed] + HEADER_BYTES] == _OPEN) & (
            self._bytes[self.ends[framed] - 1] == _CLOSE
        )
        self.doubtful[framed[~braced]] = True

    def _check_bytes(self) -> None:
        """Doubt what Arrow's parser treats otherwise than JSON does.

        Control bytes (it stops at NUL, and a newline would split a message), escapes (half surrogates), bytes that
        are not UTF-8, and a second brace: several values in one message are several rows to it, and it crashes on
        a bare ``null`` among them. A valid event is flat, so other braces stand only within strings. Each question is
        first asked of all bytes at once, as the answer is mostly no.
        """
        data = self._bytes[: len(self._bytes) - len(_ROOM)]
        if not len(data):
            return
        if data.min() < _SPACE:
            self._doubt(np.flatnonzero(data < _SPACE))
        if b"\\" in self._data:
            self._doubt(np.flatnonzero(data == _BACKSLASH))
        framed = len(self.starts) - int(self.doubtful.sum())
        for brace in (_OPEN, _CLOSE):
            # Every message that is not doubtful begins and ends with one.
            if np.count_nonzero(data == brace) != framed:
                owner = self._owner(np.flatnonzero(data == brace))
                self.doubtful[np.flatnonzero(np.bincount(owner, minlength=len(self.starts)) > 1)] = True
        if not self._data.isascii():
            for at in np.unique(self._owner(np.flatnonzero(data > 0x7F))).tolist():
                try:
                    self._data[self.starts[at] : self.ends[at]].decode()
                except UnicodeDecodeError:
                    self.doubtful[at] = True

    def _owner(self, offsets: Index) -> Index:
        return np.searchsorted(self.ends, offsets, side="right")

    def _doubt(self, offsets: Index) -> None:
        self.doubtful[self._owner(offsets)] = True
