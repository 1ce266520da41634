"""A contract in Avro: its schema for the registry, and the precise check of one message.

A message is decoded by the schema that it names (its writer's), field by field, and then checked by the contract as a
JSON event is. Decoding is done here by hand because libraries are lax where a dead letter is due: bytes after the
record, a boolean of 7, a number of eleven bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fasttrack.ingest.rowcheck import Rejected, Rejection, RowChecker, framed
from fasttrack.usecase.streams import FieldContract, Stream

_MICROS = "timestamp-micros"
_TYPES: dict[str, Any] = {
    "string": "string",
    "integer": "long",
    "number": "double",
    "boolean": "boolean",
    "timestamp": {"type": "long", "logicalType": _MICROS},
}
#: For each type of a contract, what a writer may have written: the same, or what Avro promotes to it.
_READS = {
    "string": {"string"},
    "integer": {"long", "int"},
    "number": {"double", "float", "long", "int"},
    "boolean": {"boolean"},
    "timestamp": {_MICROS},
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT32 = 2**31


def avro_schema(stream: Stream) -> dict[str, Any]:
    """The contract as an Avro record, for the schema registry.

    It says names, types and which fields may be null; limits are for the checks alone. The record is always called
    ``event``: Avro's readers take another name for another record.
    """
    return {"type": "record", "name": "event", "fields": [_field(n, f) for n, f in stream.fields.items()]}


def _field(name: str, field: FieldContract) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "type": _TYPES[field.type]}
    if field.nullable:
        found |= {"type": ["null", found["type"]], "default": None}
    return found | ({"doc": field.description} if field.description else {})


@dataclass(frozen=True)
class WrittenField:
    """A field as its writer's schema has it.

    Attributes:
        name: the same as in the contract.
        kind: ``boolean``, ``int``, ``long``, ``float``, ``double``, ``string`` or ``timestamp-micros``.
        null: which branch of its union is null, 0 or 1; None if it is no union.
    """

    name: str
    kind: str
    null: int | None


def written_fields(stream: Stream, text: str) -> tuple[WrittenField, ...]:
    """The fields of a writer's schema in the order in which they are written.

    Args:
        stream: the contract that reads them.
        text: the schema, as the registry has it.

    Raises:
        Rejected: the contract can't read what this schema writes.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise Rejected("unreadable schema", f"the writer's schema is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("type") != "record":
        raise Rejected("unreadable schema", "the writer's schema is no Avro record")
    found = tuple(_written(item) for item in document["fields"])
    for field in found:
        contract = stream.fields.get(field.name)
        if contract is None:
            raise Rejected("unknown field", f"{field.name}, of the writer's schema, is not in the contract")
        if field.kind not in _READS[contract.type]:
            raise Rejected("unreadable schema", f"{field.name} was written as {field.kind}, not as {contract.type}")
    return found


def _written(item: dict[str, Any]) -> WrittenField:
    kind, null = item["type"], None
    if isinstance(kind, list):
        if len(kind) != 2 or kind.count("null") != 1:
            raise Rejected("unreadable schema", f"{item['name']} was written as a union of other than null and a type")
        null = kind.index("null")
        kind = kind[1 - null]
    if isinstance(kind, dict):
        logical = kind.get("logicalType") if kind["type"] in ("int", "long") else None
        kind = _MICROS if (kind["type"], logical) == ("long", _MICROS) else logical or kind["type"]
    return WrittenField(item["name"], str(kind), null)


class AvroRowChecker:
    """Checks single messages of a stream; keeps what it knows of writers' schemas."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rows = RowChecker(stream)
        self._writers: dict[str, tuple[WrittenField, ...] | Rejection] = {}

    def check(self, value: bytes | None, key: bytes | None, schemas: Mapping[int, str]) -> dict[str, Any]:
        """Decode one message.

        Args:
            value: the whole message value, header included.
            key: the message key.
            schemas: the registered schemas of this stream by id.

        Returns:
            As `RowChecker.check`; a field that the writer's schema lacks is None.

        Raises:
            Rejected: the message breaks the contract.
        """
        schema_id, body = framed(value, schemas, self._stream.max_bytes)
        return self._rows.event(decode(body, self.writer(schemas[schema_id])), key)

    def writer(self, text: str) -> tuple[WrittenField, ...]:
        """`written_fields`, kept."""
        if text not in self._writers:
            try:
                self._writers[text] = written_fields(self._stream, text)
            except Rejected as error:
                self._writers[text] = error.rejection
        found = self._writers[text]
        if isinstance(found, Rejection):
            raise Rejected(found.reason, found.detail)
        return found


def decode(body: bytes, fields: tuple[WrittenField, ...]) -> dict[str, Any]:
    """The values of a record, timestamps as datetimes.

    Raises:
        Rejected: the bytes are not such a record, whole and nothing else.
    """
    cursor = _Cursor(body)
    found: dict[str, Any] = {}
    for field in fields:
        cursor.name = field.name
        if field.null is not None:
            branch = cursor.long()
            if branch not in (0, 1):
                raise Rejected("wrong union index", f"{field.name} is of branch {branch}, there are 2")
            if branch == field.null:
                found[field.name] = None
                continue
        found[field.name] = _READERS[field.kind](cursor)
    if cursor.at < len(body):
        raise Rejected("trailing bytes", f"{len(body) - cursor.at} bytes follow the record")
    return found


class _Cursor:
    """Reads Avro's primitive types from `body`; `name` is the field that errors are about."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at, self.name = body, 0, ""

    def take(self, count: int) -> bytes:
        if count > len(self.body) - self.at:
            raise Rejected("truncated Avro", f"the record ends within {self.name}")
        self.at += count
        return self.body[self.at - count : self.at]

    def long(self) -> int:
        found = shift = 0
        while True:
            byte = self.take(1)[0]
            found |= (byte & 0x7F) << shift
            shift += 7
            # The tenth byte has room for the last of 64 bits.
            if found >= 2**64 or (shift == 70 and byte & 0x80):
                raise Rejected("not Avro", f"{self.name} holds a number of more than 64 bits")
            if not byte & 0x80:
                return (found >> 1) ^ -(found & 1)

    def int32(self) -> int:
        found = self.long()
        if not -_INT32 <= found < _INT32:
            raise Rejected("not Avro", f"{self.name} is {found}, which is no int")
        return found

    def boolean(self) -> bool:
        byte = self.take(1)[0]
        if byte > 1:
            raise Rejected("not Avro", f"{self.name} is a boolean of {byte}")
        return byte == 1

    def single(self) -> float:
        return float(struct.unpack("<f", self.take(4))[0])

    def double(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def string(self) -> str:
        size = self.long()
        if size < 0:
            raise Rejected("not Avro", f"{self.name} is a string of {size} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise Rejected("invalid UTF-8", f"byte {error.start} of {self.name}: {error.reason}") from error

    def moment(self) -> datetime:
        micros = self.long()
        try:
            return _EPOCH + timedelta(microseconds=micros)
        except OverflowError as error:
            raise Rejected("out of range", f"{self.name} is {micros} microseconds from 1970") from error


_READERS: dict[str, Callable[[_Cursor], Any]] = {
    "boolean": _Cursor.boolean,
    "int": _Cursor.int32,
    "long": _Cursor.long,
    "float": _Cursor.single,
    "double": _Cursor.double,
    "string": _Cursor.string,
    _MICROS: _Cursor.moment,
}
