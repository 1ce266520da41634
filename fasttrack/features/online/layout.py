"""How Feast lays features out in Redis: one hash for each entity key, one field for each column of each view.

The layout is that of Feast 0.67 with entity keys of version 3, as in its ``infra/key_encoding_utils.py``,
``infra/online_stores/redis.py`` and ``protos/feast/types/Value.proto``. This module imports nothing of Feast, which
would cost a server seconds and hundreds of megabytes; the tests hold it against Feast itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import mmh3
import numpy as np
from numpy.typing import NDArray

from fasttrack.errors import IntegrityError, InvalidRequestError

Value = str | int | float | NDArray[np.float64] | None

_STRING = 2  # ValueType.STRING: names of keys always are, and so are our entities' values
_COUNT = struct.Struct("<I")
_TYPE_AND_LENGTH = struct.Struct("<II")
_DOUBLE = struct.Struct("<xd")  # the tag, then the number
_DOUBLE_TAG = 5 << 3 | 1
_PACKED = 0x0A  # field 1, length-delimited: `DoubleList.val`


class KeyLayout:
    """The Redis keys of one set of join keys.

    Args:
        project: Feast's name of the project.
        join_keys: names of the keys, in any order; Feast sorts them.
    """

    def __init__(self, project: str, join_keys: Iterable[str]) -> None:
        self._names = sorted(join_keys)
        names = [_sized(name) for name in self._names]
        self._head = _COUNT.pack(len(names)) + b"".join(names)
        self._tail = project.encode()

    def encode(self, values: Mapping[str, str]) -> bytes:
        """The Redis key of an entity.

        Args:
            values: the value of each join key; others are ignored.

        Raises:
            InvalidRequestError: a value has a character that UTF-8 doesn't know.
        """
        try:
            return self._head + b"".join([_sized(values[name]) for name in self._names]) + self._tail
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"the entity keys can't be looked up: {error}") from error


def field_name(view: str, column: str) -> bytes:
    """The field of a view's column in each of its hashes: 4 bytes, the little-endian murmur3 of ``view:column``."""
    return mmh3.hash(f"{view}:{column}", signed=False).to_bytes(4, "little")


def decode(stored: bytes | None) -> Value:
    """The value of a field.

    Args:
        stored: a serialized ``feast.types.Value`` of one of the kinds that are written: string, int64, double, list of
            doubles, or none of them (null); ``None`` if the hash has no such field.

    Returns:
        ``None`` for null and for a field that isn't there; a list as a read-only float64 [n].

    Raises:
        IntegrityError: the bytes are something else.
    """
    if not stored:
        return None
    # Most values, by far.
    if len(stored) == _DOUBLE.size and stored[0] == _DOUBLE_TAG:
        return cast(float, _DOUBLE.unpack(stored)[0])
    try:
        return _DECODERS[stored[0]](stored)
    except (KeyError, IndexError, ValueError, struct.error) as error:
        raise IntegrityError(
            f"the online store has a value that isn't one of ours: {stored[:16].hex()}.",
            fix="Run the features step again, with the release that serves.",
        ) from error


def _sized(text: str) -> bytes:
    encoded = text.encode()
    return _TYPE_AND_LENGTH.pack(_STRING, len(encoded)) + encoded


def _text(stored: bytes) -> str:
    return _content(stored).decode()


def _integer(stored: bytes) -> int:
    number, end = _varint(stored, 1)
    if end != len(stored) or number >> 64:
        raise ValueError("not one 64-bit number")
    return number - (1 << 64) if number >> 63 else number


def _doubles(stored: bytes) -> NDArray[np.float64]:
    packed = _content(stored)
    if packed and packed[0] != _PACKED:
        raise ValueError("not packed")
    return np.frombuffer(_content(packed) if packed else b"", "<f8")


def _content(stored: bytes) -> bytes:
    """What a length-delimited field that fills `stored` contains."""
    length, start = _varint(stored, 1)
    if start + length != len(stored):
        raise ValueError("another length than announced")
    return stored[start:]


def _varint(stored: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the place after it."""
    number = shift = 0
    while (byte := stored[at]) & 0x80:
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return number | byte << shift, at + 1


#: By the tag of the field of `Value`: its number, three bits left, and its wire type. Doubles are read by `decode`.
_DECODERS: dict[int, Callable[[bytes], Value]] = {
    2 << 3 | 2: _text,
    4 << 3 | 0: _integer,
    15 << 3 | 2: _doubles,
}
