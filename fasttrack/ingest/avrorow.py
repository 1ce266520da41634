"""One event as an Avro record, without Arrow: the gateway, which has none, sends events too."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fasttrack.errors import DataQualityError
from fasttrack.ingest.contracts import TIMESTAMP
from fasttrack.usecase.limits import INEXACT
from fasttrack.usecase.streams import FieldContract, Stream

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def record(stream: Stream, event: Mapping[str, Any]) -> bytes:
    """One event as a record, as `avro.avro_schema` has it and as `avroencode.records` writes it.

    Args:
        stream: the contract.
        event: values as in an event's JSON, by field; what is left out is null.

    Raises:
        DataQualityError: a value is not of its field's type, so that Avro can't write it, or isn't in the contract.
    """
    if extra := set(event) - set(stream.fields):
        raise DataQualityError(f"{sorted(extra)[0]!r} is not in the contract.", where="event", fix="Leave it out.")
    return b"".join(_field(name, field, event.get(name)) for name, field in stream.fields.items())


def _field(name: str, field: FieldContract, value: Any) -> bytes:
    if field.nullable and isinstance(value, float) and not math.isfinite(value):
        value = None
    if value is None and field.nullable:
        return b"\x00"
    try:
        found = _value(field, value)
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise DataQualityError(f"{error}.", where=f"field {name}", fix=f"Give a {field.type}.") from error
    return b"\x02" + found if field.nullable else found


def _value(field: FieldContract, value: Any) -> bytes:
    """A value's bytes, if a JSON event may have it for its type: 1 is no moment, and true no number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.type == "boolean" and isinstance(value, bool):
        return b"\x01" if value else b"\x00"
    if field.type == "string" and isinstance(value, str):
        text = value.encode()
        return _varint(len(text)) + text
    if field.type == "timestamp" and isinstance(value, str) and re.fullmatch(TIMESTAMP, value):
        return _varint((datetime.fromisoformat(value) - _EPOCH) // _MICROSECOND)
    if field.type == "number" and number:
        # The nearest double, as the check of JSON takes it.
        return struct.pack("<d", float(value))
    whole = number and int(value) == value and (isinstance(value, int) or abs(value) < INEXACT)
    if field.type == "integer" and whole:
        return _varint(int(value))
    raise TypeError(f"{ascii(value)[:60]} is no {field.type}")


def _varint(number: int) -> bytes:
    """A whole number of 64 bits as Avro's zigzag varint."""
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"{number} is beyond 64 bits")
    zigzag = (number << 1) ^ (number >> 63)
    found = bytearray()
    while zigzag > 0x7F:
        found.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    found.append(zigzag)
    return bytes(found)
