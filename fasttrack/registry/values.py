"""Python values in the form that PostgreSQL takes, and its rows by the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from psycopg2.extensions import cursor as Cursor

from fasttrack.errors import InvalidRequestError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def named_rows(cursor: Cursor) -> list[dict[str, Any]]:
    """What a query gave."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def clean(text: str) -> str:
    """`text` without what PostgreSQL can't store (NUL, lone surrogates), each replaced by a visible mark."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def jsonb(value: Any) -> str | None:
    """`value` as JSON text for a jsonb column; None stays null, NaN becomes null.

    Whatever a client sent may be in it: one request must not be able to make a whole batch fail.
    """
    if value is None:
        return None
    try:
        text = orjson.dumps(value, option=_OPTIONS, default=str).decode()
    except TypeError:
        return orjson.dumps(_cleaned(value), option=_OPTIONS, default=str).decode()
    if "\\u0000" in text:
        return orjson.dumps(_cleaned(value), option=_OPTIONS, default=str).decode()
    return text


def required(text: str, what: str) -> str:
    """`text`, if it has content that can be stored.

    Raises:
        InvalidRequestError: it is empty, blank, or has characters that can't be stored.
    """
    if not text.strip():
        raise InvalidRequestError(f"{what} is empty.", where=what, fix=f"Say {what}.")
    if clean(text) != text:
        raise InvalidRequestError(f"{what} has characters that can't be stored.", where=what, fix="Remove them.")
    return text


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    # orjson writes integers of up to 64 bits; a bigger one is kept as its digits.
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
