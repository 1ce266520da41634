"""PostgreSQL's logical replication messages (plugin ``pgoutput``, protocol version 1), read from bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from fasttrack.errors import IntegrityError

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Stands for a large value that an update left alone, so that the server doesn't tell it."""


UNCHANGED: Final = Unchanged()
Value = str | Unchanged | None
#: Values in the order of the relation's columns.
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins: `lsn` of its commit, when it was committed, its id."""

    lsn: int
    at: datetime
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """It ends: `lsn` of the commit, `end` of the transaction's log, when it was committed."""

    lsn: int
    end: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Column:
    """A column: whether it is of the key that tells rows apart, its name and its type's oid and modifier."""

    key: bool
    name: str
    type: int
    modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is from here on."""

    id: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A row's change.

    Attributes:
        kind: what happened.
        relation: the table's id.
        new: the row; None after a delete.
        old: the row before, or its key alone, where the server tells.
    """

    kind: Literal["insert", "update", "delete"]
    relation: int
    new: Row | None
    old: Row | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables were emptied."""

    relations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A message that tells nothing of rows: a type, an origin, a message of an application."""

    kind: str


Message = Begin | Commit | Relation | Change | Truncate | Other


class _Reader:
    """Takes the fields of one message from its front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        """An integer, big-endian, of `struct`'s type `form`."""
        size = struct.calcsize(f"!{form}")
        (found,) = struct.unpack(f"!{form}", self.take(size))
        return int(found)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size < 0 or self._at + size > len(self._data):
            raise _malformed(self._data, f"{size} bytes are missing after byte {self._at}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def text(self) -> str:
        """A text that a zero byte ends."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise _malformed(self._data, f"the text from byte {self._at} has no end")
        found = self.decode(self.take(end - self._at))
        self._at += 1
        return found

    def decode(self, data: bytes) -> str:
        """Bytes as text."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _malformed(self._data, f"a text is no UTF-8 before byte {self._at}") from error

    def moment(self) -> datetime:
        """A moment, in microseconds since 2000."""
        micros = self.number("q")
        try:
            return _EPOCH + timedelta(microseconds=micros)
        except OverflowError as error:
            raise _malformed(self._data, f"{micros} is no moment") from error

    def row(self) -> Row:
        """The values of a row."""
        return tuple(self._value() for _ in range(self.number("H")))

    def _value(self) -> Value:
        kind = self.take(1)
        if kind == b"n":
            return None
        if kind == b"u":
            return UNCHANGED
        if kind == b"t":
            # A database without an encoding (SQL_ASCII) holds any bytes; half surrogates stand for what is no UTF-8.
            return self.take(self.number("i")).decode("utf-8", "surrogateescape")
        raise _malformed(self._data, f"a value is of kind {kind!r}")

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self._at != len(self._data):
            raise _malformed(self._data, f"{len(self._data) - self._at} bytes are left over")


def parse(data: bytes) -> Message:
    """A message of the plugin.

    Raises:
        IntegrityError: it is cut short, has bytes left over, or is of another version of the protocol.
    """
    reader = _Reader(data)
    kind = reader.take(1)
    found = _body(kind, reader)
    if not isinstance(found, Other):
        reader.end()
    return found


def _body(kind: bytes, reader: _Reader) -> Message:
    match kind:
        case b"B":
            return Begin(reader.number("Q"), reader.moment(), reader.number("I"))
        case b"C":
            reader.take(1)
            return Commit(reader.number("Q"), reader.number("Q"), reader.moment())
        case b"R":
            return _relation(reader)
        case b"I":
            relation = reader.number("I")
            _expect(reader, b"N")
            return Change("insert", relation, reader.row())
        case b"U":
            relation = reader.number("I")
            mark, old = reader.take(1), None
            if mark in (b"K", b"O"):
                old, mark = reader.row(), reader.take(1)
            if mark != b"N":
                raise _malformed(kind, f"a row begins with {mark!r}")
            return Change("update", relation, reader.row(), old)
        case b"D":
            relation = reader.number("I")
            _expect(reader, b"K", b"O")
            return Change("delete", relation, None, reader.row())
        case b"T":
            count = reader.number("I")
            reader.take(1)
            return Truncate(tuple(reader.number("I") for _ in range(count)))
        case b"Y" | b"O" | b"M":
            return Other(kind.decode())
    raise _malformed(kind, "no such message in version 1 of the protocol")


def _relation(reader: _Reader) -> Relation:
    number, schema, name = reader.number("I"), reader.text(), reader.text()
    identity = reader.decode(reader.take(1))
    columns = tuple(
        Column(reader.number("B") == 1, reader.text(), reader.number("I"), reader.number("i"))
        for _ in range(reader.number("H"))
    )
    return Relation(number, schema, name, identity, columns)


def _expect(reader: _Reader, *marks: bytes) -> None:
    found = reader.take(1)
    if found not in marks:
        raise _malformed(found, f"a row begins with {found!r}")


def _malformed(data: bytes, what: str) -> IntegrityError:
    return IntegrityError(
        f"a replication message can't be read: {what}.",
        where=f"pgoutput message {data[:1]!r} of {len(data)} bytes",
        fix="Check the server's version (10 or newer) and report this.",
    )


def lsn_text(lsn: int) -> str:
    """A place in the log as PostgreSQL writes it, such as ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """What `lsn_text` wrote."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
