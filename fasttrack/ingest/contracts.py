"""One contract per stream: its JSON Schema, its version, and the head of its messages.

Imports nothing heavy: the gateway has it, too."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import orjson

from fasttrack.usecase.limits import limits
from fasttrack.usecase.streams import FieldContract, Stream

#: Confluent wire format: a zero byte and the schema's id, big-endian.
HEADER_BYTES = 5

#: RFC 3339 in UTC, at most microseconds.
TIMESTAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"


def header(schema_id: int) -> bytes:
    """The five bytes before a message's body: zero, then the schema id, big-endian (Confluent's wire format)."""
    return b"\x00" + schema_id.to_bytes(4, "big")


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


def partial_schema(stream: Stream, title: str = "event") -> dict[str, Any]:
    """The JSON Schema of what is known of an event that nobody sent yet: any field may be null or absent, not all."""
    fields = {name: field.model_copy(update={"nullable": True}) for name, field in stream.fields.items()}
    found = json_schema(stream.model_copy(update={"fields": fields}), title)
    return {name: part for name, part in found.items() if name != "required"} | {"minProperties": 1}


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
    if stream.encoding != "json":
        # Not for JSON: what was drained before there was a choice keeps its version.
        document["encoding"] = stream.encoding
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def keyed_by_text(stream: Stream) -> bool:
    """Whether the message key can be compared with its field: only strings and whole numbers have one spelling."""
    return stream.fields[stream.key].type in ("string", "integer")
