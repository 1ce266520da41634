"""One contract per stream: its JSON Schema, its Arrow schema, its version, and the limits both checkers share."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from fasttrack.lake.schemas import event_schema
from fasttrack.usecase.streams import FieldContract, Stream

#: Confluent wire format: a zero byte and the schema's id, big-endian.
HEADER_BYTES = 5

#: RFC 3339 in UTC, at most microseconds.
TIMESTAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"

INT64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Limits:
    """The least and greatest value of a numeric field, in the field's own type so that no comparison rounds."""

    least: int | float
    greatest: int | float


def limits(field: FieldContract) -> Limits:
    """The bounds of an ``integer`` (never wider than int64) or ``number`` field."""
    low, high = field.minimum, field.maximum
    if field.type == "integer":
        least = INT64[0] if low is None else max(INT64[0], math.ceil(low))
        return Limits(least, INT64[1] if high is None else min(INT64[1], math.floor(high)))
    return Limits(-math.inf if low is None else float(low), math.inf if high is None else float(high))


def arrow_schema(stream: Stream) -> pa.Schema:
    """The contract's fields as Arrow columns (string, int64, float64, bool, timestamp[us, UTC])."""
    return event_schema(stream)


def json_schema(stream: Stream, title: str = "event") -> dict[str, Any]:
    """The contract as a JSON Schema (2020-12), for the schema registry.

    A nullable field may be null or absent; a field that the contract doesn't name is refused.
    """
    required = [name for name, field in stream.fields.items() if not field.nullable]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {name: _property(field) for name, field in stream.fields.items()},
        "required": required,
        "additionalProperties": False,
    }


def _property(field: FieldContract) -> dict[str, Any]:
    kind = "string" if field.type == "timestamp" else field.type
    found: dict[str, Any] = {"type": [kind, "null"] if field.nullable else kind}
    if field.description:
        found["description"] = field.description
    if field.type == "timestamp":
        found |= {"format": "date-time", "pattern": f"^{TIMESTAMP}$"}
    elif field.type == "string":
        found["maxLength"] = field.max_length
        if field.enum is not None:
            found["enum"] = [*field.enum, None] if field.nullable else list(field.enum)
        if field.pattern is not None:
            found["pattern"] = f"^(?:{field.pattern})$"
    elif field.type in ("integer", "number"):
        bounds = limits(field)
        if math.isfinite(bounds.least):
            found["minimum"] = bounds.least
        if math.isfinite(bounds.greatest):
            found["maximum"] = bounds.greatest
    return found


def contract_version(stream: Stream) -> str:
    """Twelve hex digits that change whenever what the contract accepts changes."""
    document: dict[str, Any] = {
        "schema": json_schema(stream),
        "key": stream.key,
        "id": stream.event_id,
        "time": stream.event_time,
    }
    document["max_bytes"] = stream.max_bytes
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def keyed_by_text(stream: Stream) -> bool:
    """Whether the message key can be compared with its field: only strings and whole numbers have one spelling."""
    return stream.fields[stream.key].type in ("string", "integer")


_UNSAFE = re.compile(r"[\\^$.]|\(\?|\[\[|\[:|\{(?![0-9]+(,[0-9]*)?\})|[+*?}][+*]|\[\]|--|&&|\|\||~~")


def portable(pattern: str) -> bool:
    """Whether Arrow's regular expressions (RE2) and Python's surely agree on `pattern`.

    Escapes, anchors, dots, look-around, set operations and possessive repeats differ between the two, so patterns
    with any of them are left to Python's.
    """
    return pattern.isascii() and pattern.isprintable() and _UNSAFE.search(pattern) is None
