"""The messages of a batch in one buffer, and what can be asked of all their bytes at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fasttrack.ingest.contracts import HEADER_BYTES

#: Bytes before the first and behind the last message: whoever reads words around a byte stays within the buffer.
ROOM = 64
_ROOM = b" " * ROOM
_HEADER, _BLANK = np.uint64(0xFFFFFFFFFF), np.uint64(0x2020202020)
_SPACE, _NEWLINE, _BACKSLASH, _OPEN, _CLOSE = 0x20, 0x0A, 0x5C, 0x7B, 0x7D

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Joined:
    """The messages one after the other, headers blanked, one message a line.

    Args:
        values: the messages.
        sizes: how long they are.
        schema_ids: the ids that a header may name.
        max_bytes: how long a message may be.

    Attributes:
        bytes: all of it, ``[n]``.
        starts, ends: where each message lies, header included.
        doubtful: the messages that are not plainly good; for a caller to add to.
        open: those that nobody has decided on.
    """

    def __init__(self, values: Sequence[bytes], sizes: Index, schema_ids: frozenset[int], max_bytes: int) -> None:
        self.data = bytearray().join([_ROOM, *values, _ROOM])
        self.bytes: Bytes = np.frombuffer(self.data, np.uint8)
        self.ends: Index = np.cumsum(sizes) + ROOM
        self.starts: Index = self.ends - sizes
        # `{}` is the shortest text that can be an event.
        self.doubtful: Mask = (sizes < HEADER_BYTES + 2) | (sizes > max_bytes)
        self._check_headers(schema_ids)
        self._blank(self.doubtful)
        self._check_bytes()
        self.open: Mask = ~self.doubtful

    def text(self, low: int, high: int) -> pa.Buffer:
        """The JSON lines of those of the messages ``[low, high)`` that are open."""
        self._blank(~self.open[low:high], low)
        self.bytes[self.starts[low:high][self.open[low:high]]] = _NEWLINE
        start, end = int(self.starts[low]), int(self.ends[high - 1])
        return pa.py_buffer(self.data).slice(start, end - start)

    def doubt(self, which: Index | slice) -> None:
        """Leave these to the row check."""
        self.doubtful[which] = True
        self.open[which] = False

    def check_braces(self) -> None:
        """Doubt the messages with a second brace.

        Several values in one message are several rows to Arrow's parser, and it crashes on a bare ``null`` among them.
        A valid event is flat, so other braces stand only within strings.
        """
        for brace in (_OPEN, _CLOSE):
            owner = self._owner(np.flatnonzero(self.bytes == brace))
            self.doubt(np.flatnonzero((np.bincount(owner, minlength=len(self.starts)) > 1) & self.open))

    def _blank(self, which: Mask, low: int = 0) -> None:
        """Leave nothing of these messages."""
        for at in (np.flatnonzero(which) + low).tolist():
            self.bytes[self.starts[at] : self.ends[at]] = _SPACE

    def _check_headers(self, schema_ids: frozenset[int]) -> None:
        framed = np.flatnonzero(~self.doubtful)
        # A word at each byte, so that a header is one number: zero, the schema's id, three bytes of the text.
        words = np.ndarray((len(self.data) - 7,), "<u8", self.data, strides=(1,))
        heads = words[self.starts[framed]]
        wanted = [int.from_bytes(b"\0" + schema_id.to_bytes(4, "big"), "little") for schema_id in sorted(schema_ids)]
        good = np.isin(heads & _HEADER, np.array(wanted, np.uint64))
        self.doubtful[framed[~good]] = True
        framed, heads = framed[good], heads[good]
        words[self.starts[framed]] = heads & ~_HEADER | _BLANK
        braced = (self.bytes[self.starts[framed] + HEADER_BYTES] == _OPEN) & (
            self.bytes[self.ends[framed] - 1] == _CLOSE
        )
        self.doubtful[framed[~braced]] = True

    def _check_bytes(self) -> None:
        """Doubt what Arrow's parser treats otherwise than JSON does.

        Control bytes (it stops at NUL, and a newline would split a message), escapes (half surrogates), and bytes that
        are not UTF-8. Each question is first asked of all bytes at once, as the answer is mostly no.
        """
        if self.bytes.min() < _SPACE:
            self._doubt(np.flatnonzero(self.bytes < _SPACE))
        if b"\\" in self.data:
            self._doubt(np.flatnonzero(self.bytes == _BACKSLASH))
        if not self.data.isascii():
            for at in np.unique(self._owner(np.flatnonzero(self.bytes > 0x7F))).tolist():
                try:
                    self.data[self.starts[at] : self.ends[at]].decode()
                except UnicodeDecodeError:
                    self.doubtful[at] = True

    def _owner(self, offsets: Index) -> Index:
        return np.searchsorted(self.ends, offsets, side="right")

    def _doubt(self, offsets: Index) -> None:
        self.doubtful[self._owner(offsets)] = True
