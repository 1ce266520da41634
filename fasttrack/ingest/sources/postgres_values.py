"""PostgreSQL's texts as Python values: the same for a row that is read and for one that is told by replication.

PostgreSQL takes documents that Python does not. No text is an error here: one that can't be read stays what it is, and
says why, so that a single value never holds up the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2.extensions import STRINGARRAY

Convert = Callable[[str], Any]

# Deeper documents are read by Python, but can't be written again: its stack is 1,000 calls.
_DEEPEST = 500
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class Unreadable(str):
    """A value's text, where Python has no value for it.

    Args:
        text: as the server writes it.
        why: what is wrong with it.
    """

    why: str

    def __new__(cls, text: str, why: str) -> Unreadable:
        """The text, with the reason beside it."""
        found = super().__new__(cls, text)
        found.why = why
        return found


def _document(text: str) -> Any:
    if _depth(text) > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} deep")
    return json.loads(text)


def _depth(text: str) -> int:
    """How deep a document is nested, exactly if that may be more than is allowed."""
    most = text.count("[") + text.count("{")
    if most <= _DEEPEST:
        return most
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in "]}":
            depth -= 1
    return deepest


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
    114: _document,
    700: float,
    701: float,
    1082: _date,
    1114: _timestamp,
    1184: _timestamp,
    1700: Decimal,
    2950: UUID,
    3802: _document,
}


@cache
def converter(type_oid: int, element_oid: int = 0) -> Convert:
    """What turns the text of a type into a value, `Unreadable` if it can't; a type without counterpart stays text.

    Args:
        type_oid: the type, or the one that a domain stands on.
        element_oid: of an array, its elements' type.
    """
    convert = _CONVERT.get(element_oid or type_oid, str)
    if not element_oid:
        return _guarded(convert) if convert is not str else convert

    def array(text: str) -> Any:
        return _each(STRINGARRAY(text, None), convert)

    return _guarded(array)


def _guarded(convert: Convert) -> Convert:
    def converted(text: str) -> Any:
        try:
            return convert(text)
        except (ValueError, ArithmeticError, RecursionError, psycopg2.Error) as error:
            # Python's words on large numbers go on with advice for programmers.
            return Unreadable(text, f"{error}".partition(";")[0] or type(error).__name__)

    return converted


def _each(value: Any, convert: Convert) -> Any:
    if isinstance(value, list):
        return [_each(item, convert) for item in value]
    return None if value is None else convert(value)
