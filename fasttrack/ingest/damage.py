"""Damaged copies of good messages, so that the drain has dead letters to prove itself on."""

from __future__ import annotations

from typing import Any

import orjson

from fasttrack.ingest.contracts import HEADER_BYTES
from fasttrack.ingest.encode import header
from fasttrack.usecase.streams import FieldContract, Stream

KINDS = ("truncated", "wrong type", "out of range", "not JSON", "wrong schema id", "invalid UTF-8")

_NO_SCHEMA = 2**31 - 1


def damage(stream: Stream, value: bytes, kind: str) -> bytes:
    """A message like `value` that the stream's contract refuses.

    Args:
        stream: the contract.
        value: a good message, header included.
        kind: one of `KINDS`.
    """
    head, text = value[:HEADER_BYTES], value[HEADER_BYTES:]
    if kind == "truncated":
        return head + text[: len(text) // 2]
    if kind == "wrong type":
        return head + _with(text, stream.event_time, 12345)
    if kind == "out of range":
        return head + _out_of_range(stream, text)
    if kind == "not JSON":
        return head + b"<event>" + text[1:-1] + b"</event>"
    if kind == "wrong schema id":
        return header(_NO_SCHEMA) + text
    return head + text[:-1] + b"\xff\xfe" + text[-1:]


def _out_of_range(stream: Stream, text: bytes) -> bytes:
    # Numbers first: a value out of its range is a likelier fault than a string that is too long.
    for name, field in sorted(stream.fields.items(), key=lambda item: item[1].type == "string"):
        beyond = _beyond(field)
        if beyond is not None:
            return _with(text, name, beyond)
    return _with(text, stream.event_time, "2013-02-31T00:00:00Z")


def _beyond(field: FieldContract) -> Any:
    """A value of the right type outside the field's limits; None if it has none."""
    if field.maximum is not None:
        return field.maximum + max(1, abs(field.maximum))
    if field.minimum is not None:
        return field.minimum - max(1, abs(field.minimum))
    return "x" * (field.max_length + 1) if field.type == "string" else None


def _with(text: bytes, name: str, value: Any) -> bytes:
    return orjson.dumps(orjson.loads(text) | {name: value})
