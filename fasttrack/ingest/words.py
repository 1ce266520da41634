"""Questions to a buffer of text at many places at once, eight bytes a step."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from fasttrack.ingest.joined import ROOM, Bytes, Index, Mask

Word = npt.NDArray[np.uint64]

_ZEROS = np.uint64(0x3030303030303030)
_HIGH = np.uint64(0x8080808080808080)
_HALVES = np.uint64(0xF0F0F0F0F0F0F0F0)
_SIXES = np.uint64(0x0606060606060606)
_DOTS = np.uint64(0x2E2E2E2E2E2E2E2E)
_OVER_NINE = np.uint64(0x7676767676767676)
_ONE, _SIX, _63 = np.uint64(1), np.uint64(6), np.uint64(63)
_MINUS, _DIGIT, _POINT, _QUOTE = 0x2D, 0x30, 0x2E, 0x22
# A double's text needs no more than 24 characters; what has 18 digits fits 64 bits.
_NUMBER_BYTES, _WHOLE_DIGITS = 24, 18
# Texts are followed for this many steps of 64 bytes.
_STEPS, _BITS = 64, 64

# For a word of which the last k bytes count: what to keep of it.
_TAIL = np.array([0, *(2**64 - 2 ** (64 - 8 * k) for k in range(1, 9))], np.uint64)


def shifted(words: Word, count: int) -> Word:
    """The first `count` bytes of each word, the others zero."""
    return cast(Word, words & np.uint64(2 ** (8 * count) - 1))


class Words:
    """A buffer with at least `ROOM` bytes before and behind its text.

    Args:
        data: the buffer.

    Attributes:
        last: the greatest place that may be asked for.
    """

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self.last = len(data) - ROOM
        bits = np.packbits(data == _QUOTE, bitorder="little")
        self._quotes = np.concatenate([bits, np.zeros(16 - len(bits) % 8, np.uint8)]).view("<u8")

    def at(self, place: Index, count: int) -> Word:
        """`count` words from each place on, ``[n, count]``."""
        size = 8 * count
        seen = np.ndarray((len(self._data) - size + 1,), f"V{size}", self._data, strides=(1,))
        return seen[place].view("<u8").reshape(len(place), count)

    def match(self, place: Index, literal: bytes) -> tuple[Mask, Word]:
        """Whether the literal stands at each place, and the word behind it."""
        full, rest = divmod(len(literal), 8)
        seen = self.at(place, full + (2 if rest else 1))
        wanted = np.frombuffer(literal + b"\0" * (8 - rest), "<u8")
        same: Mask = seen[:, 0] == wanted[0] if full else np.ones(len(place), np.bool_)
        for number in range(1, full):
            same &= seen[:, number] == wanted[number]
        if not rest:
            return same, seen[:, full]
        same &= shifted(seen[:, full], rest) == wanted[full]
        behind = (seen[:, full] >> np.uint64(8 * rest)) | (seen[:, full + 1] << np.uint64(64 - 8 * rest))
        return same, behind

    def quote(self, place: Index) -> Index:
        """Where the next quote from each place on is; none is looked for further than 4 KiB."""
        ahead = self._ahead(place)
        found = place + ahead
        left = np.flatnonzero(ahead == _BITS)
        for _ in range(_STEPS):
            if not len(left):
                break
            found[left] = np.minimum(found[left], self.last)
            ahead = self._ahead(found[left])
            found[left] += ahead
            left = left[ahead == _BITS]
        return cast(Index, np.minimum(found, self.last))

    def _ahead(self, place: Index) -> Bytes:
        """How far ahead the next quote is, or 64."""
        where = place.view(np.uint64)
        word, bit = (where >> _SIX).view(np.int64), where & _63
        seen = (self._quotes[word] >> bit) | ((self._quotes[word + 1] << _ONE) << (_63 - bit))
        # As many bits as there are below the lowest one that is set.
        return cast(Bytes, np.bitwise_count((seen & (~seen + _ONE)) - _ONE))

    def unsigned(self, start: Index) -> Index:
        """Behind a minus sign, if there is one."""
        return cast(Index, start + (self._data[start] == _MINUS))

    def tails(self, first: Index, end: Index, count: int) -> list[Word]:
        """The last `count` words before `end`, the last one first; what lies before `first` reads as zeros."""
        seen = self.at(end - 8 * count, count)
        length = end - first
        found = []
        for number in range(count):
            keep = _TAIL[np.clip(length - 8 * number, 0, 8)]
            found.append((seen[:, count - 1 - number] & keep) | (_ZEROS & ~keep))
        return found

    def whole(self, start: Index, end: Index) -> tuple[Mask, Index]:
        """Which texts are whole numbers as JSON writes them, of at most 18 digits, and their values.

        Eight digits are brought together pair by pair (Lemire and Muła, "Quickly parsing eight digits", 2018).
        """
        first = self.unsigned(start)
        length = end - first
        good: Mask = (length > 0) & (length <= _WHOLE_DIGITS)
        good &= (self._data[first] != _DIGIT) | (length == 1)
        total = np.zeros(len(start), np.uint64)
        for number, word in enumerate(self.tails(first, end, _needed(length, _WHOLE_DIGITS))):
            good &= ((word & _HALVES) == _ZEROS) & (((word + _SIXES) & _HALVES) == _ZEROS)
            pairs = word - _ZEROS
            pairs = pairs * np.uint64(10) + (pairs >> np.uint64(8))
            low = (pairs & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
            high = ((pairs >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
            total += ((low + high) >> np.uint64(32)) * np.uint64(10 ** (8 * number))
        found = total.view(np.int64)
        return good, np.where(first > start, -found, found)

    def decimal(self, start: Index, end: Index) -> Mask:
        """Whether each text is a number as JSON writes it, without exponent, of at most 24 characters."""
        first = self.unsigned(start)
        length = end - first
        good: Mask = (length > 0) & (length <= _NUMBER_BYTES)
        edge = self._data[np.maximum(end - 1, 0)]
        good &= ((self._data[first] - np.uint8(_DIGIT)) <= 9) & ((edge - np.uint8(_DIGIT)) <= 9)
        good &= (self._data[first] != _DIGIT) | (length == 1) | (self._data[first + 1] == _POINT)
        points = np.zeros(len(start), np.uint8)
        for word in self.tails(first, end, _needed(length, _NUMBER_BYTES)):
            value = word ^ _ZEROS
            other = ((value + _OVER_NINE) | value) & _HIGH
            # A byte that is no digit must be the point, and there may be one.
            spread = (other >> np.uint64(7)) * np.uint64(0xFF)
            good &= ((word ^ _DOTS) & spread) == 0
            points += np.bitwise_count(other)
        return good & (points <= 1)


def _needed(length: Index, most: int) -> int:
    """How many words the longest of the texts takes."""
    longest = int(length.max(initial=0))
    return -(-min(max(longest, 1), most) // 8)
