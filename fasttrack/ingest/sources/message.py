"""A source's record as a message: mapped to the contract's fields, coerced where that loses nothing, keyed, encoded.

Nothing is refused here. What doesn't fit its contract is sent as it is, and the drain, the only judge, makes a dead
letter of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import orjson

from fasttrack.errors import DataQualityError
from fasttrack.ingest.avrorow import record
from fasttrack.ingest.contracts import TIMESTAMP, header
from fasttrack.ingest.sources.source import Record
from fasttrack.usecase.sources import FilesSource, Source, StreamSource
from fasttrack.usecase.streams import FieldContract, Stream

#: The message header that tells whose record it is.
HEADER = "source"
_LONGEST_NAME = 100

_UTC = re.compile(TIMESTAMP)
_ZONED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,6})?)?\s?(Z|z|[+-]\d\d(:?\d\d)?)")
_INTEGER = re.compile(r"[+-]?\d{1,40}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to Kafka; `source` is the header that finds it again. A tombstone has no value."""

    value: bytes | None
    key: bytes | None
    partition: int
    source: bytes


def source_header(name: str, identity: str) -> bytes:
    """``<source>:<identity>``, the identity as its SHA-256 where both are long."""
    found = f"{name}:{identity}".encode("utf-8", "surrogateescape")
    if len(found) <= _LONGEST_NAME:
        return found
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name}:sha256:{digest}".encode()


def identity_of(header: bytes) -> str | None:
    """The identity that `source_header` was given; None if only its SHA-256 is left."""
    identity = header.decode("utf-8", "surrogateescape").partition(":")[2]
    return None if identity.startswith("sha256:") else identity


class Mapper:
    """Makes messages of a source's records.

    Args:
        name: the source's.
        source: its declaration.
        stream: the contract of its events.
        schema_id: the contract's id in the registry.
    """

    def __init__(self, name: str, source: Source, stream: Stream, schema_id: int) -> None:
        self._name, self._stream, self._schema_id = name, stream, schema_id
        self._as_is = isinstance(source, StreamSource) and source.value == "event"
        # Cells of a CSV file are text, whatever they mean; elsewhere a text is a text.
        self._text = isinstance(source, FilesSource) and source.format == "csv"
        self._paths = {
            field: source.fields.get(field, field) for field in stream.fields if field not in source.constants
        }
        self._constants = {field: fit(stream.fields[field], value, False) for field, value in source.constants.items()}

    def message(self, record: Record) -> Message:
        """The record as a message; as it is where it can't be read."""
        name = source_header(self._name, record.identity)
        if record.fields is None:
            return Message(record.raw, record.key, self._partition(record.key), name)
        event = self.event(record.fields)
        key = key_text(self._stream, event)
        return Message(encode(self._stream, self._schema_id, event), key, self._partition(key), name)

    def unparsable(self, record: Record) -> bool:
        """Whether the record's bytes are sent because it can't be read, and not because they are events already."""
        return record.fields is None and not self._as_is

    def event(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The event: a field that the record lacks is left out, what the contract doesn't ask for is too."""
        event = dict(self._constants)
        for field, path in self._paths.items():
            value = lookup(fields, path)
            if value is not _MISSING:
                event[field] = fit(self._stream.fields[field], value, self._text)
        return event

    def _partition(self, key: bytes | None) -> int:
        # As `plan.partitions` has it, so that a key's events keep their order whoever sends them.
        return zlib.crc32(key or b"") % self._stream.partitions


def encode(stream: Stream, schema_id: int, event: Mapping[str, Any]) -> bytes:
    """The message value: the registry's header, then the event."""
    try:
        text = orjson.dumps(event, default=_plain)
    except TypeError:
        # Whole numbers beyond 64 bits, and text that UTF-8 can't hold: for the drain to refuse, in full.
        text = json.dumps(event, default=_plain).encode()
    if stream.encoding == "json":
        return header(schema_id) + text
    try:
        return header(schema_id) + record(stream, event)
    except DataQualityError:
        # Avro can't write it. Text without a header is surely refused, and kept as it is.
        return text


def key_text(stream: Stream, event: Mapping[str, Any]) -> bytes | None:
    """The message key: the text of the key field; None where there is none."""
    value = event.get(stream.key)
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, float) and stream.fields[stream.key].type == "integer" and value.is_integer():
        value = int(value)
    return str(value).encode("utf-8", "surrogateescape")


def lookup(fields: Any, path: str) -> Any:
    """The value at a dotted path (a name that has dots itself comes first; lists by index)."""
    if isinstance(fields, Mapping) and path in fields:
        return fields[path]
    for part in path.split("."):
        if isinstance(fields, Mapping) and part in fields:
            fields = fields[part]
        elif isinstance(fields, list) and part.isdigit() and int(part) < len(fields):
            fields = fields[int(part)]
        else:
            return _MISSING
    return fields


def found(value: Any) -> bool:
    """Whether `lookup` found something."""
    return value is not _MISSING


def fit(contract: FieldContract, value: Any, text: bool) -> Any:
    """The value in the contract's type where that is obvious and loses nothing, else as it is.

    Args:
        contract: the field's.
        value: what the source has.
        text: the source knows nothing but text (CSV).
    """
    if isinstance(value, str):
        if text:
            return _parsed(contract, value)
        return _utc(value) if contract.type == "timestamp" else value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        # As the replay has it: not a number is no value. Infinity is one, which no contract takes.
        return None if math.isnan(value) and contract.nullable else str(value)
    return _plain(value)


def _parsed(contract: FieldContract, cell: str) -> Any:
    if cell == "" and contract.nullable and not _allows_empty(contract):
        return None
    word = cell.strip()
    if contract.type == "timestamp":
        return _utc(cell)
    if contract.type == "boolean":
        return _BOOLEANS.get(word.lower(), cell)
    if contract.type == "integer" and _INTEGER.fullmatch(word) and word.isascii():
        return int(word)
    if contract.type in ("integer", "number") and _NUMBER.fullmatch(word) and word.isascii():
        number = float(word)
        return number if math.isfinite(number) else cell
    return cell


def _allows_empty(contract: FieldContract) -> bool:
    if contract.type != "string":
        return False
    if contract.enum is not None:
        return "" in contract.enum
    return contract.pattern is None or re.fullmatch(contract.pattern, "") is not None


def _utc(text: str) -> str:
    """RFC 3339 in UTC of a time with an offset; anything else stays, also a time without one: nobody knows its zone."""
    if _UTC.fullmatch(text) or not _ZONED.fullmatch(text):
        return text
    try:
        return _moment(datetime.fromisoformat(text.replace("z", "Z")))
    except (ValueError, OverflowError):
        return text


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _plain(value: Any) -> Any:
    """A database's or a file's value as one that JSON has."""
    if isinstance(value, datetime):
        try:
            return _moment(value)
        except OverflowError:
            return value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes | bytearray | memoryview):
        # Bytes that are no UTF-8 become half surrogates, from which they can be had again.
        return bytes(value).decode("utf-8", "surrogateescape")
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, Mapping | list):
        return value
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value.adjusted() < 40 and value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else str(value)
