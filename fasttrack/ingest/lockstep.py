"""Many Avro records decoded at once: a cursor a record, all moved over one field after the other.

A cursor never goes back, so one that ever left its record isn't at the record's end when the last field is read: that
is checked once, at the end. Until then it may read bytes of the records behind, or of the room after the last one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fasttrack.ingest.avro import WrittenField

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

#: The first and last microsecond of Python's datetimes.
MOMENTS = (-62_135_596_800_000_000, 253_402_300_799_999_999)

_MOMENT = pa.timestamp("us", "UTC")
_HIGH, _LOW = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
_ONE = np.uint64(1)
# Seven bits of each byte become 14 of each second, 28 of each fourth, 56 of all eight.
_FOLDS = tuple(
    (np.uint64(low), np.uint64(high), np.uint64(shift))
    for low, high, shift in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)


def overrun(fields: int) -> int:
    """How many bytes behind the last record cursors may read, for records of so many fields."""
    return 32 + 12 * fields


class Lockstep:
    """Cursors over records.

    Args:
        data: the bytes, with `overrun` bytes behind the last record.
        starts, ends: where each record starts and ends; ascending.
    """

    def __init__(self, data: Bytes, starts: Index, ends: Index) -> None:
        self._data, self._at, self._ends = data, starts, ends
        self._bad: Mask = np.zeros(len(starts), np.bool_)
        self._buffer = pa.py_buffer(data)

    def whole(self) -> Mask:
        """Which records were decoded to their last byte, without any doubt."""
        ended: Mask = self._at == self._ends
        return ended & ~self._bad

    def field(self, written: WrittenField) -> pa.Array:
        """Read the next field; what it gives for records that turn out not to be `whole` is of no meaning."""
        absent: Mask | None = None
        if written.null is not None:
            branch = self._data[self._at]
            self._at = self._at + 1
            absent = branch == 2 * written.null
            self._bad |= ~absent & (branch != 2 - 2 * written.null)
            if not absent.any():
                absent = None
        return _READERS[written.kind](self, absent)

    def _wide(self, kind: str) -> npt.NDArray[np.generic]:
        """A number of `kind` at each cursor, wherever it stands."""
        size = np.dtype(kind).itemsize
        windows: npt.NDArray[np.generic] = np.ndarray((len(self._data) - size + 1,), kind, self._data, strides=(1,))
        return windows[self._at]

    def _move(self, size: Index | int, absent: Mask | None) -> None:
        self._at = self._at + (size if absent is None else np.where(absent, 0, size))

    def _doubt(self, wrong: Mask, absent: Mask | None) -> None:
        self._bad |= wrong if absent is None else wrong & ~absent

    def _varint(self, absent: Mask | None) -> Index:
        words = self._wide("<u8").astype(np.uint64, copy=False)
        stops = ~words & _HIGH
        # The lowest bit that says "the last byte" less one: all bits of the number. Of none in eight bytes: all.
        inside = (stops & (~stops + _ONE)) - _ONE
        size = ((np.bitwise_count(inside) + 1) >> 3).astype(np.int64)
        found = words & inside & _LOW
        for low, high, shift in _FOLDS:
            found = (found & low) | ((found & high) >> shift)
        longer = np.flatnonzero(stops == 0)
        if len(longer):
            self._longer(longer, found, size, absent)
        self._move(size, absent)
        return ((found >> _ONE) ^ (~(found & _ONE) + _ONE)).view(np.int64)

    def _longer(self, rows: Index, found: Words, size: Index, absent: Mask | None) -> None:
        """The ninth and tenth bytes of numbers that have them."""
        ninth, tenth = (self._data[self._at[rows] + at].astype(np.uint64) for at in (8, 9))
        more = ninth > 0x7F
        found[rows] |= (ninth & np.uint64(0x7F)) << np.uint64(56) | np.where(more, tenth, 0) << np.uint64(63)
        size[rows] += 1 + more
        wrong = np.zeros(len(size), np.bool_)
        wrong[rows] = more & (tenth > 1)
        self._doubt(wrong, absent)

    def _long(self, absent: Mask | None) -> pa.Array:
        return pa.array(self._varint(absent), mask=absent)

    def _int(self, absent: Mask | None) -> pa.Array:
        found = self._varint(absent)
        self._doubt((found < -(2**31)) | (found >= 2**31), absent)
        return pa.array(found, mask=absent)

    def _moment(self, absent: Mask | None) -> pa.Array:
        found = self._varint(absent)
        self._doubt((found < MOMENTS[0]) | (found > MOMENTS[1]), absent)
        return pa.array(found, mask=absent).cast(_MOMENT)

    def _boolean(self, absent: Mask | None) -> pa.Array:
        found = self._data[self._at]
        self._doubt(found > 1, absent)
        self._move(1, absent)
        return pa.array(found == 1, mask=absent)

    def _double(self, absent: Mask | None) -> pa.Array:
        found = self._wide("<f8")
        self._move(8, absent)
        return pa.array(found, mask=absent)

    def _float(self, absent: Mask | None) -> pa.Array:
        found = self._wide("<f4")
        self._move(4, absent)
        return pa.array(found, mask=absent)

    def _string(self, absent: Mask | None) -> pa.Array:
        size = self._size(absent)
        # A cursor beyond its end can't be whole any more; its string must still not reach into the next one's.
        start = np.minimum(self._at, self._ends)
        wrong = (size < 0) | (size > self._ends - start)
        self._doubt(wrong, absent)
        size[wrong if absent is None else wrong | absent] = 0
        self._at = self._at + size
        # Every second value of this array is the gap between two strings: nothing is copied but by `take`.
        edges = np.empty(2 * len(size), np.int32)
        edges[::2], edges[1::2] = start, start + size
        both = pa.Array.from_buffers(pa.binary(), len(edges) - 1, [None, pa.py_buffer(edges), self._buffer])
        return self._text(both.take(pa.array(np.arange(0, len(edges), 2), mask=absent)))

    def _size(self, absent: Mask | None) -> Index:
        first = self._data[self._at]
        if (first > 0x7F).any():
            return self._varint(absent)
        self._move(1, absent)
        half = (first >> 1).astype(np.int64)
        return np.where(first & 1, -half - 1, half)

    def _text(self, column: pa.Array) -> pa.Array:
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            found: list[str | None] = []
            for at, value in enumerate(column.to_pylist()):
                try:
                    found.append(None if value is None else value.decode())
                except UnicodeDecodeError:
                    self._bad[at] = True
                    found.append(None)
            return pa.array(found, pa.string())


_READERS: dict[str, Callable[[Lockstep, Mask | None], pa.Array]] = {
    "boolean": Lockstep._boolean,
    "int": Lockstep._int,
    "long": Lockstep._long,
    "float": Lockstep._float,
    "double": Lockstep._double,
    "string": Lockstep._string,
    "timestamp-micros": Lockstep._moment,
}
