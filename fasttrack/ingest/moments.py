"""Moments in many texts at once: their form is checked and their values are read, eight bytes a step."""

from __future__ import annotations

import numpy as np

from fasttrack.ingest.joined import Index, Mask
from fasttrack.ingest.words import Word, Words

_DIGIT = 0x30
_LAST_YEAR = 2999
_TEN, _BYTE = np.uint64(10), np.uint64(0xFF)


def moments(words: Words, start: Index, end: Index) -> tuple[Mask, Index]:
    """Which texts are a contract's timestamps, in the years 1000 to 2999, and their microseconds since 1970."""
    length = end - start
    good: Mask = (length >= _SHORTEST) & (length <= _LONGEST) & (length != _SHORTEST + 1)
    which = np.clip(length - _SHORTEST, 0, _LONGEST - _SHORTEST)
    seen = words.at(start, 4)
    for number in range(4):
        for shape in _SHAPES:
            # The first 16 characters are the same in all.
            row = 0 if number < 2 else which
            word = (seen[:, number] + shape.plus[row, number]) & shape.keep[row, number]
            good &= word == shape.wanted[row, number]
    date, clock = _pairs(seen[:, 0], _DIGITS[0, 0]), _pairs(seen[:, 1], _DIGITS[0, 1])
    second, fraction = _pairs(seen[:, 2], _DIGITS[which, 2]), _pairs(seen[:, 3], _DIGITS[which, 3])
    # YYYY-MM-DDTHH:MM:SS.ffffff
    year, month = _at(date, 0) * 100 + _at(date, 2), _at(date, 5)
    place = np.minimum(year, _LAST_YEAR) * 16 + (month & 15)
    day, hour, minute, seconds = _at(clock, 0), _at(clock, 3), _at(clock, 6), _at(second, 1)
    good &= (day >= 1) & (day <= _MONTH_DAYS[place]) & (hour < 24) & (minute < 60) & (seconds < 60)
    since = ((_MONTH_STARTS[place] + day - 1) * 86_400 + hour * 3600 + minute * 60 + seconds) * 1_000_000
    return good, since + _at(second, 4) * 10_000 + _at(second, 6) * 100 + _at(fraction, 0)


def _pairs(words: Word, digits: Word) -> Word:
    """In each byte the number that its digit and the next byte's are together; what is no digit counts as zero."""
    value = words & digits
    pairs: Word = value * _TEN + (value >> np.uint64(8))
    return pairs


def _at(pairs: Word, byte: int) -> Index:
    return ((pairs >> np.uint64(8 * byte)) & _BYTE).view(np.int64)


def _months() -> tuple[Index, Index]:
    """Days from 1970 to the month, and its length, by ``year * 16 + month``; no month has no days."""
    starts, days = np.zeros((2, (_LAST_YEAR + 1) * 16), np.int64)
    first = np.arange("0000-01", f"{_LAST_YEAR + 1}-01", dtype="datetime64[M]")
    place = np.arange(len(first)) // 12 * 16 + np.arange(len(first)) % 12 + 1
    starts[place] = first.astype("datetime64[D]").astype(np.int64)
    days[place] = (first + 1).astype("datetime64[D]").astype(np.int64) - starts[place]
    return starts, days


_SHORTEST, _LONGEST = len("2020-01-01T00:00:00Z"), len("2020-01-01T00:00:00.000000Z")


def _form(length: int) -> str:
    """A timestamp's characters: ``y`` is 1 or 2, ``b`` 0 or 1, ``q`` 0 to 3, ``d`` any digit."""
    fraction = "" if length == _SHORTEST else "." + "d" * (length - _SHORTEST - 1)
    return f"yddd-bd-qdTqd:dd:dd{fraction}Z"


class _Shape:
    """For timestamps of each length, byte by byte: what is added, which bits then count, and what they must be.

    Args:
        known: these three for each class of characters; another character stands for itself.
    """

    def __init__(self, known: dict[str, tuple[int, int, int]]) -> None:
        self.plus, self.keep, self.wanted = (np.zeros((_LONGEST - _SHORTEST + 1, 4), np.uint64) for _ in range(3))
        for length in range(_SHORTEST, _LONGEST + 1):
            rules = [known.get(character, (0, 0xFF, ord(character))) for character in _form(length)]
            for table, part in zip((self.plus, self.keep, self.wanted), zip(*rules, strict=True), strict=True):
                table[length - _SHORTEST] = np.frombuffer(bytes(part).ljust(32, b"\0"), "<u8")


_ANY = (0, 0xF0, _DIGIT)
# A digit has 3 as its upper half, and still once 6 is added to it.
_SHAPES = (
    _Shape({"y": (1, 0xFE, 0x32), "b": (0, 0xFE, _DIGIT), "q": (0, 0xFC, _DIGIT), "d": _ANY}),
    _Shape({"y": _ANY, "b": _ANY, "q": _ANY, "d": (6, 0xF0, _DIGIT)}),
)
# Where digits are, by length.
_DIGITS = np.array(
    [
        np.frombuffer(
            bytes(0x0F * character.isalpha() * (character not in "TZ") for character in _form(length)).ljust(32, b"\0"),
            "<u8",
        )
        for length in range(_SHORTEST, _LONGEST + 1)
    ]
)
_MONTH_STARTS, _MONTH_DAYS = _months()
