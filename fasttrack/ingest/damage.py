"""Damaged copies of good messages, so that the drain has dead letters to prove itself on."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pyarrow as pa

from fasttrack.ingest.avro import avro_schema, decode, written_fields
from fasttrack.ingest.avroencode import records
from fasttrack.ingest.contracts import HEADER_BYTES, header
from fasttrack.lake.schemas import MOMENT, field_type
from fasttrack.usecase.limits import INT64
from fasttrack.usecase.streams import FieldContract, Stream

KINDS = ("truncated", "wrong type", "out of range", "not JSON", "wrong schema id", "invalid UTF-8")
AVRO_KINDS = ("truncated", "trailing bytes", "out of range", "not Avro", "wrong schema id", "invalid UTF-8")

_NO_SCHEMA = 2**31 - 1
_MARK = "\x00\x01 not UTF-8 \x01\x00"


def kinds(stream: Stream) -> tuple[str, ...]:
    """The kinds of damage that messages of a stream can have."""
    return AVRO_KINDS if stream.encoding == "avro" else KINDS


def damage(stream: Stream, value: bytes, kind: str) -> bytes:
    """A message like `value` that the stream's contract refuses.

    Args:
        stream: the contract.
        value: a good message, header included.
        kind: one of `kinds`.
    """
    head, text = value[:HEADER_BYTES], value[HEADER_BYTES:]
    if kind == "truncated":
        return head + text[: len(text) // 2]
    if kind == "wrong schema id":
        return header(_NO_SCHEMA) + text
    if stream.encoding == "avro":
        return head + _damaged_record(stream, text, kind)
    if kind == "wrong type":
        return head + _with(text, stream.event_time, 12345)
    if kind == "out of range":
        return head + _out_of_range(stream, text)
    if kind == "not JSON":
        return head + b"<event>" + text[1:-1] + b"</event>"
    return head + text[:-1] + b"\xff\xfe" + text[-1:]


def _out_of_range(stream: Stream, text: bytes) -> bytes:
    name, beyond = _first_beyond(stream)
    return _with(text, name or stream.event_time, beyond if name else "2013-02-31T00:00:00Z")


def _first_beyond(stream: Stream) -> tuple[str, Any]:
    """A field with limits, and a value outside them; an empty name if no field has any."""
    # Numbers first: a value out of its range is a likelier fault than a string that is too long.
    for name, field in sorted(stream.fields.items(), key=lambda item: item[1].type == "string"):
        beyond = _beyond(field)
        if beyond is not None:
            return name, beyond
    return "", None


def _beyond(field: FieldContract) -> Any:
    """A value of the right type outside the field's limits; None if it has none."""
    for bound, away in ((field.maximum, 1), (field.minimum, -1)):
        if bound is not None:
            found = bound + away * max(1, abs(bound))
            if field.type == "number" or INT64[0] <= found <= INT64[1]:
                return found
    return "x" * (field.max_length + 1) if field.type == "string" else None


def _with(text: bytes, name: str, value: Any) -> bytes:
    return orjson.dumps(orjson.loads(text) | {name: value})


def _damaged_record(stream: Stream, body: bytes, kind: str) -> bytes:
    if kind == "trailing bytes":
        return body + b"\x00"
    if kind == "not Avro":
        # A number that never ends; every event has its time in it.
        return b"\xff" * len(body)
    name, value = _first_beyond(stream)
    if kind == "invalid UTF-8":
        name, value = next((n for n, field in stream.fields.items() if field.type == "string"), ""), _MARK
        if not name:
            return b"\xff" * len(body)
    event = decode(body, written_fields(stream, json.dumps(avro_schema(stream))))
    columns = {n: pa.array([event[n]], field_type(field)) for n, field in stream.fields.items()}
    if name:
        columns[name] = pa.array([value], field_type(stream.fields[name]))
    else:
        columns[stream.event_time] = pa.array([INT64[1]], pa.int64()).cast(MOMENT)
    found: bytes = records(stream, pa.table(columns))[0].as_py()
    return found.replace(_MARK.encode(), b"\xff" * len(_MARK))
