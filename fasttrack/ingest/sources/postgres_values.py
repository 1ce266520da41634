"""PostgreSQL's texts as Python values: the same for a row that is read and for one that is told by replication."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg2.extensions import STRINGARRAY

Convert = Callable[[str], Any]


def _boolean(text: str) -> bool:
    return text in ("t", "true")


def _binary(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


def _date(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        # infinity, and years that Python has not: the contract decides about the text.
        return text


def _timestamp(text: str) -> datetime | str:
    """A moment in UTC; one without a time zone is taken as UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


# By the type's oid, which never changes for built-in types.
_CONVERT: dict[int, Convert] = {
    16: _boolean,
    17: _binary,
    20: int,
    21: int,
    23: int,
    26: int,
    114: json.loads,
    700: float,
    701: float,
    1082: _date,
    1114: _timestamp,
    1184: _timestamp,
    1700: Decimal,
    2950: UUID,
    3802: json.loads,
}


def converter(type_oid: int, element_oid: int = 0) -> Convert:
    """What turns the text of a type into a value; a type that has no Python counterpart stays text.

    Args:
        type_oid: the type, or the one that a domain stands on.
        element_oid: of an array, its elements' type.
    """
    if not element_oid:
        return _CONVERT.get(type_oid, str)
    convert = _CONVERT.get(element_oid, str)

    def array(text: str) -> Any:
        return _each(STRINGARRAY(text, None), convert)

    return array


def _each(value: Any, convert: Convert) -> Any:
    if isinstance(value, list):
        return [_each(item, convert) for item in value]
    return None if value is None else convert(value)
