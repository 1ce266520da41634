"""JSON as RFC 8259 has it: duplicate keys, NaN, Infinity, 1e999, lone surrogates and deep nesting are refused."""

from __future__ import annotations

import json
from typing import Any

import orjson

from fasttrack.errors import InvalidRequestError


class _DuplicateKeyError(ValueError):
    """Says which key came twice; only seen inside this module."""


def parse(body: bytes, *, depth: int) -> Any:
    """The value of a JSON body.

    Args:
        body: UTF-8 text.
        depth: the deepest nesting of arrays and objects that is allowed.

    Raises:
        InvalidRequestError: for anything that isn't strict JSON, with the place and what to do.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _explained(body, error) from error
    _check(value, depth)
    try:
        # orjson keeps the last of two equal keys without a word; two readers of one body must never differ.
        json.loads(body, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        raise InvalidRequestError(
            f"key {str(error)!r} is given twice.", where="body", fix="Give each key once."
        ) from error
    return value


def _explained(body: bytes, error: orjson.JSONDecodeError) -> InvalidRequestError:
    where = f"body, line {error.lineno}, column {error.colno}"
    if not body.strip():
        return InvalidRequestError("the body is empty.", where="body", fix="Send a JSON object.")
    if "depth" in error.msg:
        return InvalidRequestError("the JSON is nested too deep.", where="body", fix="Flatten it.")
    near = body[max(0, error.pos - 1) : error.pos + 9]
    if "infinity" in error.msg or b"NaN" in near or b"Infinity" in near:
        return InvalidRequestError(
            "NaN and Infinity are not JSON numbers.",
            where=where,
            fix="Send null, or leave the value out, where it is missing.",
        )
    return InvalidRequestError(
        f"the body is not JSON: {error.msg.split(':')[0]}.", where=where, fix="Correct the JSON text."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name[:64] for name in names if names.count(name) > 1))
    return found


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        # PostgreSQL can't store it, and C code behind us would cut the string there.
        if "\0" in value:
            raise InvalidRequestError("a string holds the NUL character.", where="body", fix="Remove it.")
    elif isinstance(value, (dict, list)):
        if depth == 0:
            raise InvalidRequestError("the JSON is nested too deep.", where="body", fix="Flatten it.")
        if isinstance(value, dict):
            for key in value:
                _check(key, depth - 1)
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, (str, dict, list)):
                _check(item, depth - 1)
