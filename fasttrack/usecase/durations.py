"""Durations as people write them: ``15m``, ``24h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

# Whole milliseconds: a fraction of a second has no exact floating-point number.
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PATTERN = re.compile(r"(\d+)(ms|s|m|h|d|w)")


def parse_duration(value: Any) -> timedelta:
    """Turn ``2h`` into a timedelta; a timedelta passes through.

    Raises:
        ValueError: for anything else, with an example of what is expected.
    """
    if isinstance(value, timedelta):
        return value
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a whole number and a unit, such as 15m, 24h or 7d")
    return timedelta(milliseconds=int(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """The shortest spelling: ``86400 s`` is ``1d`` only when it isn't a ``24h`` window by custom.

    Days are used from two days on, hours up to 48, so that ``24h`` and ``7d`` print as written.
    """
    whole = value // timedelta(milliseconds=1)
    for unit in ("d", "h", "m", "s"):
        size = _UNITS[unit]
        if whole % size == 0 and (unit != "d" or whole >= 2 * size):
            return f"{whole // size}{unit}"
    return f"{whole}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN.pattern}$", "examples": ["15m", "24h", "7d"]}),
]
