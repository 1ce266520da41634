"""Messages of one layout: what stands between the values is the same bytes in each, so only the values are looked at.

A producer writes its events' fields in one order with one spacing. The layout is learned from a message; whatever
differs from it, or has a value that is not in its plainest form, is left to a real parser. Text is compared and numbers
are read eight bytes at a time ("SIMD within a register", Lamport 1975), one step for all messages.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fasttrack.ingest.contracts import HEADER_BYTES
from fasttrack.ingest.joined import Bytes, Index, Joined, Mask
from fasttrack.ingest.moments import moments
from fasttrack.ingest.words import Words, shifted

_OPENING = re.compile(rb'\s*\{\s*"([^"\\]*)"\s*:\s*')
_NEXT = re.compile(rb'\s*,\s*"([^"\\]*)"\s*:\s*')
_VALUE = re.compile(rb'"[^"\\]*"|[^"\\,{}\[\]\s]+')
_CLOSING = re.compile(rb"\s*\}")
_LONGEST_LITERAL = 40


@dataclass(frozen=True)
class Layout:
    """The bytes around the values.

    Attributes:
        names: the fields in their order in the text.
        literals: what stands before each value, with the field's name in it.
        closing: what stands behind the last value.
    """

    names: tuple[str, ...]
    literals: tuple[bytes, ...]
    closing: bytes


def learned(text: bytes, names: Collection[str]) -> Layout | None:
    """The layout of a message.

    Args:
        text: its JSON.
        names: the fields that it may have.

    Returns:
        None if it is no flat object of these fields, each at most once.
    """
    found: list[str] = []
    literals: list[bytes] = []
    at = 0
    while (literal := (_NEXT if found else _OPENING).match(text, at)) is not None:
        name = literal[1].decode(errors="replace")
        value = _VALUE.match(text, literal.end())
        if name not in names or name in found or value is None or len(literal[0]) > _LONGEST_LITERAL:
            return None
        found.append(name)
        literals.append(literal[0])
        at = value.end()
    closing = _CLOSING.fullmatch(text, at)
    return Layout(tuple(found), tuple(literals), closing[0]) if found and closing is not None else None


@dataclass
class _Values:
    """One field's values, ``[n]`` each: where their texts lie, or what they are."""

    start: Index
    end: Index
    null: Mask | None
    known: Index | Mask | None = None


def read(layout: Layout, joined: Joined, rows: Index, schema: pa.Schema) -> tuple[Index, pa.Table] | None:
    """Read those of the messages `rows` that have the layout and plain values.

    Args:
        layout: the layout.
        joined: the messages.
        rows: which of them, ascending.
        schema: the event's columns (`event_schema`).

    Returns:
        The messages that were read, and their values; None if there are none.
    """
    scan = _Scan(layout, joined, rows)
    found = {name: scan.field(at, schema.field(name).type) for at, name in enumerate(layout.names)}
    good = scan.finished()
    count = int(np.count_nonzero(good))
    if not count:
        return None
    chosen = None if count == len(rows) else good
    every_second = np.arange(0, 2 * count, 2)
    columns = [
        _column(joined.bytes, found[field.name], field.type, chosen, every_second)
        if field.name in found
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return rows[good], pa.table(columns, schema=schema)


class _Scan:
    """Goes through all messages at once, field by field.

    A message that turns out to be other is only noted as such: its positions then mean nothing, but stay within the
    buffer.
    """

    def __init__(self, layout: Layout, joined: Joined, rows: Index) -> None:
        self._layout = layout
        self.words = Words(joined.bytes)
        self._at = joined.starts[rows] + HEADER_BYTES
        self._ends = joined.ends[rows]
        self._good: Mask = np.ones(len(rows), np.bool_)

    def field(self, number: int, kind: pa.DataType) -> _Values:
        """Step over the text before a value and over the value."""
        literal = self._layout.literals[number]
        same, head = self.words.match(self._at, literal)
        self._good &= same
        start = self._at + len(literal)
        null = shifted(head, 4) == _NULL
        if pa.types.is_boolean(kind):
            return self._word(start, head, null)
        if pa.types.is_string(kind) or pa.types.is_timestamp(kind):
            return self._text(start, head, null, pa.types.is_timestamp(kind))
        return self._number(start, null, number, pa.types.is_integer(kind))

    def finished(self) -> Mask:
        """Which messages end as the layout does."""
        closing = self._layout.closing
        same, _ = self.words.match(self._at, closing)
        good: Mask = self._good & same & (self._at + len(closing) == self._ends)
        return good

    def _word(self, start: Index, head: npt.NDArray[np.uint64], null: Mask) -> _Values:
        false = shifted(head, 5) == _FALSE
        self._good &= false | null | (shifted(head, 4) == _TRUE)
        self._go(start + 4 + false)
        return _Values(start, start, null if null.any() else None, ~false)

    def _text(self, start: Index, head: npt.NDArray[np.uint64], null: Mask, moment: bool) -> _Values:
        quoted = shifted(head, 1) == _QUOTE
        begin = np.minimum(start + 1, self.words.last)
        end = self.words.quote(begin)
        if quoted.all():
            self._go(end + 1)
            known = None
        else:
            self._good &= quoted | null
            self._go(np.where(quoted, end + 1, start + 4))
            end = np.where(quoted, end, begin)
            known = null & ~quoted
        if not moment:
            return _Values(begin, end, known)
        plain, since = moments(self.words, begin, end)
        self._good &= plain if known is None else plain | known
        return _Values(begin, end, known, since)

    def _number(self, start: Index, null: Mask, number: int, whole: bool) -> _Values:
        following = self._layout.literals[number + 1 :]
        if following:
            end = self.words.quote(start) - following[0].index(b'"')
        else:
            end = self._ends - len(self._layout.closing)
        end = np.clip(end, start, self.words.last)
        value = None
        if whole:
            plain, value = self.words.whole(start, end)
        else:
            plain = self.words.decimal(start, end)
        some = bool(null.any())
        if some:
            null &= end - start == 4
        self._good &= plain | null if some else plain
        self._go(end)
        return _Values(start, end, null if some else None, value)

    def _go(self, to: Index) -> None:
        self._at = np.minimum(to, self.words.last)


_NULL, _TRUE, _FALSE, _QUOTE = (
    np.uint64(int.from_bytes(word, "little")) for word in (b"null", b"true", b"false", b'"')
)


def _column(data: Bytes, values: _Values, kind: pa.DataType, good: Mask | None, every_second: Index) -> pa.Array:
    null = values.null if values.null is None or good is None else values.null[good]
    if values.known is not None:
        found = pa.array(values.known if good is None else values.known[good], mask=null)
        return found.cast(kind) if pa.types.is_timestamp(kind) else found
    start, end = (values.start, values.end) if good is None else (values.start[good], values.end[good])
    # The buffer is seen as values and gaps in turn, of which the values are taken.
    bounds = np.empty(2 * len(start), np.int32)
    bounds[0::2], bounds[1::2] = start, end
    both = pa.Array.from_buffers(pa.string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(data)])
    taken = both.take(pa.array(every_second, mask=null))
    return taken if pa.types.is_string(kind) else taken.cast(kind)
