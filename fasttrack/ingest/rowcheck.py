"""The precise check of one message: what it holds, or why it is refused.

This checker is the contract's meaning; the check in columns (`columncheck`) only ever accepts what this one accepts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from fasttrack.ingest.contracts import HEADER_BYTES, TIMESTAMP, keyed_by_text
from fasttrack.usecase.limits import INEXACT, Limits, limits
from fasttrack.usecase.streams import FieldContract, Stream

_SURROGATE = re.compile("[\ud800-\udfff]")
_TIMESTAMP = re.compile(TIMESTAMP)
_SHOWN = 60


@dataclass(frozen=True)
class Rejection:
    """Why a message is a dead letter.

    Attributes:
        reason: a short class of fault to group by, such as ``wrong type``.
        detail: the field and value concerned.
    """

    reason: str
    detail: str = ""


class Rejected(Exception):
    """Raised inside the check; `rejection` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.rejection = Rejection(reason, detail)


def framed(value: bytes | None, schema_ids: Collection[int], max_bytes: int) -> tuple[int, bytes]:
    """Take a message's header off: its schema id, and what follows.

    Raises:
        Rejected: there is nothing, too much, no header, or a schema that the stream doesn't have.
    """
    if not value:
        raise Rejected("empty", "the message has no value")
    if len(value) > max_bytes:
        raise Rejected("too large", f"{len(value)} bytes, allowed are {max_bytes}")
    if len(value) < HEADER_BYTES or value[0] != 0:
        raise Rejected("no schema header", f"starts with {value[:HEADER_BYTES].hex()}")
    schema_id = int.from_bytes(value[1:HEADER_BYTES], "big")
    if schema_id not in schema_ids:
        raise Rejected("unknown schema id", f"schema {schema_id} is not registered for this stream")
    return schema_id, value[HEADER_BYTES:]


class RowChecker:
    """Checks single messages of a stream; keeps nothing between them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._limits = {n: limits(f) for n, f in stream.fields.items() if f.type in ("integer", "number")}
        self._patterns = {n: re.compile(f.pattern) for n, f in stream.fields.items() if f.pattern is not None}
        self._decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_json)

    def check(self, value: bytes | None, key: bytes | None, schema_ids: Collection[int]) -> dict[str, Any]:
        """Decode one message.

        Args:
            value: the whole message value, header included.
            key: the message key.
            schema_ids: the registered schemas of this stream.

        Returns:
            A Python value for each field of the contract: None, str, int, float, bool or aware datetime.

        Raises:
            Rejected: the message breaks the contract.
        """
        _, body = framed(value, schema_ids, self._stream.max_bytes)
        return self.event(self._document(body), key)

    def event(self, document: Mapping[str, Any], key: bytes | None) -> dict[str, Any]:
        """Check a decoded message.

        Args:
            document: values by field, as in an event's JSON; timestamps may also be aware datetimes.
            key: the message key.

        Returns:
            As `check`.

        Raises:
            Rejected: the event breaks the contract.
        """
        for name in document:
            if name not in self._stream.fields:
                raise Rejected("unknown field", f"{_show(name)} is not in the contract")
        event = {name: self._field(name, field, document) for name, field in self._stream.fields.items()}
        if keyed_by_text(self._stream):
            text = str(event[self._stream.key])
            if key != text.encode():
                raise Rejected("key mismatch", f"the message key {_show(key)} is not {self._stream.key} {_show(text)}")
        return event

    def fields(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Check what is known of an event that nobody sent yet: what is null or left out need not be there.

        Args:
            document: values as in an event's JSON, by field.

        Returns:
            As `check`, for the fields that have a value.

        Raises:
            Rejected: a field is unknown, or its value breaks the contract.
        """
        for name in document:
            if name not in self._stream.fields:
                raise Rejected("unknown field", f"{_show(name)} is not in the contract")
        given = {name: value for name, value in document.items() if value is not None}
        return {name: self._field(name, self._stream.fields[name], given) for name in given}

    def _document(self, body: bytes) -> dict[str, Any]:
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise Rejected("invalid UTF-8", f"byte {error.start} of the text: {error.reason}") from error
        document = self._parse(text)
        if not isinstance(document, dict):
            raise Rejected("not an object", f"the text is {_show(text)}")
        return document

    def _parse(self, text: str) -> Any:
        if not text.strip(" \t\r\n"):
            raise Rejected("truncated JSON", "there is nothing after the header")
        try:
            return self._decoder.decode(text)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
            raise Rejected("truncated JSON" if cut else "not JSON", f"{error.msg} at character {error.pos}") from error
        except RecursionError as error:
            raise Rejected("not JSON", "nested too deeply") from error
        except ValueError as error:
            raise Rejected("out of range", str(error)) from error

    def _field(self, name: str, field: FieldContract, document: Mapping[str, Any]) -> Any:
        value = document.get(name)
        if value is None:
            if field.nullable:
                return None
            fault = "wrong type" if name in document else "missing field"
            raise Rejected(fault, f"{name} is null" if name in document else f"{name} is missing")
        if field.type == "string":
            return self._string(name, field, value)
        if field.type == "timestamp":
            return _timestamp(name, value)
        if field.type == "boolean":
            if not isinstance(value, bool):
                raise _wrong(name, field, value)
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(name, field, value)
        return _number(name, field, value, self._limits[name])

    def _string(self, name: str, field: FieldContract, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(name, field, value)
        if _SURROGATE.search(value):
            raise Rejected("invalid UTF-8", f"{name} holds half a surrogate pair")
        if len(value) > field.max_length:
            raise Rejected("out of range", f"{name} has {len(value)} characters, allowed are {field.max_length}")
        if field.enum is not None and value not in field.enum:
            raise Rejected("out of range", f"{name} is {_show(value)}, allowed are {', '.join(field.enum)}")
        pattern = self._patterns.get(name)
        if pattern is not None and pattern.fullmatch(value) is None:
            raise Rejected("out of range", f"{name} is {_show(value)}, which does not match {pattern.pattern}")
        return value


def _number(name: str, field: FieldContract, value: int | float, bounds: Limits) -> int | float:
    found: int | float
    if field.type == "integer":
        if isinstance(value, float) and not (value.is_integer() and abs(value) < INEXACT):
            raise _wrong(name, field, value)
        found = int(value)
    else:
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise Rejected("out of range", f"{name} is not a finite double")
    if not bounds.least <= found <= bounds.greatest:
        raise Rejected("out of range", f"{name} is {_show(value)}, allowed are {bounds.least} to {bounds.greatest}")
    return found


def _timestamp(name: str, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise Rejected("wrong type", f"{name} is {_show(value)}, not a timestamp")
    if _TIMESTAMP.fullmatch(value) is None:
        raise Rejected("wrong type", f"{name} is {_show(value)}, not like 2013-01-01T10:00:00Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise Rejected("out of range", f"{name} is {_show(value)}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise Rejected("duplicate field", f"{_show(next(n for n in names if names.count(n) > 1))} is given twice")
    return found


def _not_json(word: str) -> NoReturn:
    raise Rejected("not JSON", f"{word} is not a JSON value")


def _wrong(name: str, field: FieldContract, value: Any) -> Rejected:
    article = "an" if field.type == "integer" else "a"
    return Rejected("wrong type", f"{name} is {_show(value)}, not {article} {field.type}")


def _show(value: Any) -> str:
    """A value for a message: short, one line, always valid text."""
    shown = value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else None
    text = ascii(value)[: _SHOWN + 1] if shown is None else repr(value)
    return text[:_SHOWN] + "..." if len(text) > _SHOWN else text
