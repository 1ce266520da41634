"""One JSON object, read strictly: from a file's line and from a message alike."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def document(text: bytes) -> dict[str, Any] | None:
    """The JSON object (RFC 8259) in a text; None if it holds anything else, or a name twice.

    Whole numbers keep all their digits.
    """
    try:
        # Not orjson: it rounds whole numbers beyond 64 bits, and takes the last of two fields of one name.
        found = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
